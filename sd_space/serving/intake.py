"""Where a call of the API becomes a run: acceptance, place, model and values, in this order."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

from sd_space.backends import Backend, until_ready
from sd_space.request import SEEDS
from sd_space.schema import AdmittedRequest, Inspection, Stage
from sd_space.served_model import ModelInfo
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
        async with aclosing(self.begin_all(token, [values], address, place_id)) as begun:
            async for step in begun:
                yield step if isinstance(step, Stage) else step[0]

    async def begin_all(
        self,
        token: object,
        several: Sequence[Mapping[str, object]],
        address: str | None,
        place_id: str | None = None,
        priority: int = 0,
        inspection: Inspection | None = None,
    ) -> AsyncGenerator[Stage | list[Run]]:
        """The same for the runs of one call, which has one place: none begins unless all of them are admitted.

        A seed that is drawn at random is the same for all. What has a lower `priority` is drawn first. An `inspection`
        is one of each, and takes no other place.
        """
        visitor = self._gate.verify_token(token).visitor
        with self._capacity.claimed(place_id, visitor, address) as place:
            async for stage in until_ready(self._backend):
                yield stage
            info = self._backend.status().ready_info
            source = several[0].get("init_image")
            own = {"init_image": self._runs.picture_at(source, visitor) or source}
            # Decoding may take a while.
            own_values = [{**values, **own} for values in several]
            admitted = await asyncio.to_thread(self._admit, token, own_values, info, priority, inspection)
            runs = [self._runs.start(one, info, embed_recipe=True, place=place) for one in admitted]
        yield runs

    def _admit(
        self,
        token: object,
        several: Sequence[Mapping[str, object]],
        info: ModelInfo,
        priority: int,
        inspection: Inspection | None,
    ) -> list[AdmittedRequest]:
        admitted = [self._gate.admit(token, several[0], info, priority, inspection)]
        drawn = {name: getattr(admitted[0].request, name) for name in SEEDS}
        for values in several[1:]:
            seeds = {name: seed for name, seed in drawn.items() if values.get(name) in (None, -1)}
            admitted.append(self._gate.admit(token, {**values, **seeds}, info, priority, inspection))
        return admitted

    def watch(self, *runs: Run) -> AsyncGenerator[Sequence[Run]]:
        """As `Runs.watch_all`, for a caller who takes the runs along on leaving."""
        return self._runs.watch_all(runs, grace_s=0)
