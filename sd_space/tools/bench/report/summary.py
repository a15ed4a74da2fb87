"""A report in one table, for people: the card's recipe beside this Space, and what else its parts have found."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sd_space.tools.bench.report.process import DONE

Figures = Mapping[str, Any]
Line = tuple[str, str]  # what, and its figures
NOT_MEASURED = "not measured"


def summary_of(report: Figures) -> str:
    """Markdown: the circumstances, and a table with a line for each finding or for why there is none."""
    lines = [line for part in report["parts"] for line in _lines_of(part)]
    table = ["| what | measured |", "| --- | --- |", *(f"| {what} | {said} |" for what, said in lines)]
    return "\n".join([_circumstances(report), "", *table, ""])


def _lines_of(part: Figures) -> Iterator[Line]:
    figures, said = part["figures"] or {}, []
    if part["name"] in TELLERS and figures.get("rows"):
        said = list(TELLERS[part["name"]](figures))
        yield from said
    if part["ended"] != DONE and part["reason"] != "needs a CUDA device":
        yield part["name"], f"{'cut short' if said else NOT_MEASURED}: {part['reason']}".replace("|", "/")


def _circumstances(report: Figures) -> str:
    found = [part["figures"] for part in report["parts"] if part["figures"]]
    joined: dict[str, Any] = {}
    for figures in reversed(found):
        joined |= figures
    if not found:
        return "Nothing was measured."
    versions = ", ".join(f"{name} {number}" for name, number in joined.get("versions", {}).items())
    machine = f"{joined.get('device')}, {joined.get('cores')} cores of {joined.get('cpu')}"
    driver = f", driver {joined['driver']}" if joined.get("driver") else ""
    model = " ".join(str(joined[name]) for name in ("model", "dtype") if joined.get(name))
    return f"{model} on {machine}{driver}; {versions}; commit {joined.get('commit')}, {joined.get('date')}."


def _machine(figures: Figures) -> Iterator[Line]:
    for row in figures["rows"]:
        yield row["what"], f"{_number(row['reached'])} {row['unit']}"


def _recipe(figures: Figures) -> Iterator[Line]:
    shape = f"{figures['size']} × {figures['size']}, {figures['unet_calls']} calls of {figures['scheduler']}"
    for row in figures["rows"]:
        yield (
            f"one picture, {shape}: {row['way']}",
            f"{_number(row['picture_s'])} s ({_number(row['of_the_recipe'])} of the recipe), "
            f"{_number(100 * row['of_the_limit'])} % of the matrix product's rate, "
            f"off by {row['largest_difference']} of 255",
        )


def _engine(figures: Figures) -> Iterator[Line]:
    for row in figures["rows"]:
        rates = [row[way]["pictures_per_s"] for way in ("engine", "queue")]
        yield (
            f"{row['visitors']} visitors at once, pictures a second",
            f"{_number(rates[0])} ({_number(rates[0] / rates[1])} of the queue's {_number(rates[1])}), "
            f"mean wait {_number(row['engine']['mean_latency_s'])} s ({_number(row['queue']['mean_latency_s'])} s)",
        )


def _ladder(figures: Figures) -> Iterator[Line]:
    for row in figures["rows"]:
        said = row["failed"] or (
            f"{row['ended_on']}: four pictures in {_number(row['four_pictures_s'])} s, "
            f"a step {_number(row['step_ms'])} ms, {_number(row['reserved_gib'])} GiB reserved"
        )
        yield f"limit of {_number(row['limit_gb'])} GiB", said


def _faults(figures: Figures) -> Iterator[Line]:
    for row in figures["rows"]:
        yield row["fault"], row["failed"] or f"{row['ended_with']}; {row['before']}, then {row['after']}"


def _startup(figures: Figures) -> Iterator[Line]:
    for way, row in figures["rows"].items():
        yield f"from the command on: {way}", ", ".join(f"{name[:-2]} {_number(s)} s" for name, s in row.items())


def _levers(figures: Figures) -> Iterator[Line]:
    for row in figures["rows"]:
        named = ", ".join(f"{name.replace('_ms', '')} {_number(ms)}" for name, ms in row.items() if name != "lever")
        yield f"lever: {row['lever']}", f"ms: {named}"


TELLERS: dict[str, Callable[[Figures], Iterator[Line]]] = {
    "machine": _machine,
    "recipe": _recipe,
    "v1-4-recipe": _recipe,
    "engine": _engine,
    "ladder": _ladder,
    "faults": _faults,
    "startup": _startup,
    "levers": _levers,
}


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.3g}"
