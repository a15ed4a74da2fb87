"""How many pictures shared a UNet call on this device before, so that a start need not measure it again."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from sd_space.settings import WIDTHS


def _path() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "sd_space", "widths.json")


def read_width(key: str) -> int | None:
    """What was stored under `key`, which names device, model and versions."""
    width = _read().get(key)
    return width if type(width) is int and width in WIDTHS else None


def store_width(key: str, width: int) -> None:
    """Replaces what is stored. Where nothing can be written, the next start measures again."""
    path = _path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(_read() | {key: width}, file)
        os.replace(file.name, path)


def _read() -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        values = json.loads(_path().read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    return {}
