"""Measures speed: ``python -m sd_space.tools.bench`` with report (all that this machine can show) or one of the others.

A table for people, and one JSON object as the last line of standard output, with seeds, versions and the machine.
"""

import argparse
import ast
import faulthandler
import importlib
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sd_space.tools.bench.figures import plain, save

BENCHMARKS = (
    "report", "machine", "recipe", "exactness", "batch", "size", "engine", "ladder", "startup", "clock", "faults",
    "schedulers", "levers", "attention", "recordings", "overhead", "scale", "picture", "processes", "mixed", "strip",
    "gpu_tests",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--figures", type=Path, metavar="FILE", help="keeps there what is known so far, row by row")
    common.add_argument("--limit", type=float, metavar="SECONDS", help="ends then, and tells where it was")
    known, _ = common.parse_known_args(argv)
    if known.limit:  # counts from here on: the imports alone may take long
        faulthandler.dump_traceback_later(known.limit, exit=True)
    parser = argparse.ArgumentParser(prog="python -m sd_space.tools.bench", description=__doc__, parents=[common])
    commands = parser.add_subparsers(dest="benchmark", required=True)
    chosen = next((word for word in argv if word in BENCHMARKS), None)
    for name in BENCHMARKS:  # only the chosen one is imported: the others may need packages that are not there
        command = commands.add_parser(name, help=summary_of(name))
        if name == chosen:
            module = load(name)
            command.description = module.__doc__
            module.add_arguments(command)
    options = parser.parse_args(argv)
    figures = {"benchmark": options.benchmark, **module.run(options)}
    if options.figures:
        save(options.figures, figures)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(plain(figures)))
    return 0


def load(name: str):
    """The benchmark's module. All but the report, which measures in processes of their own, need torch."""
    if name != "report":
        from sd_space.model.lean_imports import import_lean

        import_lean()  # as an engine's process does: else each part of a report spends two seconds more on it
        import transformers

        transformers.utils.logging.set_verbosity_error()  # importing diffusers makes it warn of optional packages
    return importlib.import_module(f"sd_space.tools.bench.{name}")


def summary_of(name: str) -> str:
    """The first line of the module's docstring, without importing it."""
    spec = find_spec(f"sd_space.tools.bench.{name}")
    assert spec is not None and spec.origin is not None, "each benchmark is a file"
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or name
    return docstring.splitlines()[0].replace("%", "%%")


if __name__ == "__main__":
    sys.exit(main())
