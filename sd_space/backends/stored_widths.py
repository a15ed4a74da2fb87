"""How many pictures shared a UNet call on this device before, so that a start need not measure it again."""

import json

from sd_space.cache_folder import read_cached_json, write_cached
from sd_space.settings import WIDTHS

NAME = "widths.json"


def read_width(key: str) -> int | None:
    """What was stored under `key`, which names device, model and versions."""
    width = read_cached_json(NAME).get(key)
    return width if type(width) is int and width in WIDTHS else None


def store_width(key: str, width: int) -> None:
    """Replaces what is stored. Where nothing can be written, the next start measures again."""
    write_cached(NAME, json.dumps(read_cached_json(NAME) | {key: width}).encode())
