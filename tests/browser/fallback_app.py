"""The app as on a machine with CUDA whose Hub does not give v1-4: what is loaded runs on the CPU all the same."""

from collections.abc import Sequence
from dataclasses import replace

import app
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import V1_4, V1_4_REVISION, Settings

from_settings = PipelineSpec.from_settings


def main(argv: Sequence[str] | None = None) -> int:
    def as_with_cuda(settings: Settings, hardware: Hardware) -> PipelineSpec:
        spec = from_settings(settings, hardware)
        return replace(spec, model=V1_4, revision=V1_4_REVISION, variant="fp16", may_fall_back=True)

    PipelineSpec.from_settings = as_with_cuda
    return app.main(argv)
