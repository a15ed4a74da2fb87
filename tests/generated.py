"""Attempts that are drawn at random instead of listed: some in every run, many nightly, and again by their seed.

    @drawn(500, nightly=5_000)
    def test_no_request_breaks_the_server(rig, attempts):
        for attempt in attempts:
            with attempt:  # what fails in here is kept with its number, and the next attempt goes on
                request = attempt.asks(a_request(attempt.random))
                answer = send(rig, request)
                assert answer.status < 500, answer
                attempt.came_to(answer.status)
        attempts.assert_held(200, 422)  # none failed, each asked something, and these outcomes came at least once

`TEST_SEED=7` makes the same attempts again, and `TEST_ATTEMPT=12` beside it that one alone.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pytest

SEED = int(os.environ.get("TEST_SEED") or random.SystemRandom().randrange(10**9))
ONLY = os.environ.get("TEST_ATTEMPT")
_MOST_FAILURES = 5  # after which no more attempts are made: they would fail alike
T = TypeVar("T")


class Attempt:
    """One attempt. `random` is its own generator, whatever came before it."""

    def __init__(self, attempts: "Attempts", number: int):
        self.random = random.Random(f"{SEED} {attempts.name} {number}")
        self.number = number
        self._attempts = attempts
        self._asked: Any = None
        self._outcome: Hashable = None

    def asks(self, what: T) -> T:
        """Notes what is asked, for the report of a failure; returns it."""
        self._asked = what
        return what

    def came_to(self, outcome: Hashable) -> None:
        """Notes what kind of answer came."""
        self._outcome = outcome

    def __enter__(self) -> "Attempt":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None and (self._asked is None or self._outcome is None):
            error = AssertionError("it says not what it asked, or not what came of it")
        if error is None:
            self._attempts.outcomes[self._outcome] += 1
            return True
        if not isinstance(error, Exception):
            return False
        said = f"{type(error).__name__}: {error}"
        again = f"TEST_SEED={SEED} TEST_ATTEMPT={self.number}"
        self._attempts.failures.append(f"{again}\n  asked {self._asked!r:.2000}\n  {said:.2000}")
        return True


class Attempts:
    """So many attempts of one test, and what came of them."""

    def __init__(self, name: str, count: int):
        self.name, self.count = name, count
        self.outcomes: Counter[Hashable] = Counter()
        self.failures: list[str] = []

    @property
    def numbers(self) -> Sequence[int]:
        return range(self.count) if ONLY is None else [int(ONLY)]

    def __getitem__(self, number: int) -> Attempt:
        """One by its number, for those that are made side by side."""
        return Attempt(self, number)

    def __iter__(self) -> Iterator[Attempt]:
        for number in self.numbers:
            if len(self.failures) < _MOST_FAILURES:
                yield self[number]

    def assert_held(self, *must_come: Hashable) -> None:
        """No attempt failed; all were made; and they were of many kinds, so that each of these outcomes came."""
        assert not self.failures, f"{len(self.failures)} of {self.count} fell:\n" + "\n".join(self.failures[:3])
        assert self.outcomes.total() == len(self.numbers), "attempts that were not made"
        missing = [outcome for outcome in must_come if not self.outcomes[outcome]]
        assert ONLY is not None or not missing, f"{missing} never came: {dict(self.outcomes)}"


def drawn(count: int, nightly: int) -> Callable[[Callable], Callable]:
    """A test with the argument `attempts`: so many of them in every run, and more of them as a test of the night."""
    many = pytest.param(nightly, marks=pytest.mark.nightly)
    return pytest.mark.parametrize("attempts", [count, many], ids=lambda count: f"{count} drawn", indirect=True)


def paired(first: Iterable[Any], second: Mapping[str, Any], every: int = 2) -> list[Any]:
    """All pairs of the two, as parameters of a test; in every run `every` of the second for each of the first.

    Each of the second is then in about as many of these pairs; the other pairs are for the night.
    """
    names = list(second)
    return [
        pytest.param(
            one,
            second[name],
            id=f"{name}-{one}",
            marks=() if (place - number) % len(names) in _spread(every, len(names)) else pytest.mark.nightly,
        )
        for number, one in enumerate(first)
        for place, name in enumerate(names)
    ]


def _spread(count: int, among: int) -> set[int]:
    return {round(k * among / count) for k in range(count)}


def taking_turns(turn: int, of: int = 2) -> Callable[[T], T]:
    """A test of the night that one of so many runs takes too: the one whose turn it is by the seed."""
    is_drawn = SEED % of == turn

    def mark(test: T) -> T:
        return pytest.mark.nightly(pytest.mark.sample(test) if is_drawn else test)

    return mark


def sampled(cases: Sequence[Any], count: int) -> list[Any]:
    """Parameters of a test of the night, so many of which, drawn by the seed, are in every run too."""
    chosen = random.Random(f"{SEED} {[str(case) for case in cases]}").sample(range(len(cases)), count)
    marks = {True: (pytest.mark.nightly, pytest.mark.sample), False: (pytest.mark.nightly,)}
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks[number in chosen])
        for number, case in enumerate(cases)
    ]
