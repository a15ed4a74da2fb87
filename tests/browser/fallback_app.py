"""The app as on a machine with CUDA whose Hub does not give v1-4: what is loaded runs on the CPU all the same."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import app
from sd_space.backends import engine_process
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from_settings = PipelineSpec.from_settings


def main(argv: Sequence[str] | None = None) -> int:
    engine_process.run = partial(run_as_with_cuda, engine_process.run)
    return app.main(argv)


def run_as_with_cuda(run: Callable[..., None], *arguments: Any) -> None:
    """In the engine's process."""

    def as_with_cuda(settings: Settings, hardware: Hardware) -> PipelineSpec:
        spec = from_settings(settings, hardware)
        return replace(spec, model=V1_4, revision=V1_4_REVISION, variant="fp16", may_fall_back=True)

    PipelineSpec.from_settings = as_with_cuda
    run(*arguments)
