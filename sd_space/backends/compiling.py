"""Compiles the model for sizes that are new, before their first step; most runtimes need none of that."""

import logging
from typing import TYPE_CHECKING

from sd_space.backends.heartbeat import Heartbeat
from sd_space.backends.update_stream import Stream
from sd_space.languages import Phrase
from sd_space.runtime_errors import traceback_without_message
from sd_space.schema import Progress

if TYPE_CHECKING:
    from sd_space.model.pipeline import LoadedPipeline

logger = logging.getLogger(__name__)

COMPILING_S = 1800.0  # the longest that is not taken for a hang
NOTE = Phrase("This size is new here, so the model is being compiled for it; that happens once and takes a while.")


def compile_size(loaded: "LoadedPipeline", stream: Stream, heartbeat: Heartbeat) -> None:
    """For the size of the stream's request, whose visitor reads that it takes a while.

    So that no step has that in its time. Where it fails, the request's first step says so.
    """
    compiled, admitted = loaded.placement.jax, stream.admitted
    request = admitted.request
    if compiled is None or compiled.is_compiled(request.height, request.width):
        return
    steps, pictures = request.num_inference_steps, request.num_images_per_prompt
    stream.send(Progress(admitted.request_id, 1, 0, steps, 0, pictures, note=NOTE))
    try:
        with heartbeat.allow(COMPILING_S):
            compiled.compile(request.height, request.width)
    except Exception as error:  # of any type: XLA's among them
        logger.error("compiling failed:\n%s", traceback_without_message(error))
