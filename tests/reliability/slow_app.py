"""The app with a model that takes its time to load."""

from collections.abc import Sequence

import app
from sd_space.model import pipeline

from .faults import slow


def main(argv: Sequence[str] | None = None) -> int:
    pipeline._load_snapshot = slow(pipeline._load_snapshot, 30.0)
    return app.main(argv)
