"""What the claims about CUDA are checked on: a real device, or where there is none the pretended one."""

import contextlib
import gc
import warnings
from collections.abc import Iterator

import diffusers
import torch

from sd_space.model.pipeline import LoadedPipeline, fit_pipeline
from sd_space.model.spec import PipelineSpec, detect_hardware
from sd_space.settings import Settings
from sd_space.tools import v1_4_random

from .pretend_cuda import Pretended
from .tiny_models import make_pipeline


class Gpu:
    """Loads v1-4 with random weights on a real device, and a small model of its shape on the pretended one."""

    def __init__(self, pretended: Pretended | None):
        self.pretended = pretended
        self.size = 64 if pretended else 512
        self.request = {"width": self.size, "height": self.size, "num_inference_steps": 3}

    def pipeline(self, dtype: torch.dtype = torch.float16):
        if not self.pretended:
            return v1_4_random.make_pipeline(dtype)
        diffusers.utils.logging.set_verbosity_error()
        pipeline = make_pipeline()
        for name in ("unet", "vae", "text_encoder"):
            getattr(pipeline, name).to(dtype)
        return pipeline

    def load(self, **settings) -> LoadedPipeline:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.reset_peak_memory_stats()
        settings = Settings(model=v1_4_random.NAME, **settings)
        spec = PipelineSpec.from_settings(settings, detect_hardware())
        return fit_pipeline(self.pipeline(getattr(torch, spec.dtype)), spec)

    @contextlib.contextmanager
    def no_waiting(self) -> Iterator[None]:
        """Inside, an operation that waits for the device raises."""
        try:
            with warnings.catch_warnings():  # torch says that it does not know of all, after the mode is set
                warnings.filterwarnings("ignore", "Synchronization debug mode", UserWarning)
                torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
