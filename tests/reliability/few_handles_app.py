"""The app where a process may have few files open."""

import resource
from collections.abc import Sequence

import app

HANDLES = 256


def main(argv: Sequence[str] | None = None) -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (HANDLES, HANDLES))
    return app.main(argv)
