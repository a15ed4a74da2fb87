"""Files in the user's cache that spare a later start some work, in a private folder; any of them may be lost."""

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "sd_space")


def read_cached(name: str) -> bytes | None:
    """The file's content; `None` where there is none, or where another user could have written it."""
    with contextlib.suppress(OSError), (cache_folder() / name).open("rb") as file:
        if _is_ours_alone(os.fstat(file.fileno())):
            return file.read()
    return None


def read_cached_json(name: str) -> dict[str, Any]:
    """What the file holds by name; nothing where it is no JSON object, or cannot be read as `read_cached` does."""
    with contextlib.suppress(ValueError):
        values = json.loads(read_cached(name) or b"")
        if isinstance(values, dict):
            return values
    return {}


def write_cached(name: str, data: bytes) -> None:
    """Replaces the file in one step. Where nothing can be written, nothing is."""
    path = cache_folder() / name
    with contextlib.suppress(OSError):
        _make_private(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            try:
                file.write(data)
                file.close()
                os.replace(file.name, path)
            except OSError:  # a full disk
                os.unlink(file.name)


def private_folder(name: str) -> Path | None:
    """A folder for a library's own files; `None` where it cannot be made, or another user could write to it."""
    folder = cache_folder() / name
    with contextlib.suppress(OSError):
        _make_private(folder)
        if all(_is_ours_alone(each.stat()) for each in (cache_folder(), folder)):
            return folder
    return None


def _make_private(inner: Path) -> None:
    for folder in (cache_folder(), inner):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)


def _is_ours_alone(about: os.stat_result) -> bool:
    if not hasattr(os, "getuid"):  # no owners and modes to go by
        return True
    return about.st_uid == os.getuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
