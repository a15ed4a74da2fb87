import itertools

import pytest

from sd_space.engine.batcher import BatchKey, Trajectory
from sd_space.engine.step_times import MAX_SIZES, StepTimes

SQUARE = BatchKey(64, 64, True)
WIDE = BatchKey(64, 128, True)
ids = itertools.count()


def pictures(request_id: str, steps: int, count: int = 1, key: BatchKey = SQUARE) -> list[Trajectory]:
    return [Trajectory(next(ids), request_id, request_id, k, k, key, num_timesteps=steps) for k in range(count)]


def made_times() -> StepTimes:
    """A call of n pictures takes 10 + n seconds, a decode 2."""
    times = StepTimes()
    for count in (1, 2, 3, 4):
        times.record_step(SQUARE, count, 10.0 + count)
        times.record_step(WIDE, count, 10.0 + 2 * count)
    times.record_finish(64, 64, 2.0)
    return times


def test_nothing_is_said_until_something_was_measured():
    assert StepTimes().step_s(SQUARE, 1) is None
    assert StepTimes().forecast([], pictures("a", 5), 1) == {}


def test_times_of_other_sizes_are_scaled_by_area():
    times = StepTimes()
    times.record_step(BatchKey(64, 64, True), 1, 1.0)
    times.record_step(BatchKey(64, 64, True), 4, 2.5)
    assert times.step_s(BatchKey(64, 64, True), 2) == pytest.approx(1.5)
    assert times.step_s(BatchKey(64, 64, False), 8) == pytest.approx(2.5)
    assert times.step_s(BatchKey(128, 128, True), 2) == pytest.approx(5.0)
    assert times.step_s(BatchKey(64, 64, False), 1) == pytest.approx(0.5)


def test_a_slow_first_call_and_a_recording_are_forgotten_by_the_next_call():
    """On a GPU these take ten to a hundred times as long as all calls that follow."""
    times = StepTimes()
    for seconds in (1.0, 0.01, 0.13, 0.011):
        times.record_step(SQUARE, 1, seconds)
    assert times.step_s(SQUARE, 1) == pytest.approx(0.011)
    times.record_step(SQUARE, 1, 0.021)
    assert times.step_s(SQUARE, 1) == pytest.approx(0.013), "one slow call moves it a little"


def test_only_the_latest_sizes_are_remembered():
    """Visitors can ask for thousands of sizes, and each forecast looks at those that are known."""
    times = StepTimes()
    for side in range(1, 2 * MAX_SIZES):
        times.record_step(BatchKey(side, side, True), 1, float(side))
        times.record_finish(side, side, float(side))
        times.record_step(SQUARE, 1, 64.0)
    assert len(times._step_s) == len(times._by_work) == len(times._finish_s) == MAX_SIZES
    assert times.step_s(SQUARE, 1) == 64.0, "a size that is still asked for stays"
    latest = BatchKey(2 * MAX_SIZES - 1, 2 * MAX_SIZES - 1, True)
    assert times.step_s(latest, 1) == 2 * MAX_SIZES - 1
    assert times.step_s(BatchKey(1, 1, True), 1) == pytest.approx(64.0 / SQUARE.height / SQUARE.width)


def test_alone_it_is_the_steps_and_the_decode():
    assert made_times().forecast([], pictures("a", 5), 4) == {"a": 5 * 11 + 2}


def test_steps_get_shorter_when_others_have_finished():
    """The three share 2 calls, two of them 3 more; the long one has 5 to itself."""
    line = pictures("short", 2) + pictures("middle", 5) + pictures("long", 10)
    short, middle = 2 * 13 + 2, 2 * 13 + 2 + 3 * 12 + 2
    assert made_times().forecast([], line, 4) == {"short": short, "middle": middle, "long": middle + 5 * 11 + 2}


def test_pictures_that_are_finished_beside_steps_delay_each_other_alone():
    times, line = made_times(), pictures("short", 2) + pictures("other", 2) + pictures("long", 3)
    times.finishes_beside = True
    assert times.forecast([], line, 4) == {"short": 2 * 13 + 2, "other": 2 * 13 + 4, "long": 2 * 13 + 11 + 2}


def test_who_waits_takes_the_first_seat_that_is_free():
    line = pictures("a", 2) + pictures("b", 3) + pictures("c", 4)
    told = made_times().forecast([], line, 2)
    assert told == {"a": 2 * 12 + 2, "b": 3 * 12 + 4, "c": 3 * 12 + 4 + 3 * 11 + 2}


def test_sizes_that_take_turns_wait_for_each_other():
    line = pictures("square", 3) + pictures("wide", 3, key=WIDE)
    assert made_times().forecast([], line, 2)["wide"] == 3 * (11 + 12) + 2 + 4


def test_a_request_is_done_with_its_last_picture():
    times, line = made_times(), pictures("a", 3, count=2)
    assert times.forecast([], line, 2) == {"a": 3 * 12 + 4}
    line[0].step_index = 2
    assert times.forecast(pictures("a", 3)[:1], line, 2) == {"a": 2 + 1 * 12 + 2 + 2 * 11 + 2}
