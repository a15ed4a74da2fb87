"""A grid: the pictures of several runs in rows and columns, by what differs between their requests."""

from collections.abc import Sequence
from dataclasses import dataclass

from sd_space.errors import Cancelled
from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS, GenerationRequest
from sd_space.schema import Outcome
from sd_space.serving.results import SavedPicture
from sd_space.serving.runs import Run
from sd_space.serving.strip import COMPARED, SIZE

_SIDES = ("width", "height")
_EMPTY = {"negative_prompt": Phrase("no negative prompt")}


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture's place, under the label of its column; its run draws nothing else."""

    label: str
    run: Run

    @property
    def picture(self) -> SavedPicture | None:
        """The finished picture, or the placeholder of one that is not shown, while its file exists."""
        return next((picture for picture in self.run.finished if picture.path.is_file()), None)

    @property
    def outcome(self) -> str:
        """In a word: waiting, ok, withheld, broken, cancelled, failed, or deleted."""
        if (picture := self.picture) is not None:
            return str(picture.outcome)
        if not self.run.is_done:
            return "waiting"
        if self.run.finished:
            return "deleted"
        return "cancelled" if isinstance(self.run.outcome, Cancelled) else "failed"

    @property
    def is_shown(self) -> bool:
        return self.outcome == Outcome.OK


@dataclass(frozen=True, slots=True)
class Row:
    """Its `label` is empty where there is one row alone."""

    label: str
    cells: tuple[Cell, ...]


def grid(runs: Sequence[Run], by_seed: bool = False) -> list[Row]:
    """The rows of these runs. Seeds are columns where they differ, or `by_seed` says that they will; else the values of
    the field that differs are."""
    requests = [run.admitted.request for run in runs]
    varied = [name for name in COMPARED if name not in _SIDES and len({_value(r, name) for r in requests}) > 1]
    column = "seed" if by_seed or "seed" in varied or not varied else varied[0]
    row = next((name for name in varied if name != column), "")
    cells: dict[str, list[Cell]] = {}
    for run, request in zip(runs, requests, strict=True):
        label = _label(request, row) if row else ""
        cells.setdefault(label, []).append(Cell(_label(request, column), run))
    return [Row(label, tuple(own)) for label, own in cells.items()]


def cells_of(rows: Sequence[Row]) -> list[Cell]:
    return [cell for row in rows for cell in row.cells]


def _value(request: GenerationRequest, name: str) -> object:
    return (request.width, request.height) if name == SIZE else getattr(request, name)


def _label(request: GenerationRequest, name: str) -> str:
    """The visitor's own words as they are; what is ours as a phrase."""
    value = _value(request, name)
    if isinstance(value, tuple):
        return f"{value[0]} × {value[1]}"
    if isinstance(value, str):
        return value or _EMPTY.get(name, "")
    number = f"{value:g}" if isinstance(value, float) else value
    return Phrase("{label} {value}", label=REQUEST_FIELDS[name].label, value=number)
