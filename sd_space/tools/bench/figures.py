"""Figures for machines and for people: as JSON that is never half written, and as tables. No torch."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """`value` as JSON has it: text as keys, numbers of Python's own kinds, and `None` for what is no number."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return plain(value.item()) if hasattr(value, "item") else str(value)


def save(path: Path, figures: Any) -> None:
    """Puts them in the place of what `path` held, at once."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(plain(figures), indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Markdown, so that it can be pasted; numbers with three significant digits, `None` as not measured."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[k]) for row in [list(columns), *cells]) for k in range(len(columns))]
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def _cell(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
