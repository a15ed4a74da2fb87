"""Where a call of the API becomes a run: acceptance, place, model and values, in this order."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from sd_space.backends import Backend, until_ready
from sd_space.schema import Stage
from sd_space.serving.gate import Gate
from sd_space.serving.limits import Capacity
from sd_space.serving.runs import Run, Runs


class Intake:
    """Whatever shape calls come in, they get to the backend here."""

    def __init__(self, gate: Gate, backend: Backend, capacity: Capacity, runs: Runs):
        self._gate = gate
        self._backend = backend
        self._capacity = capacity
        self._runs = runs

    async def begin(
        self, token: object, values: Mapping[str, object], address: str | None, place_id: str | None = None
    ) -> AsyncGenerator[Stage | Run]:
        """Yields the stages of loading while the model is not there yet, and last the run. Raises SpaceError.

        `address` is the caller's, `place_id` that of the place which the request has, if it has one.
        """
        visitor = self._gate.verify_token(token).visitor
        with self._capacity.claimed(place_id, visitor, address) as place:
            async for stage in until_ready(self._backend):
                yield stage
            info = self._backend.status().ready_info
            source = values.get("init_image")
            values = {**values, "init_image": self._runs.picture_at(source, visitor) or source}
            admitted = await asyncio.to_thread(self._gate.admit, token, values, info)  # decoding may take a while
            run = self._runs.start(admitted, info, embed_recipe=True, place=place)
        yield run

    def watch(self, run: Run) -> AsyncGenerator[Run]:
        """As `Runs.watch`, for a caller who takes the run along on leaving."""
        return self._runs.watch(run, grace_s=0)
