"""The HTML of experiments: labelled pictures, two of them one over the other, and what is said of them."""

from collections.abc import Sequence
from html import escape

from sd_space.errors import SpaceError
from sd_space.languages import said, translate
from sd_space.schema import Outcome
from sd_space.serving.grid import Cell, Row, cells_of
from sd_space.ui import changing_views, inspection_views, run_views, views


def introduction() -> str:
    words = translate(
        "The same prompt and the same seed, and one thing changed: what you see is what that thing does. The guidance "
        "scales offered are those with which the model card evaluates Stable Diffusion."
    )
    return f"<p>{words}</p>"


def progress(rows: Sequence[Row], note: str = "") -> str:
    """How far the experiment is, and a tile for each of its pictures."""
    cells = cells_of(rows)
    ready = sum(cell.run.is_done for cell in cells)
    under_way = [cell.run.progress for cell in cells if cell.run.progress and not cell.run.is_done]
    left = max((p.seconds_left for p in under_way if p.seconds_left is not None), default=None)
    done = sum(1.0 if c.run.is_done else c.run.progress.fraction_done if c.run.progress else 0.0 for c in cells)
    progress = translate("{done} of {count} ready", done=ready, count=len(cells))
    words = [progress, *([views.time_left(left)] if left is not None else []), note]
    if decoded := sum(len(cell.run.inspected) for cell in cells):
        words.insert(1, translate("{count} decoded to look at", count=decoded))
    label = translate("Progress of the experiment")
    return (
        f'<p class="note" data-drawing>{escape(" · ".join(filter(None, words)))}</p>'
        f'<progress value="{done / len(cells):.3f}" max="1" aria-label="{label}"></progress>'
        f"{_rows(rows)}"
    )


def pictures(rows: Sequence[Row], ttl_s: int, lesson: str) -> str:
    """The pictures, what there is to see in them, and any two of them, one over the other."""
    words = translate("Kept here for {time}; keep what you need as a sheet.", time=views.setting_duration(ttl_s))
    kept = f"<p>{words}</p>"
    if (cells := cells_of(rows))[0].run.admitted.inspection is not None:
        return f"{inspection_views.inspected(cells)}{lesson}{kept}"
    return f"{_rows(rows)}{lesson}{kept}{_two(rows)}"


def summary(rows: Sequence[Row]) -> str:
    """How many pictures there are, and how many are left out for which reason."""
    outcomes = [cell.outcome for cell in cells_of(rows)]
    shown = outcomes.count(Outcome.OK)
    parts = [translate("1 picture.") if shown == 1 else translate("{count} pictures.", count=shown)]
    more = ""
    if withheld := outcomes.count(Outcome.WITHHELD):
        parts.append(run_views.held_back(withheld, len(outcomes)))
        more = run_views.why()
    if broken := outcomes.count(Outcome.BROKEN):
        words = translate("{broken} of {count} could not be calculated.", broken=broken, count=len(outcomes))
        parts.append(words)
    not_shown = [(words, outcomes.count(name)) for name, words in run_views.NOT_SHOWN.items() if name in outcomes]
    parts += [f"{translate(words)}: {count}." for words, count in not_shown]
    failed = [cell.run.outcome for cell in cells_of(rows) if cell.outcome == "failed"]
    errors = dict.fromkeys(views.refusal(error) for error in failed if isinstance(error, SpaceError))
    return views.note(" ".join([*parts, *errors]), "done", more=more)


def files(sheet: str, archive: str) -> str:
    """Links to what was made of an experiment's pictures."""
    parts = translate("with the pictures, what was drawn as CSV and JSON, and the citation of the model card.")
    return (
        f'<p><a href="gradio_api/file={escape(sheet)}" download>{translate("Sheet (PNG)")}</a> '
        f'<a href="gradio_api/file={escape(archive)}" download>{translate("All of it (zip)")}</a> {parts}</p>'
    )


def _rows(rows: Sequence[Row]) -> str:
    html = ""
    for row in rows:
        heading = f"<h3>{escape(said(row.label))}</h3>" if row.label else ""
        html += f'{heading}<div class="strip">{"".join(_figure(row, cell) for cell in row.cells)}</div>'
    return html


def _figure(row: Row, cell: Cell) -> str:
    return f"<figure>{_tile(row, cell)}<figcaption>{run_views.caption(cell.label, cell.outcome)}</figcaption></figure>"


def _tile(row: Row, cell: Cell) -> str:
    preview = next(iter(cell.run.progress.previews), None) if cell.run.progress else None
    tile = run_views.tile(cell.run.admitted.request, _name(row, cell), cell.picture, preview)
    if cell.picture is None:
        return tile
    return f'<a href="{_address(cell)}" target="_blank" rel="noopener">{tile}</a>'


def _two(rows: Sequence[Row]) -> str:
    """Two pictures to compare, the first and the last one until others are chosen; nothing where there are no two."""
    named = [(_name(row, cell), _address(cell)) for row in rows for cell in row.cells if cell.is_shown]
    if len(named) < 2:
        return ""
    chosen = [
        f'<label>{side} <select aria-label="{side}">{_options(named, index)}</select></label>'
        for side, index in ((translate("Before"), 0), (translate("After"), len(named) - 1))
    ]
    figure = changing_views.comparison("two-compared", named[0][1], named[-1][1])
    label = translate("Two of them, one over the other")
    return f'<div id="choose-two" role="group" aria-label="{label}">{"".join(chosen)}</div>{figure}'


def _options(named: Sequence[tuple[str, str]], chosen: int) -> str:
    return "".join(
        f'<option value="{address}"{" selected" * (k == chosen)}>{escape(name)}</option>'
        for k, (name, address) in enumerate(named)
    )


def _name(row: Row, cell: Cell) -> str:
    label = said(cell.label)
    return f"{said(row.label)}, {label}" if row.label else label


def _address(cell: Cell) -> str:
    assert cell.picture is not None, "has a file"
    return f"gradio_api/file={escape(str(cell.picture.path))}"
