"""One picture without a page, as the Space draws it, in a fresh process: seconds from the command, by stage."""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import run_to_completion
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("stage", "s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--out", type=Path, help="writes the picture there")


def run(options: argparse.Namespace) -> dict[str, Any]:
    command_s = psutil.Process().create_time()
    ends_s = {"interpreter and imports": time.time()}
    loaded = harness.load(options)
    ends_s["model"] = time.time()
    engine = build_engine(loaded, Settings())
    ends_s["safety screen and calibration"] = time.time()
    (image,) = run_to_completion(engine, harness.request_of(loaded, options)).images
    if options.out and image.pixels is not None:
        pixels = np.frombuffer(image.pixels, np.uint8).reshape(image.height, image.width, 3)
        Image.fromarray(pixels).save(options.out)
    ends_s["picture"] = time.time()
    stages_s = dict(zip(ends_s, np.diff([command_s, *ends_s.values()]).tolist(), strict=True))
    circumstances = harness.circumstances(loaded, options) | {"outcome": str(image.outcome)}
    print(harness.describe(circumstances), flush=True)
    harness.print_table(COLUMNS, [*stages_s.items(), ("in all", sum(stages_s.values()))])
    return {**circumstances, "first_picture_s": sum(stages_s.values()), "stages_s": stages_s}
