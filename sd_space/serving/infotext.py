"""A picture's recipe as text in its PNG, in the form that other tools read back, and read back exactly here.

    a cabin, snow
    Negative prompt: people
    Steps: 20, Sampler: PLMS, CFG scale: 7.5, Seed: 7, Size: 512x512, Model: "one, or: another"

Values that hold a comma, a colon or a quote are JSON strings. Readers find the parts by their names, so a prompt never
holds one of these with its colon: it is written "Steps :", which CLIP's tokenizer cannot tell from it, and word for
word once more at the end, where readers that do not know the pair leave it alone.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

_NEGATIVE = "Negative prompt: "
_AS_WRITTEN = ("Prompt as written", "Negative as written")
_PART_NAME = re.compile(r"(negative prompt|steps):", re.IGNORECASE)
_PAIR = re.compile(r'(\w[\w /-]{1,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')


def write(prompt: str, negative_prompt: str, values: Mapping[str, Any]) -> str:
    """The text of a recipe; `values` are the pairs of its last line, in order."""
    words = (_plain(prompt), _plain(negative_prompt))
    pairs = [f"{name}: {_quoted(str(value))}" for name, value in values.items()]
    for name, text, plain in zip(_AS_WRITTEN, (prompt, negative_prompt), words, strict=True):
        if text != plain:
            pairs.append(f"{name}: {json.dumps(text).replace(':', chr(92) + 'u003a')}")
    negative = [_NEGATIVE + words[1]] if words[1] else []
    return "\n".join([words[0], *negative, ", ".join(pairs)])


def read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs of what `write` or another tool has written, there on several lines."""
    *lines, last = text.strip().split("\n")
    values = {name: _unquoted(value) for name, value in _PAIR.findall(last)}
    start = next((k for k, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    words = ("\n".join(lines[:start]), "\n".join(lines[start:]).removeprefix(_NEGATIVE))
    prompt, negative_prompt = (values.pop(name, plain) for name, plain in zip(_AS_WRITTEN, words, strict=True))
    return prompt, negative_prompt, values


def _plain(text: str) -> str:
    """On one line, without the names of parts, and with nothing that a PNG cannot hold."""
    one_line = " ".join(text.encode("utf-8", "replace").decode().split())
    return _PART_NAME.sub(r"\1 :", one_line)


def _quoted(value: str) -> str:
    is_plain = value and value.isprintable() and value == value.strip() and not re.search('[,:"]', value)
    if is_plain:
        return value
    is_text = value.encode("utf-8", "replace").decode() == value
    return json.dumps(value, ensure_ascii=not is_text)


def _unquoted(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip()
    except ValueError:  # another tool's way to quote
        return value.strip('"')
