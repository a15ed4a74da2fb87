import itertools

import pytest

from sd_space.serving.time_left import TimeLeft

from .fakes import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def time_left(clock):
    return TimeLeft(clock)


def test_nothing_is_shown_before_the_first_estimate(time_left):
    assert time_left.update(None) is None and time_left.update(20.0) == 20.0


def test_it_counts_down_while_nothing_new_is_known(time_left, clock):
    time_left.update(20.0)
    clock.now_s = 5.0
    assert time_left.update(None) == pytest.approx(15.0)
    clock.now_s = 30.0
    assert time_left.update(None) == 0.0


def test_estimates_that_jump_move_it_little(time_left, clock):
    """As five visitors saw them who took turns at one picture a step."""
    shown = []
    for estimate_s in (47.0, 60.0, 59.0, 85.0, 44.0, 70.0):
        shown.append(time_left.update(estimate_s))
        clock.now_s += 0.2
    assert max(abs(later - earlier) for earlier, later in itertools.pairwise(shown)) < 3


def test_it_arrives_at_a_lasting_estimate(time_left, clock):
    time_left.update(10.0)
    for _ in range(100):
        clock.now_s += 0.2
        shown = time_left.update(100.0 - clock.now_s)
    assert shown == pytest.approx(80.0, abs=1)
