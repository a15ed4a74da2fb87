"""Measures speed: ``python -m sd_space.tools.bench`` with recipe, engine, batch, size, startup, overhead or scale.

A table for people, and one JSON object as the last line of standard output, with seeds, versions and the machine.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

BENCHMARKS = ("recipe", "engine", "batch", "size", "startup", "overhead", "scale")


def main(argv: Sequence[str] | None = None) -> int:
    import transformers

    transformers.utils.logging.set_verbosity_error()  # importing diffusers makes it warn of optional packages
    parser = argparse.ArgumentParser(prog="python -m sd_space.tools.bench", description=__doc__)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    modules = {name: importlib.import_module(f"sd_space.tools.bench.{name}") for name in BENCHMARKS}
    for name, module in modules.items():
        says = module.__doc__.splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=says, description=module.__doc__))
    options = parser.parse_args(argv)
    figures = modules[options.benchmark].run(options)
    print(json.dumps({"benchmark": options.benchmark, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
