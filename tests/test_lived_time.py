import threading

from sd_space.lived_time import LONGEST_GAP_S, LivedTime, wait_lived

from .fakes import Clock


def test_time_passes_as_on_any_clock_while_the_process_runs():
    clock = Clock(1000.0)
    lived_s = LivedTime(clock)
    for _ in range(100):
        clock.now_s += 0.5
        assert lived_s() == clock.now_s - 1000.0
        lived_s.tick()
    assert lived_s() == 50.0


def test_a_pause_is_not_lived_through_whoever_looks_first():
    clock = Clock(1000.0)
    lived_s = LivedTime(clock)
    clock.now_s += 3600.0
    assert lived_s() == LONGEST_GAP_S
    lived_s.tick()
    assert lived_s() == LONGEST_GAP_S
    clock.now_s += 1.0
    assert lived_s() == LONGEST_GAP_S + 1.0


def test_it_ticks_by_itself_until_it_is_stopped():
    lived_s, ticked = LivedTime(), threading.Event()
    stock = lived_s.tick
    lived_s.tick = lambda: (stock(), ticked.set())
    lived_s.start()
    assert ticked.wait(10)
    lived_s.stop()


class Paused:
    """An event for which the process is paused at the first wait: it returns late, and the next ones in time."""

    def __init__(self, comes_at: int):
        self.waited, self._comes_at = [], comes_at

    def wait(self, timeout_s: float) -> bool:
        self.waited.append(timeout_s)
        return len(self.waited) == self._comes_at


def test_a_wait_goes_on_after_a_pause_and_ends_in_its_own_time():
    late = Paused(comes_at=60)
    assert wait_lived(late, 60.0)
    never = Paused(comes_at=0)
    assert not wait_lived(never, 60.0)
    assert sum(never.waited) == 60.0
    assert not wait_lived(threading.Event(), 0.001)
