"""Verifies pictures one at a time, beside the event loop, within the bounds of all that comes in."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sd_space.serving.limits import Capacity
from sd_space.serving.marks import Marks
from sd_space.serving.verify import Verification, picture_of, verify


class Verifier:
    def __init__(self, capacity: Capacity, marks: Marks):
        self._capacity = capacity
        self._marks = marks
        self._thread = ThreadPoolExecutor(1, "verify")  # one at a time: a picture takes its memory

    async def verify(self, picture: object) -> Verification:
        """Reads the picture in a data URI. Raises InvalidRequest, and QueueFull where too much is being read."""

        def verified() -> Verification:
            signer = self._marks.signer
            return verify(picture_of(picture), signer.key if signer else None)

        with self._capacity.reading() as count:  # pictures that wait are bounded as bodies are
            count(len(picture) if isinstance(picture, str) else 0)
            return await asyncio.get_running_loop().run_in_executor(self._thread, verified)
