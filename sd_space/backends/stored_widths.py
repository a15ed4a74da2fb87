"""How many pictures shared a UNet call on this device before, so that a start need not measure it again."""

import contextlib
import json

from sd_space.cache_folder import read_cached, write_cached
from sd_space.settings import WIDTHS

NAME = "widths.json"


def read_width(key: str) -> int | None:
    """What was stored under `key`, which names device, model and versions."""
    width = _read().get(key)
    return width if type(width) is int and width in WIDTHS else None


def store_width(key: str, width: int) -> None:
    """Replaces what is stored. Where nothing can be written, the next start measures again."""
    write_cached(NAME, json.dumps(_read() | {key: width}).encode())


def _read() -> dict[str, object]:
    with contextlib.suppress(ValueError):
        values = json.loads(read_cached(NAME) or b"")
        if isinstance(values, dict):
            return values
    return {}
