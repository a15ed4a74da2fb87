import itertools

from sd_space.engine.batcher import BatchKey, FairQueue, StepBatcher, Trajectory

SQUARE = BatchKey(64, 64, True)
WIDE = BatchKey(64, 96, True)
ids = itertools.count()


def add(
    batcher: FairQueue,
    request_id: str,
    pictures: int = 1,
    steps: int = 4,
    key=SQUARE,
    visitor: str = "",
    priority: int = 0,
):
    """Adds a request's pictures; each visitor has the request's name unless another is given."""
    added = [
        Trajectory(next(ids), request_id, visitor or request_id, k, k, key, steps, priority=priority)
        for k in range(pictures)
    ]
    for trajectory in added:
        batcher.add(trajectory)
    return added


def names(batch: list[Trajectory]) -> list[str]:
    return [f"{trajectory.request_id}{trajectory.index}" for trajectory in batch]


def run(batcher: StepBatcher) -> list[str]:
    """Steps until nothing is left; the pictures in the order in which they were finished."""
    finished = []
    while batch := batcher.next_batch():
        finished += names(batcher.advance(batch))
    return finished


def test_nothing_to_do_is_an_empty_batch():
    assert StepBatcher(4).next_batch() == []


def test_a_batch_is_no_wider_than_its_width():
    batcher = StepBatcher(2)
    add(batcher, "a", pictures=4)
    assert names(batcher.next_batch()) == ["a0", "a1"]


def test_late_arrival_joins_at_the_next_step():
    batcher = StepBatcher(4)
    add(batcher, "a")
    batcher.advance(batcher.next_batch())
    add(batcher, "b")
    assert names(batcher.next_batch()) == ["a0", "b0"]


def test_a_picture_leaves_after_its_last_step():
    batcher = StepBatcher(4)
    short, long = *add(batcher, "a", steps=1), *add(batcher, "b", steps=2)
    assert batcher.advance(batcher.next_batch()) == [short]
    assert batcher.next_batch() == [long]


def test_one_picture_never_waits_behind_four_of_another_visitor():
    batcher = StepBatcher(4)
    add(batcher, "a", pictures=4)
    batcher.advance(batcher.next_batch())
    add(batcher, "b")
    assert names(batcher.next_batch()) == ["a0", "b0", "a1", "a2"]


def test_a_picture_that_gave_its_seat_away_goes_on_where_it_was():
    batcher = StepBatcher(2)
    _, second = add(batcher, "a", pictures=2, steps=4)
    batcher.advance(batcher.next_batch())
    add(batcher, "b", steps=2)
    batcher.advance(batcher.next_batch())
    assert second not in batcher.seated()
    assert second.step_index == 1
    assert run(batcher) == ["b0", "a0", "a1"]


def test_a_visitors_only_running_picture_keeps_its_seat():
    """With one seat, sharing it would only delay both: the first goes on to its end."""
    batcher = StepBatcher(1)
    add(batcher, "a")
    batcher.advance(batcher.next_batch())
    add(batcher, "b")
    assert run(batcher) == ["a0", "b0"]


def test_visitors_take_turns_beyond_the_seats():
    batcher = StepBatcher(1)
    add(batcher, "a", pictures=3)
    add(batcher, "b", pictures=2)
    add(batcher, "c")
    assert run(batcher) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_two_requests_of_one_visitor_share_that_visitors_turns():
    batcher = StepBatcher(1)
    add(batcher, "a", visitor="one")
    add(batcher, "b", visitor="one")
    add(batcher, "c", visitor="other")
    assert run(batcher) == ["a0", "c0", "b0"]


def test_a_stream_of_newcomers_starves_nobody():
    batcher = StepBatcher(1)
    add(batcher, "old", pictures=4, steps=1)
    finished = []
    for k in range(16):
        add(batcher, f"new{k}-", steps=1)
        finished += names(batcher.advance(batcher.next_batch()))
    assert [name for name in finished if name.startswith("old")] == ["old0", "old1", "old2", "old3"]


def test_a_lower_priority_number_goes_first_whoever_has_it_and_takes_a_seat_at_the_next_step():
    batcher = StepBatcher(2)
    add(batcher, "grid", pictures=4, visitor="class", priority=1)
    batcher.advance(batcher.next_batch())
    add(batcher, "own", visitor="class")
    add(batcher, "other")
    assert names(batcher.next_batch()) == ["own0", "other0"]
    assert run(batcher) == ["own0", "other0", "grid0", "grid1", "grid2", "grid3"]


def test_a_strip_delays_another_visitors_picture_by_one_place_at_most():
    for width in (1, 2, 8):
        batcher = StepBatcher(width)
        for number in range(8):
            add(batcher, f"strip{number}-", visitor="class")
        batcher.advance(batcher.next_batch())
        add(batcher, "other")
        assert batcher.queue_positions()["other"] <= 1
        before = []
        while "other0" not in names(batch := batcher.next_batch()):
            before += names(batcher.advance(batch))
        assert before == (["strip0-0"] if width == 1 else [])


def test_what_is_done_is_taken_out_in_turns_of_the_visitors():
    """A picture that is to be decoded does not wait for eight of a strip."""
    queue = FairQueue()
    for name in ("strip0-", "strip1-", "strip2-"):
        add(queue, name, visitor="class")
    first = queue.pop(1)
    add(queue, "other")
    assert names(first + queue.pop(1) + queue.pop(1) + queue.pop(9)) == [
        "strip0-0",
        "strip1-0",
        "other0",
        "strip2-0",
    ]


def test_only_rows_that_agree_share_a_call():
    batcher = StepBatcher(4)
    add(batcher, "a", key=SQUARE)
    add(batcher, "b", key=WIDE)
    add(batcher, "c", key=SQUARE._replace(has_guidance=False))
    add(batcher, "d", key=SQUARE)
    assert names(batcher.next_batch()) == ["a0", "d0"]


def test_sizes_take_turns_within_the_seats():
    batcher = StepBatcher(3)
    add(batcher, "a", steps=3)
    add(batcher, "b", steps=3, key=WIDE)
    add(batcher, "c", steps=3)
    batches = []
    for _ in range(4):
        batches.append(names(batcher.next_batch()))
        batcher.advance(batcher.next_batch())
    assert batches == [["a0", "c0"], ["b0"], ["a0", "c0"], ["b0"]]


def test_removed_rows_are_free_at_the_next_step():
    batcher = StepBatcher(1)
    add(batcher, "a", pictures=4)
    add(batcher, "b")
    batcher.advance(batcher.next_batch())
    assert len(batcher.remove("a")) == 4
    assert names(batcher.next_batch()) == ["b0"]
    assert batcher.remove("a") == []


def test_queue_position_counts_requests_that_wait():
    batcher = StepBatcher(2)
    for name in "abcd":
        add(batcher, name, pictures=2)
    assert batcher.queue_positions() == {"a": 0, "b": 0, "c": 1, "d": 2}
    batcher.remove("a")
    assert batcher.queue_positions() == {"b": 0, "c": 0, "d": 1}


def test_finished_trajectories_are_forgotten():
    batcher = StepBatcher(2)
    for name in "abc":
        add(batcher, name, pictures=2)
    run(batcher)
    assert len(batcher) == 0
    assert not batcher._ring
