"""The frame of drawn attempts can lose."""

import pytest

from . import generated
from .generated import SEED, Attempts, drawn, paired, sampled, taking_turns


def make(attempts: Attempts, attempt_made) -> None:
    for attempt in attempts:
        with attempt:
            attempt_made(attempt)


def asks(attempt) -> None:
    attempt.asks(attempt.number)
    attempt.came_to(attempt.number % 2)


def test_the_same_seed_and_number_draw_the_same():
    first, again = Attempts("a", 3), Attempts("a", 9)
    drawn_numbers = [attempt.random.random() for attempt in first]
    assert drawn_numbers == [again[number].random.random() for number in range(3)]
    assert len({*drawn_numbers, Attempts("b", 1)[0].random.random()}) == 4


def test_attempts_that_hold_hold():
    attempts = Attempts("a", 10)
    make(attempts, asks)
    attempts.assert_held(0, 1)
    assert attempts.outcomes == {0: 5, 1: 5}


def test_a_failure_says_how_to_make_it_again():
    def falls(attempt):
        asks(attempt)
        assert attempt.number != 7, "seven"

    attempts = Attempts("a", 10)
    make(attempts, falls)
    with pytest.raises(AssertionError, match=f"(?s)1 of 10 fell:\nTEST_SEED={SEED} TEST_ATTEMPT=7\n  asked 7\n.*seven"):
        attempts.assert_held()


def test_any_error_is_a_failure_and_many_end_the_test():
    attempts, made = Attempts("a", 100), []

    def breaks(attempt):
        made.append(attempt)
        raise LookupError

    make(attempts, breaks)
    assert len(made) == 5
    with pytest.raises(AssertionError, match="5 of 100 fell"):
        attempts.assert_held()


@pytest.mark.parametrize("notes", [lambda attempt: None, lambda attempt: attempt.asks(1), lambda a: a.came_to(1)])
def test_an_attempt_that_asks_nothing_is_none(notes):
    attempts = Attempts("a", 1)
    make(attempts, notes)
    with pytest.raises(AssertionError, match="says not what it asked"):
        attempts.assert_held()


def test_attempts_that_were_not_made_are_missed():
    with pytest.raises(AssertionError, match="not made"):
        Attempts("a", 10).assert_held()


def test_an_outcome_that_must_come_is_missed():
    attempts = Attempts("a", 4)
    make(attempts, asks)
    with pytest.raises(AssertionError, match=r"\[2\] never came"):
        attempts.assert_held(0, 2)


def test_one_can_be_made_alone(monkeypatch):
    monkeypatch.setattr(generated, "ONLY", "7")
    attempts = Attempts("a", 4)
    make(attempts, asks)
    attempts.assert_held(0, 1)
    assert attempts.outcomes == {1: 1}


def test_a_sample_is_for_every_run_and_all_are_for_the_night():
    cases = [str(number) for number in range(20)]
    parameters = sampled(cases, 3)
    marks = [{mark.name for mark in parameter.marks} for parameter in parameters]
    assert [parameter.values for parameter in parameters] == [(case,) for case in cases]
    assert all("nightly" in names for names in marks) and sum("sample" in names for names in marks) == 3
    assert marks == [{mark.name for mark in parameter.marks} for parameter in sampled(cases, 3)]


@pytest.mark.parametrize("seed", [6, 7])
def test_of_tests_that_take_turns_each_run_has_one(monkeypatch, seed):
    monkeypatch.setattr(generated, "SEED", seed)
    for turn in (0, 1):

        @taking_turns(turn)
        def walk() -> None: ...

        names = {mark.name for mark in walk.pytestmark}
        assert names == ({"nightly", "sample"} if turn == seed % 2 else {"nightly"})


def test_pairs_of_every_run_have_each_of_both():
    parameters = paired("abcdefgh", {"w": 1, "x": 2, "y": 3, "z": 4})
    assert [parameter.id for parameter in parameters[:5]] == ["w-a", "x-a", "y-a", "z-a", "w-b"]
    often = [parameter.values for parameter in parameters if not parameter.marks]
    assert len(parameters) == 32 and len(often) == 16
    assert {[one for one, _ in often].count(letter) for letter in "abcdefgh"} == {2}
    assert {[number for _, number in often].count(k) for k in (1, 2, 3, 4)} == {4}


@drawn(3, nightly=30)
def test_a_drawn_test_gets_its_attempts(attempts):
    make(attempts, asks)
    attempts.assert_held(0, 1)
    assert attempts.count in (3, 30)
