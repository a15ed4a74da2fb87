"""The placeholder of a picture that was withheld or broken: a panel with a sign and words."""

from PIL import Image, ImageDraw, ImageFont

from sd_space.schema import Outcome

PLACEHOLDER_SIDE = 512  # pixels, at least, along the shorter side

# Title and sentence.
_WORDS = {
    Outcome.WITHHELD: ("Withheld", "The safety checker flagged this picture. Try another prompt or seed."),
    Outcome.BROKEN: ("Failed", "The numbers overflowed and nothing was drawn. Try another seed."),
}
_PANELS = {Outcome.WITHHELD: ((228, 231, 240), (71, 78, 105)), Outcome.BROKEN: ((244, 236, 222), (122, 84, 28))}


def placeholder(outcome: Outcome, width: int, height: int) -> Image.Image:
    """A calm panel with a sign and words, in place of a picture that was withheld (a shield) or broken (a zigzag).

    It has the picture's shape, in at least 512 pixels along the shorter side: the page enlarges small ones, and words
    that were enlarged cannot be read.
    """
    background, ink = _PANELS[outcome]
    scale = -(-PLACEHOLDER_SIDE // min(width, height))
    width, height = width * scale, height * scale
    panel = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(panel)
    unit = min(width, height)
    x, y, r, line = width / 2, height * 0.33, unit * 0.13, max(2, unit // 64)
    if outcome is Outcome.WITHHELD:
        shield = [(x - r, y - r), (x, y - r * 1.25), (x + r, y - r), (x + r * 0.9, y + r * 0.4), (x, y + r * 1.2),
                  (x - r * 0.9, y + r * 0.4), (x - r, y - r)]  # fmt: skip
        draw.line(shield, fill=ink, width=line, joint="curve")
        draw.line([(x - r * 0.4, y), (x + r * 0.4, y)], fill=ink, width=line)
    else:
        zigzag = [(x + (k - 3) * r * 0.45, y + (r * 0.7 if k % 2 else -r * 0.7)) for k in range(7)]
        draw.line(zigzag, fill=ink, width=line, joint="curve")
    title, sentence = _WORDS[outcome]
    draw.text((x, height * 0.6), title, fill=ink, font=ImageFont.load_default(unit * 0.1), anchor="mm")
    font = ImageFont.load_default(max(8.0, unit * 0.05))
    lines = wrapped(sentence, font, width * 0.84)
    draw.multiline_text((x, height * 0.68), "\n".join(lines), fill=ink, font=font, anchor="ma", align="center")
    return panel


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """The text in lines that are at most so wide, but for single words that are wider."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
