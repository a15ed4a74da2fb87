import pytest

from sd_space.engine.batcher import BatchKey, StepBatcher
from sd_space.engine.outlook import INTERVAL_S, Outlook
from sd_space.engine.step_times import StepTimes

from .test_step_times import pictures
from .tiny_models import make_request

REQUEST = make_request(num_images_per_prompt=4)
KEY = BatchKey.of(REQUEST)


def times() -> StepTimes:
    """A call takes a second, however many pictures share it, up to four."""
    times = StepTimes()
    for count in (1, 2, 3, 4):
        times.record_step(KEY, count, 1.0)
    return times


def test_nothing_is_said_until_a_step_was_measured():
    assert Outlook(REQUEST, 10).seconds(StepBatcher(4), StepTimes(), 0.0) is None


def test_alone_a_request_takes_its_own_steps_and_behind_others_theirs_as_well():
    batcher = StepBatcher(4)
    assert Outlook(REQUEST, 10).seconds(batcher, times(), 0.0) == pytest.approx(10.0)
    for picture in pictures("another", 30, count=4, key=KEY):
        batcher.add(picture)
    seconds = Outlook(REQUEST, 10).seconds(batcher, times(), 0.0)
    assert seconds == pytest.approx(40.0), "one seat is free for it, for all of its pictures"
    assert len(batcher) == 4, "nobody was added"


def test_a_forecast_holds_for_a_while():
    outlook, batcher = Outlook(REQUEST, 10), StepBatcher(4)
    first = outlook.seconds(batcher, times(), 0.0)
    for picture in pictures("another", 30, count=4, key=KEY):
        batcher.add(picture)
    assert outlook.seconds(batcher, times(), INTERVAL_S / 2) == first
    assert outlook.seconds(batcher, times(), INTERVAL_S) > first
