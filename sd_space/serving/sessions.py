"""What Gradio's queue keeps of each session: whose an event is, and letting go of what nobody fetches."""

import time
from collections.abc import Callable, Collection
from typing import Any

UNHEARD_S = 300.0  # an answer may be fetched that long after it is there
_EVERY_S = 1.0


class Sessions:
    """The sessions of a `gradio.queueing.Queue`, which forgets none of them by itself.

    Belongs to the queue's event loop. `now_s` is a monotonic clock.
    """

    def __init__(self, queue: Any, now_s: Callable[[], float] = time.monotonic):
        self._queue = queue
        self._now_s = now_s
        self._unheard_since_s: dict[str, float] = {}
        self._next_s = 0.0

    def running(self, event_id: str) -> tuple[str, int] | None:
        """The session of an event that waits or runs, and the number by which the page knows the event."""
        event = self._queue.event_ids_to_events.get(event_id)
        return None if event is None else (event.session_hash, event.fn._id)

    def of(self, event_id: str) -> str | None:
        """The session of an event that runs or whose end is still to be told."""
        ids_of = self._queue.pending_event_ids_session
        return next((session for session, ids in ids_of.items() if event_id in ids), None)

    def has(self, session: str) -> bool:
        """Whether there is, or will be, anything to tell this session."""
        messages = self._queue.pending_messages_per_session.get(session)
        return messages is not None and (
            bool(self._queue.pending_event_ids_session.get(session)) or not messages.empty()
        )

    def sweep(self, listening: Collection[str]) -> None:
        """Forgets the sessions that have been told everything, and those whose end nobody came to hear.

        `listening` are the sessions with a listener now; they stay. Does nothing within a second of the last sweep.
        """
        now_s = self._now_s()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _EVERY_S
        messages, ids_of = self._queue.pending_messages_per_session, self._queue.pending_event_ids_session
        unheard_since_s = {}
        for session in (messages.keys() | ids_of.keys()) - set(listening):
            ids = ids_of.get(session, ())
            if any(event_id in self._queue.event_ids_to_events for event_id in ids):
                continue  # waits or runs
            since_s = self._unheard_since_s.get(session, now_s)
            if ids and _may_be_fetched(since_s, now_s):
                unheard_since_s[session] = since_s
            else:
                messages.pop(session, None)
                ids_of.pop(session, None)
        self._unheard_since_s = unheard_since_s


def _may_be_fetched(since_s: float, now_s: float) -> bool:
    return now_s < since_s + UNHEARD_S
