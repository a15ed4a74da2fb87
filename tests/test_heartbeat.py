"""A thread that hangs is told from one that does long work which is no step."""

from sd_space.backends.heartbeat import STUCK_AFTER_S, Heartbeat

from .fakes import Clock


def heartbeat_on(clock: Clock) -> Heartbeat:
    heartbeat = Heartbeat()
    heartbeat._lived_s = clock
    heartbeat.beat()
    return heartbeat


def test_work_that_is_allowed_its_time_is_no_hang_until_that_is_over():
    clock = Clock(0.0)
    heartbeat = heartbeat_on(clock)
    with heartbeat.allow(600.0):
        clock.now_s += 599.0
        assert not heartbeat.is_overdue
        clock.now_s += 2.0
        assert heartbeat.is_overdue
    assert not heartbeat.is_overdue
    clock.now_s += STUCK_AFTER_S + 1.0
    assert heartbeat.is_overdue, "the next step has its own time"
