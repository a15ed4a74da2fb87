"""The app with a model that takes its time to load."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import app
from sd_space.backends import engine_process
from sd_space.model import pipeline

from .faults import slow


def main(argv: Sequence[str] | None = None) -> int:
    engine_process.run = partial(run_slowly, engine_process.run)
    return app.main(argv)


def run_slowly(run: Callable[..., None], *arguments: Any) -> None:
    """In the engine's process."""
    pipeline._load_snapshot = slow(pipeline._load_snapshot, 30.0)
    run(*arguments)
