"""Which replica gets a request: the least busy one."""

import random
from collections import Counter

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

CANDIDATES = 8  # replicas that are compared for each request, chosen at random


class LeastLoadedRouter(RequestRouter):
    """Sends a request to the least busy replica, of eight at random where there are more.

    A replica's load is the larger of two counts: the requests that this page has sent to it, which is up to date, and
    its own queue length, which includes other pages' requests but is up to a second old. Serve's own router knows
    only queue lengths, so it can send many simultaneous requests to one replica.
    """

    queue_len_response_deadline_s = 1.0  # Serve's 0.1 is too short for a busy replica

    def initialize_state(self) -> None:
        self.replica_queue_len_cache._staleness_timeout_s = 1.0  # Serve's 10 would miss other pages' requests
        self._sent_to: dict[str, ReplicaID] = {}  # by request
        self._sent: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest
    ) -> list[list[RunningReplica]]:
        candidates = random.sample(candidate_replicas, min(CANDIDATES, len(candidate_replicas)))
        known = self.replica_queue_len_cache
        await self._probe_queue_lens([each for each in candidates if known.get(each.replica_id) is None], 0)
        # No await from here on, so that each of several simultaneous requests counts those before it.
        request_id = pending_request.metadata.internal_request_id
        self._forget(request_id)  # a replica may have refused it before
        least = min(candidates, key=lambda each: self._load(each.replica_id))
        self._sent_to[request_id] = least.replica_id
        self._sent[least.replica_id] += 1
        pending_request.future.add_done_callback(
            lambda future: self._forget(request_id) if future.cancelled() else None
        )
        return [[least]]

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Does not count sent requests in Serve's cache: it would also count the page's own status calls."""

    decrement_queue_len_cache = on_send_request

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._forget(internal_request_id)

    def _load(self, replica_id: ReplicaID) -> int:
        return max(self._sent[replica_id], self.replica_queue_len_cache.get(replica_id) or 0)

    def _forget(self, request_id: str) -> None:
        if request_id in self._sent_to:
            self._sent[self._sent_to.pop(request_id)] -= 1
