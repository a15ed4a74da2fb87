"""What is taken home of an experiment: a labelled sheet, and an archive of pictures, tables and the card's citation."""

import csv
import io
import json
import math
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sd_space.errors import EngineFailed
from sd_space.schema import Outcome
from sd_space.serving.grid import Cell, Row, cells_of
from sd_space.serving.recipe import parameters_text, recipe_values
from sd_space.serving.results import GONE, ResultStore
from sd_space.serving.sheet import sheet, sheet_recipe


def save_files(store: ResultStore, rows: Sequence[Row], citation: str) -> tuple[Path, Path]:
    """The sheet and the archive, which expire with the pictures. Raises EngineFailed, also where no picture is left."""
    cells = cells_of(rows)
    first = next((cell for cell in cells if cell.picture is not None), None)
    if first is None:
        raise EngineFailed(GONE)
    run = first.run
    parameters = parameters_text(run.admitted.request, run.admitted.request.seed, run.info)
    image = sheet(rows, sheet_recipe(rows, parameters))
    sheet_path = store.add(run.request_id, "sheet.png", lambda file: store.marks.write_sheet(file, image, run.info))

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:  # stored: a PNG is compressed already
            archive.write(sheet_path, "sheet.png")
            for number, cell in enumerate(cells):
                if cell.is_shown and cell.picture is not None:
                    archive.write(cell.picture.path, _file_name(number, cell))
                for path in _inspected(cell):
                    archive.write(path, f"{number + 1:02d}-{path.name}")
            for name, text in _texts(rows, citation).items():
                archive.writestr(name, text)

    return sheet_path, store.add(run.request_id, "experiment.zip", write)


def _texts(rows: Sequence[Row], citation: str) -> dict[str, str]:
    records = experiment_records(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, dict.fromkeys(name for record in records for name in record))
    writer.writeheader()
    writer.writerows(records)
    return {
        "drawn.csv": table.getvalue(),
        "drawn.json": json.dumps({"pictures": records, "citation": citation}, indent=2, ensure_ascii=False),
        "citation.bib": f"{citation}\n",
    }


def experiment_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A record of each picture that was asked for: its labels, outcome, file, recipe, model and time."""
    labelled = [(row.label, cell) for row in rows for cell in row.cells]
    return [
        {
            "row": label,
            "column": cell.label,
            "outcome": cell.outcome,
            "file": _file_name(number, cell) if cell.is_shown else "",
            **recipe_values(cell.run.admitted.request),
            "model": cell.run.info.model,
            "revision": cell.run.info.revision,
            "device": cell.run.info.device,
            "runtime": cell.run.info.runtime,
            "drawn_at": _drawn_at(cell),
            **_psnr(cell),
        }
        for number, (label, cell) in enumerate(labelled)
    ]


def _inspected(cell: Cell) -> list[Path]:
    """The files of what an inspection shows of a picture."""
    paths = [picture.path for picture in cell.run.inspected.values() if picture.outcome is Outcome.OK]
    paths += [cell.run.difference.path] if cell.run.difference else []
    return [path for path in paths if path.is_file()]


def _psnr(cell: Cell) -> dict[str, float]:
    """Of a picture that was encoded and decoded once more; JSON knows no infinity."""
    difference = cell.run.difference
    return {"psnr_db": round(difference.psnr_db, 2)} if difference and math.isfinite(difference.psnr_db) else {}


def _file_name(number: int, cell: Cell) -> str:
    return f"{number + 1:02d}-seed-{cell.run.admitted.request.seed}.png"


def _drawn_at(cell: Cell) -> str:
    """When its file was written, in UTC; nothing where there is none."""
    if cell.picture is None:
        return ""
    return datetime.fromtimestamp(cell.picture.path.stat().st_mtime, UTC).isoformat(timespec="seconds")
