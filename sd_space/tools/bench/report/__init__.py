"""All that this machine can show, the most important first, each part in a process of its own, within a budget of time.

Writes `report.json` and `report.md` (whole after every part), `report.log` (the tables), `errors.log`, and while a part
runs its rows so far in `running.json`. A part that fails, hangs or is killed costs its own figures and its own time.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sd_space.tools.bench.report.parts import MACHINE, Part, command_of, left_out, parts_for
from sd_space.tools.bench.report.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where everything is written")
    parser.add_argument("--budget", type=float, default=540.0, metavar="SECONDS", help="in all (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="of the parts, in their own order")
    parser.add_argument(
        "--model", help="default: v1-4-random on CUDA (v1-4 with random weights), else the picture book"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--size", type=int, help="pixels a side (default: the model's)")
    parser.add_argument("--steps", type=int, help="inference steps (default: the model's)")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    asked = {name: getattr(options, name) for name in ("model", "device", "size", "steps", "seed")}
    kind = options.device

    def command(part: Part, running: Path, limit_s: float) -> list[str]:
        own = ["--figures", str(running), "--limit", f"{limit_s:.1f}", part.benchmark, *command_of(part, asked, kind)]
        return [sys.executable, "-m", "sd_space.tools.bench", *own]

    session = Session(options.out, options.budget, command)
    with ended_by_sigterm():
        try:
            machine = session.measure(MACHINE)
            # Where even that fails, the parts for a CPU can still tell something.
            kind = machine.get("kind", "cpu")
            names = set(options.only or ())
            session.measure_all([part for part in parts_for(kind) if not names or part.name in names])
            for name, reason in left_out(kind).items():
                if not names or name in names:
                    session.leave_out(name, reason)
            session.finish()
        finally:
            session.print_table()
    return session.report


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does: what it has started ends with it, and what it knows is saved."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
