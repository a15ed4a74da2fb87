"""Which requests run beside which, once engines are lost: on engines that are no more than what they draw."""

import asyncio
from collections.abc import AsyncIterator

from hypothesis import given, settings
from hypothesis import strategies as st

from sd_space.backends.replicas import ATTEMPTS, GIVEN_UP, ReplicaLost, ReplicatedBackend
from sd_space.errors import Cancelled, EngineFailed
from sd_space.schema import (
    AdmittedRequest,
    BackendStatus,
    GenerationResult,
    PictureFinished,
    Progress,
    RequestFailed,
    Stage,
    Update,
)

from .fakes import picture
from .tiny_models import admitted

TIMEOUT_S = 60.0
STEPS = 3


class MortalReplicas:
    """Two engines, cpu:0 and cpu:1. One that has drawn a step of a request named poison is lost, with all on it."""

    def __init__(self) -> None:
        self.losses = 0
        self._engines: list[dict[str, bool]] = [{}, {}]  # by request: whether its engine is lost

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def leave(self) -> None: ...

    def status(self) -> BackendStatus:
        return BackendStatus(Stage.READY)

    def now_s(self) -> float:
        return 0.0

    def seconds_without_replica(self, since_s: float) -> float:
        return 0.0

    async def stream(self, request: AdmittedRequest) -> AsyncIterator[Update]:
        mine = min(range(2), key=lambda index: len(self._engines[index]))
        name, engine = request.request_id, self._engines[mine]
        engine[name] = False
        for step in range(STEPS):
            yield Progress(name, 0, step, STEPS, 0, 1)
            await asyncio.sleep(0)
            if name.startswith("poison") and not engine[name]:
                self._engines[mine] = {}
                self.losses += 1
                engine |= dict.fromkeys(engine, True)
            if engine[name]:
                raise ReplicaLost("crashed")
        yield PictureFinished(name, 0, picture(request.request.seed), f"cpu:{mine}")
        yield GenerationResult(name, (picture(request.request.seed),), {"total": 1.0})
        del engine[name]


async def drawn(backend: ReplicatedBackend, name: str, after: int = 0) -> Update | EngineFailed:
    """How a request ends that comes after so many rounds of the event loop."""
    for _ in range(after):
        await asyncio.sleep(0)
    try:
        return [update async for update in backend.generate(admitted(name))][-1]
    except EngineFailed as error:
        return error


def ends_of(arrivals: dict[str, int]) -> tuple[dict[str, Update | EngineFailed], int]:
    """How each request ends, by its name, and how many engines were lost."""
    replicas = MortalReplicas()
    backend = ReplicatedBackend(replicas)

    async def main() -> dict[str, Update | EngineFailed]:
        async with asyncio.timeout(TIMEOUT_S):
            ends = await asyncio.gather(*(drawn(backend, *arrival) for arrival in arrivals.items()))
        return dict(zip(arrivals, ends, strict=True))

    return asyncio.run(main()), replicas.losses


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["poison 1", "poison 2", "poison 3", *(f"r{k}" for k in range(6))]),
        st.integers(0, 12),
        min_size=1,
    )
)
def test_a_request_is_given_up_for_its_own_faults_alone(arrivals):
    ends, losses = ends_of(arrivals)
    poisons = {name for name in arrivals if name.startswith("poison")}
    for name, end in ends.items():
        if name in poisons:
            assert isinstance(end, EngineFailed) and str(end) == GIVEN_UP
        else:
            assert isinstance(end, GenerationResult) and end.devices in {("cpu:0",), ("cpu:1",)}
    assert losses <= ATTEMPTS * len(poisons)


def test_a_request_that_waits_for_one_that_runs_alone_can_be_cancelled():
    backend = ReplicatedBackend(MortalReplicas())

    async def main() -> list[Update]:
        poison = asyncio.create_task(drawn(backend, "poison"))
        while backend.status().reruns < 2:
            await asyncio.sleep(0)
        updates = []
        async for update in backend.generate(admitted("late")):
            updates.append(update)
            backend.cancel("late")
        assert isinstance(await poison, EngineFailed)
        return updates

    told, end = asyncio.run(main())
    assert isinstance(told, Progress) and told.queue_position == 1
    assert isinstance(end, RequestFailed) and isinstance(end.error, Cancelled)
    assert backend.status().waiting == 0
