"""Draws or changes one picture without a page, through the same gate, engine and safety screen.

    python examples/generate.py "a small cabin on a snowy mountain" --seed 1 --out picture.png
    python examples/generate.py "a red cabin on a snowy mountain" --init-image picture.png --strength 0.6 --out red.png

Using the model means accepting its licence: https://huggingface.co/spaces/CompVis/stable-diffusion-license
"""

import argparse
import asyncio
import base64
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # runs from a checkout, where nothing is installed

from sd_space.backends import make_backend, until_ready
from sd_space.card import load_card
from sd_space.errors import CannotStart, SpaceError
from sd_space.schema import GenerationResult, Progress, RequestFailed
from sd_space.serving.gate import Gate
from sd_space.serving.marks import Marks
from sd_space.settings import Settings


def progress_line() -> Callable[[str], None]:
    """Shows how far it is, on one line of a terminal that is written over; a file or a pipe gets one line in all."""
    if sys.stderr.isatty():
        return lambda text: print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)
    print("drawing…", file=sys.stderr)
    return lambda text: None


async def draw(settings: Settings, values: dict[str, Any], out: Path) -> str:
    """Draws the picture that `values` ask for into `out`; returns what to say about it. Raises SpaceError."""
    show, marks = progress_line(), Marks.from_settings(settings)
    gate = Gate(load_card(), settings.secret, settings.token_ttl_s)
    backend = make_backend(settings)
    backend.start()
    try:
        async for stage in until_ready(backend):
            show(f"{stage}…")
        info = backend.status().info
        admitted = gate.admit_operator(values, info)
        async for update in backend.generate(admitted):
            match update:
                case Progress():
                    show(f"step {update.step_index} of {update.num_timesteps}")
                case RequestFailed():
                    raise update.error
                case GenerationResult():
                    image = update.images[0]
        with out.open("wb") as file:
            marks.write(file, image, admitted.request, info, embed_recipe=True)
        return f"{out}: seed {image.seed}, {image.outcome}, drawn by {info.model} on {info.device}"
    finally:
        show("")
        backend.close(0)


def data_uri(path: str) -> str:
    """A file as requests bring it."""
    try:
        return f"data:;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--negative-prompt", default="")
    parser.add_argument("--seed", type=int, default=-1, help="-1 for a random one")
    parser.add_argument("--steps", type=int, dest="num_inference_steps", help="the model's own when left out")
    parser.add_argument("--guidance", type=float, dest="guidance_scale", help="the model's own when left out")
    parser.add_argument("--scheduler", help="the model's own when left out")
    parser.add_argument("--width", type=int)
    parser.add_argument("--height", type=int)
    parser.add_argument("--init-image", type=data_uri, help="the picture to start from: a PNG, JPEG or WebP file")
    parser.add_argument("--mask", type=data_uri, help="what may change of it: white is drawn anew, black stays")
    parser.add_argument("--strength", type=float, help="how much of it may change, from 0 to 1; 0.8 when left out")
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    values = vars(parser.parse_args(argv)) | {"num_images_per_prompt": 1}
    try:
        print(asyncio.run(draw(Settings.from_env(os.environ), values, values.pop("out"))))
    except (SpaceError, CannotStart) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
