"""Attempts to get past the guards, as data with ids that stay; and the one line that says how many failed to."""

import contextlib
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FAMILIES = {
    "G": "get a picture past the licence gate, or at another visitor's run",
    "S": "get an unchecked picture out",
    "V": "get a crash or an unclear answer out of malformed values",
    "L": "starve, mix up or lose visitors by load",
    "K": "make memory, files or threads grow",
    "F": "lose the service or a visitor's sentence to a fault",
    "P": "get a prompt, token, address or path out, or keep a picture too long",
}
_ID = re.compile(rf"\[(mutant )?([{''.join(FAMILIES)}])\d+[ \]]")


@dataclass(frozen=True)
class Attempt:
    """`make` tries; what it may be given and must return is up to the family's test."""

    id: str
    what: str
    make: Callable

    def __str__(self) -> str:
        return f"{self.id} {self.what}"


class Attempts(list[Attempt]):
    """A family's attempts. Used as a decorator, and through `add` for those that come in a table."""

    def __call__(self, id: str, what: str) -> Callable[[Callable], Callable]:
        def remember(make: Callable) -> Callable:
            self.add(id, what, make)
            return make

        return remember

    def add(self, id: str, what: str, make: Callable) -> None:
        assert id not in (attempt.id for attempt in self), f"{id} is taken"
        self.append(Attempt(id, what, make))

    def named(self, id: str) -> Attempt:
        (attempt,) = [attempt for attempt in self if attempt.id == id]
        return attempt


class TooSlow(Exception):
    """An answer came too late: a failure of any attempt, and no proof that a guard was missing."""


@dataclass(frozen=True)
class Mutant:
    """A guard taken out of the source of `target`; the attempt `caught_by` must then get through.

    That is: the assertion with `by` in its source falls. Another one, a broken connection or a limit of time proves
    nothing.
    """

    target: str  # module:Class.function
    old: str
    new: str
    caught_by: str
    by: str

    def __str__(self) -> str:
        return f"mutant {self.caught_by} {self.target.partition(':')[2]} {self.old[:40]}"

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """What is done in here falls at that assertion."""
        try:
            yield
        except AssertionError as error:
            places = [place for place in traceback.extract_tb(error.__traceback__) if place.name not in _WAITING]
            fallen = _statement(places[-1])
            if self.by not in fallen:
                raise AssertionError(f"{fallen!r} fell, not an assertion with {self.by!r}") from error
        else:
            raise AssertionError(f"{self} was not caught")


_WAITING = ("until", "wait_for", "wait_for_lines", "wait_until_idle")  # they fall where what they wait for is named


def _statement(place: traceback.FrameSummary) -> str:
    """The source of the statement, which may go over several lines."""
    lines = [linecache.getline(place.filename, number) for number in range(place.lineno, place.end_lineno + 1)]
    return " ".join(line.strip() for line in lines)


class Score:
    """Counts attempts by their test ids. One that was skipped, or failed in any phase, did not hold."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, bool]] = {}  # family, or "mutant " and family -> test -> whether it held
        self.figures: dict[str, list[str]] = {}  # family -> what else was measured

    def record(self, node_id: str, has_passed: bool, is_last_phase: bool) -> None:
        found = _ID.search(node_id)
        if found is None:
            return
        held = self._held.setdefault((found[1] or "") + found[2], {})
        if not has_passed:
            held[node_id] = False
        elif is_last_phase:
            held.setdefault(node_id, True)

    def line(self) -> str:
        parts = []
        for letter in FAMILIES:
            words = [
                self._share(letter),
                *self.figures.get(letter, []),
                self._share(f"mutant {letter}", " mutants caught"),
            ]
            if said := [word for word in words if word]:
                parts.append(f"{letter} {', '.join(said)}")
        return " · ".join(parts)

    def _share(self, key: str, what: str = "") -> str:
        held = self._held.get(key)
        return f"{sum(held.values())}/{len(held)}{what}" if held else ""
