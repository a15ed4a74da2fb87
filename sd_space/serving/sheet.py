"""The sheet of a grid: its pictures in labelled rows above the recipe, as one picture to print or to show."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sd_space.serving.grid import Cell, Row, cells_of
from sd_space.serving.placeholder import wrapped

_PICTURE, _GAP, _SIZE = 256, 16, 18  # pixels: a picture's longer side, the space between two, a line's letters
_LINE = _SIZE * 4 // 3
_INK, _PAPER = (28, 32, 48), (255, 255, 255)


def sheet(rows: Sequence[Row], recipe: str) -> Image.Image:
    """The pictures whose files exist, the placeholders of those that are not shown among them, and the recipe."""
    font = ImageFont.load_default(_SIZE)
    columns = max(len(row.cells) for row in rows)
    width = max(4, columns) * (_PICTURE + _GAP) + _GAP
    words = wrapped(recipe, font, width - 2 * _GAP)
    heights = [_row_height(row, font, width) for row in rows]
    image = Image.new("RGB", (width, sum(heights) + len(words) * _LINE + 3 * _GAP), _PAPER)
    draw, y = ImageDraw.Draw(image), _GAP
    for row, height in zip(rows, heights, strict=True):
        _draw_row(image, draw, font, row, y)
        y += height
    draw.multiline_text((_GAP, y + _GAP), "\n".join(words), _INK, font)
    return image


def _row_height(row: Row, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> int:
    lines = len(wrapped(row.label, font, width - 2 * _GAP)) if row.label else 0
    return (lines + _caption_lines(row, font)) * _LINE + _PICTURE + _GAP


def _caption_lines(row: Row, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(len(wrapped(_caption(cell), font, _PICTURE)) for cell in row.cells)


def _caption(cell: Cell) -> str:
    return cell.label if cell.is_shown else f"{cell.label}: {cell.outcome}"


def _draw_row(
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    row: Row,
    y: int,
) -> None:
    if row.label:
        heading = wrapped(row.label, font, image.width - 2 * _GAP)
        draw.multiline_text((_GAP, y), "\n".join(heading), _INK, font)
        y += len(heading) * _LINE
    for column, cell in enumerate(row.cells):
        x = _GAP + column * (_PICTURE + _GAP)
        if cell.picture is not None:
            with Image.open(cell.picture.path) as file:
                scale = _PICTURE / max(file.size)
                scaled = file.convert("RGB").resize((round(file.width * scale), round(file.height * scale)))
            image.paste(scaled, (x, y))
        draw.multiline_text((x, y + _PICTURE), "\n".join(wrapped(_caption(cell), font, _PICTURE)), _INK, font)


def sheet_recipe(rows: Sequence[Row], parameters: str) -> str:
    """What stands below the pictures: how the first of them was made, and how many are not shown."""
    outcomes = [cell.outcome for cell in cells_of(rows) if not cell.is_shown]
    left_out = "".join(f" {outcomes.count(name)} {name}." for name in dict.fromkeys(outcomes))
    one_line = " · ".join(parameters.splitlines())
    return f"AI-generated. Made with, but for what the labels say: {one_line}.{left_out}"
