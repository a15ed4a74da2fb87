"""One replica: an engine on one device, in a process of the cluster."""

import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sd_space.backends import until_ready
from sd_space.backends.in_process import InProcessBackend
from sd_space.process_memory import freeze_gc
from sd_space.schema import AdmittedRequest, BackendStatus, Progress, PromptTokenizer, Update
from sd_space.settings import Settings

PROGRESS_INTERVAL_S = 0.5  # a streamed item costs a replica about a millisecond
WAITING_PROGRESS_INTERVAL_S = 4 * PROGRESS_INTERVAL_S


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """`replica_id` differs for each process, also for those that replace one another."""

    replica_id: str
    status: BackendStatus


class EngineReplica:
    """What Ray Serve deploys. It gets requests once its constructor has returned, with the model loaded."""

    async def __init__(self, settings: Settings):  # type: ignore[misc]  # Ray Serve awaits it
        self._replica_id = uuid.uuid4().hex
        self._backend = InProcessBackend(settings)
        self._backend.start()
        async for _ in until_ready(self._backend):
            pass
        freeze_gc()

    async def status(self) -> ReplicaStatus:
        return ReplicaStatus(self._replica_id, self._backend.status())

    async def tokenizer(self) -> PromptTokenizer | None:
        return self._backend.tokenizer()

    async def generate(self, admitted: AdmittedRequest) -> AsyncIterator[Update]:
        """See `Backend.generate`. An error that this raises is the replica's own, so another replica may succeed."""
        sent_s, was_waiting = float("-inf"), True
        async for update in self._backend.generate(admitted):
            if isinstance(update, Progress):
                is_waiting = update.queue_position > 0
                interval_s = WAITING_PROGRESS_INTERVAL_S if is_waiting else PROGRESS_INTERVAL_S
                if is_waiting == was_waiting and time.monotonic() - sent_s < interval_s:
                    continue
                sent_s, was_waiting = time.monotonic(), is_waiting
            yield update

    async def cancel(self, request_id: str) -> None:
        """See `Backend.cancel`. Ignores requests of other replicas."""
        self._backend.cancel(request_id)

    def check_health(self) -> None:
        """Raises if the engine's thread is dead or hangs, or if the checker does; Serve then replaces the replica."""
        status = self._backend.status()
        if not status.is_ready:
            raise RuntimeError(status.reason)
