from types import SimpleNamespace

import pytest

from sd_space.serving.sessions import UNHEARD_S, Sessions


class Scene:
    """What Gradio's queue holds, as a visitor's call puts it there; reliability/test_soak.py has the queue itself."""

    def __init__(self):
        self.queue = SimpleNamespace(
            pending_messages_per_session={}, pending_event_ids_session={}, event_ids_to_events={}
        )
        self.now_s = 0.0
        self.sessions = Sessions(self.queue, now_s=lambda: self.now_s)

    def begin(self, session: str, event_id: str) -> None:
        self.queue.pending_messages_per_session.setdefault(session, [])
        self.queue.pending_event_ids_session.setdefault(session, set()).add(event_id)
        self.queue.event_ids_to_events[event_id] = None

    def end(self, event_id: str) -> None:
        del self.queue.event_ids_to_events[event_id]

    def tell(self, session: str, event_id: str) -> None:
        self.queue.pending_event_ids_session[session].remove(event_id)

    def sweep(self, after_s: float = 2.0, listening=()) -> set[str]:
        """Which sessions are left."""
        self.now_s += after_s
        self.sessions.sweep(listening)
        return set(self.queue.pending_messages_per_session)


@pytest.fixture
def scene():
    return Scene()


def test_an_event_is_its_sessions_until_its_end_is_told(scene):
    scene.begin("mine", "event")
    assert scene.sessions.of("event") == "mine" and scene.sessions.of("other") is None
    scene.end("event")
    assert scene.sessions.of("event") == "mine"
    scene.tell("mine", "event")
    assert scene.sessions.of("event") is None


def test_a_session_that_was_told_everything_is_forgotten(scene):
    scene.begin("mine", "event")
    scene.end("event")
    scene.tell("mine", "event")
    assert scene.sweep() == set()


def test_a_session_with_an_event_under_way_stays_however_long_it_takes(scene):
    scene.begin("mine", "event")
    assert scene.sweep() == {"mine"} == scene.sweep(10 * UNHEARD_S)


def test_an_end_that_nobody_hears_is_kept_for_a_while(scene):
    scene.begin("mine", "event")
    scene.end("event")
    assert scene.sweep() == {"mine"} == scene.sweep(UNHEARD_S - 1)
    assert scene.sweep() == set()


def test_an_end_is_kept_from_the_last_event_on(scene):
    scene.begin("mine", "first")
    scene.end("first")
    scene.sweep()
    scene.begin("mine", "second")
    assert scene.sweep(2 * UNHEARD_S) == {"mine"}
    scene.end("second")
    assert scene.sweep() == {"mine"} == scene.sweep(UNHEARD_S - 1)


def test_nothing_is_taken_from_a_listener(scene):
    scene.begin("mine", "event")
    scene.end("event")
    scene.sweep(listening={"mine"})
    assert scene.sweep(10 * UNHEARD_S, listening={"mine"}) == {"mine"}


def test_a_visitor_who_left_in_the_middle_leaves_nothing(scene):
    """Gradio then drops the messages and keeps the event's id."""
    scene.begin("mine", "event")
    del scene.queue.pending_messages_per_session["mine"]
    scene.end("event")
    scene.sweep()
    scene.sweep(UNHEARD_S)
    assert not scene.queue.pending_event_ids_session


def test_calls_in_quick_succession_share_a_sweep(scene):
    scene.sweep()
    scene.begin("mine", "event")
    scene.end("event")
    scene.tell("mine", "event")
    assert scene.sweep(0.5) == {"mine"}
    assert scene.sweep(0.6) == set()
