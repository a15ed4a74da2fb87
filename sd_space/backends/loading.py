"""Loads the model that the settings name, and builds an engine over it."""

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sd_space.backends.stored_widths import read_width, store_width
from sd_space.devices import Device, DeviceState
from sd_space.engine.outlook import Outlook
from sd_space.errors import ModelUnavailable
from sd_space.model.lean_imports import import_lean
from sd_space.request import GenerationRequest
from sd_space.runtime_errors import is_out_of_memory
from sd_space.schema import Stage
from sd_space.served_model import Defaults
from sd_space.settings import WIDTHS, Settings

if TYPE_CHECKING:
    from sd_space.engine.denoiser import Denoiser
    from sd_space.engine.engine import Engine
    from sd_space.model.pipeline import LoadedPipeline

_DONE = object()
REPRODUCIBLE_WIDTH = 4  # not measured: another width at the next start would change the pixels


def load(
    settings: Settings,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    on_progress: Callable[[str], None] = lambda detail: None,
) -> "LoadedPipeline":
    """Imports the libraries and loads the model, in the calling thread. Raises ModelUnavailable."""
    on_stage(Stage.IMPORTING)
    import_libraries()
    from sd_space.model.pipeline import load_pipeline
    from sd_space.model.spec import PipelineSpec, detect_hardware

    on_stage(Stage.LOADING)
    return load_pipeline(PipelineSpec.from_settings(settings, detect_hardware()), on_progress=on_progress)


def import_libraries() -> None:
    """Imports torch and transformers, and keeps them from chatting. Raises ModelUnavailable.

    torch reads settings of its own when it is imported, and raises what it likes at what it does not know.
    """
    from sd_space.model.hub_errors import VISITORS_SENTENCE

    try:
        import_lean()
        import transformers
    except Exception as error:
        is_set = [name for name in sorted(os.environ) if name.startswith(("TORCH_", "PYTORCH_"))]
        fix = f"correct {' or '.join(is_set)} or leave it out" if is_set else "install requirements.txt anew"
        hint = f"PyTorch and transformers cannot be imported ({type(error).__name__}); {fix}."
        raise ModelUnavailable(VISITORS_SENTENCE, hint) from error
    transformers.utils.logging.set_verbosity_error()  # importing diffusers makes it warn of optional packages


def has_nvidia_driver() -> bool:
    """Whether CUDA devices can be there; known before torch is imported."""
    return os.path.exists("/dev/nvidiactl")


def num_gpus() -> int:
    """How many CUDA devices this process sees; imports torch."""
    import torch

    return torch.cuda.device_count()


def device_of(loaded: "LoadedPipeline", engine: "Engine") -> Device:
    """The device as it draws now."""
    info, profile = loaded.info, loaded.placement.profile
    return Device(info.device, DeviceState.READY, _device_name(info.device), profile.name, engine.width)


def _device_name(device: str) -> str:
    """A GPU's own, such as "NVIDIA L4"; a CPU goes by its kind and how many threads are used."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


class IdleWork(Iterator[None]):
    """Steps of work for an idle device: the engine's `width` is measured, then what it has drawn made faster.

    Ends when there is nothing to do, and goes on when that has changed.
    """

    def __init__(self, width: Iterator[None], improve: Callable[[], Iterator[None]]):
        self.width = width
        self._improve = improve
        self._improving: Iterator[None] = iter(())

    def __next__(self) -> None:
        for work in (self.width, self._improving):
            if next(work, _DONE) is not _DONE:
                return
        self._improving = self._improve()
        next(self._improving)


def build_engine(
    loaded: "LoadedPipeline", settings: Settings, on_stage: Callable[[Stage], None] = lambda stage: None
) -> "Engine":
    """The engine over a loaded model: safety screen tested, width measured. Raises SafetyCheckFailed."""
    engine, measuring = assemble_engine(loaded, settings, on_stage, stored=False)
    for _ in measuring.width:
        pass
    return engine


def assemble_engine(
    loaded: "LoadedPipeline",
    settings: Settings,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    stored: bool = True,
) -> tuple["Engine", IdleWork]:
    """The engine, safety screen tested, and what an idle device has to do for it.

    With `stored`, nothing is left to measure where an earlier start has. Raises SafetyCheckFailed, or ModelUnavailable
    where not even one picture fits.
    """
    from sd_space.engine.calibration import PROBE_SIZE, is_step_short
    from sd_space.engine.denoiser import Denoiser
    from sd_space.engine.engine import Engine
    from sd_space.engine.safety import SafetyScreen, fit_latent_rgb
    from sd_space.engine.step_times import StepTimes

    on_stage(Stage.CHECKING)
    pipeline, placement = loaded.pipeline, loaded.placement
    most = placement.profile.max_pictures or sys.maxsize
    probe_size = PROBE_SIZE
    width = settings.max_batch_size or (REPRODUCIBLE_WIDTH if settings.reproducible else None)
    if placement.jax:  # each size is a program of its own, and one for other calls would serve nobody
        width, probe_size = width or placement.jax.num_devices, sys.maxsize
    width = min(width, most) if width else None
    fixed_rows = 2 * width if settings.reproducible and width else None
    decode = placement.jax.decode if placement.jax else None
    denoiser = Denoiser(pipeline, fixed_rows, placement.fall_back, placement.unet_runner, settings.turbo, decode)
    screen = SafetyScreen(
        pipeline.safety_checker,
        pipeline.feature_extractor,
        fit_latent_rgb(denoiser.decode_in_float32, denoiser.latent_channels),
        loaded.missing_checker_tensors,
    )
    on_stage(Stage.WARMING_UP)
    request, times = replace(typical_request(loaded.info.defaults), num_images_per_prompt=1), StepTimes()
    with _saying_that_nothing_fits():
        # ZeroGPU's width is fixed, and its visitors pay for each second.
        is_short = settings.backend == "zerogpu" or is_step_short(denoiser, request, times, size=probe_size)
    key = _width_key(loaded) if stored else None
    known = width or (read_width(key) if key else None) or (None if is_short else 1)
    engine = Engine(
        denoiser,
        screen,
        min(known or 1, most),
        times,
        most_pictures=lambda: placement.profile.max_pictures,
        beside=lambda: placement.profile.recorded_steps,  # the only one with memory for both
    )
    improve = (lambda: iter(())) if settings.reproducible else placement.unet_runner.improve
    if known:
        return engine, IdleWork(iter(()), improve)
    return engine, IdleWork(_measure(engine, denoiser, request, tuple(w for w in WIDTHS if w <= most), key), improve)


def _measure(
    engine: "Engine", denoiser: "Denoiser", request: GenerationRequest, widths: tuple[int, ...], key: str | None
) -> Iterator[None]:
    """Measures the engine's width, and stores it under `key`."""
    from sd_space.engine.calibration import measure_widths

    with _saying_that_nothing_fits():
        engine.batcher.width = yield from measure_widths(denoiser, request, engine.times, widths)
    if key:
        store_width(key, engine.width)


@contextlib.contextmanager
def _saying_that_nothing_fits() -> Iterator[None]:
    from sd_space.model.hub_errors import VISITORS_SENTENCE

    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        hint = "Not even one picture fits into the device's memory; set SD_SPACE_MODEL to a smaller model."
        raise ModelUnavailable(VISITORS_SENTENCE, hint) from error


def _width_key(loaded: "LoadedPipeline") -> str:
    """Names all that a width depends on."""
    import torch

    info, device = loaded.info, _device_name(loaded.info.device)
    parts = (device, info.model, info.revision, info.dtype, info.runtime, info.memory_profile, torch.__version__)
    return "; ".join(map(str, parts))


def make_outlook(loaded: "LoadedPipeline") -> Outlook:
    """The outlook for requests with the model's default values."""
    from sd_space.engine.schedules import NoiseSchedules

    request = typical_request(loaded.info.defaults)
    return Outlook(request, NoiseSchedules(loaded.pipeline.scheduler.config).num_timesteps(request))


def typical_request(defaults: Defaults) -> GenerationRequest:
    """A request with the model's default values."""
    return GenerationRequest(
        prompt="",
        negative_prompt="",
        num_images_per_prompt=defaults.num_images_per_prompt,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        seed=0,
        width=defaults.width,
        height=defaults.height,
        scheduler=defaults.scheduler,
    )
