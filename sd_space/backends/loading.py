"""Loads the model that the settings name, and builds an engine over it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sd_space.errors import ModelUnavailable
from sd_space.runtime_errors import is_out_of_memory
from sd_space.schema import Defaults, GenerationRequest, Stage
from sd_space.settings import WIDTHS, Settings

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine
    from sd_space.model.pipeline import LoadedPipeline

REPRODUCIBLE_WIDTH = 4  # not measured: another width at the next start would change the pixels


def load(
    settings: Settings,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    on_progress: Callable[[str], None] = lambda detail: None,
) -> "LoadedPipeline":
    """Imports the libraries and loads the model, in the calling thread. Raises ModelUnavailable."""
    on_stage(Stage.IMPORTING)
    import transformers

    transformers.utils.logging.set_verbosity_error()  # importing diffusers makes it warn of optional packages
    from sd_space.model.pipeline import load_pipeline
    from sd_space.model.spec import PipelineSpec, detect_hardware

    on_stage(Stage.LOADING)
    return load_pipeline(PipelineSpec.from_settings(settings, detect_hardware()), on_progress=on_progress)


def num_gpus() -> int:
    """How many CUDA devices this process sees; imports torch."""
    import torch

    return torch.cuda.device_count()


def build_engine(
    loaded: "LoadedPipeline", settings: Settings, on_stage: Callable[[Stage], None] = lambda stage: None
) -> "Engine":
    """The engine over a loaded model: safety screen tested, width measured. Raises SafetyCheckFailed."""
    from sd_space.engine.calibration import calibrate
    from sd_space.engine.denoiser import Denoiser
    from sd_space.engine.engine import Engine
    from sd_space.engine.safety import SafetyScreen, fit_latent_rgb
    from sd_space.model.hub_errors import VISITORS_SENTENCE

    on_stage(Stage.CHECKING)
    pipeline, placement = loaded.pipeline, loaded.placement
    width = settings.max_batch_size or (REPRODUCIBLE_WIDTH if settings.reproducible else None)
    most = placement.profile.max_pictures
    width = min(width, most) if width and most else width
    fixed_rows = 2 * width if settings.reproducible and width else None
    denoiser = Denoiser(pipeline, fixed_rows, placement.fall_back, placement.unet_runner, settings.turbo)
    screen = SafetyScreen(
        pipeline.safety_checker,
        pipeline.feature_extractor,
        fit_latent_rgb(denoiser.decode_latents, denoiser.latent_channels),
        loaded.missing_checker_tensors,
    )
    on_stage(Stage.WARMING_UP)
    widths = tuple(sorted({1, width})) if width else tuple(w for w in WIDTHS if w <= (most or w))
    try:
        measured_width, times = calibrate(denoiser, _typical_request(loaded.info.defaults), widths=widths)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        hint = "Not even one picture fits into the device's memory; set SD_SPACE_MODEL to a smaller model."
        raise ModelUnavailable(VISITORS_SENTENCE, hint) from error
    return Engine(denoiser, screen, width or measured_width, times)


def _typical_request(defaults: Defaults) -> GenerationRequest:
    """One picture with the model's default values."""
    return GenerationRequest(
        prompt="",
        negative_prompt="",
        num_images_per_prompt=1,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        seed=0,
        width=defaults.width,
        height=defaults.height,
        scheduler=defaults.scheduler,
    )
