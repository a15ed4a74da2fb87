"""The operator's console: the program runs on whatever characters it can show, and also where it is closed."""

import contextlib
import os
import sys


def make_printable() -> None:
    """Signs that the console's encoding lacks are written as escapes; where no console is, there is one to write to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed: the next file or socket that is opened would take its place
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good
        elif mode == "w" and hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError, ValueError):  # what it still held could not be written
                stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Prints for the operator, who may have closed the terminal."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter fails at its end
