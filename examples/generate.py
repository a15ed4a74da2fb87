"""Draws one picture without a page, through the same gate, engine and safety screen.

    python examples/generate.py "a small cabin on a snowy mountain" --seed 1 --out picture.png

Using the model means accepting its licence: https://huggingface.co/spaces/CompVis/stable-diffusion-license
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # runs from a checkout, where nothing is installed

from sd_space.backends import make_backend, until_ready
from sd_space.card import load_card
from sd_space.errors import InvalidSetting, SpaceError
from sd_space.schema import GenerationResult, Outcome, Progress, RequestFailed
from sd_space.serving.gate import Gate
from sd_space.serving.images import render_image
from sd_space.serving.png_text import png_chunks
from sd_space.settings import Settings


async def draw(settings: Settings, values: dict[str, Any], out: Path) -> str:
    """Draws the picture that `values` ask for into `out`; returns what to say about it. Raises SpaceError."""
    gate = Gate(load_card(), settings.secret, settings.token_ttl_s)
    backend = make_backend(settings)
    backend.start()
    try:
        async for stage in until_ready(backend):
            print(f"\r{stage}…".ljust(60), end="", file=sys.stderr)
        info = backend.status().info
        admitted = gate.admit(gate.issue_token(True), values, info)
        async for update in backend.generate(admitted):
            match update:
                case Progress():
                    print(f"\rstep {update.step_index} of {update.num_timesteps}".ljust(60), end="", file=sys.stderr)
                case RequestFailed():
                    raise update.error
                case GenerationResult():
                    image = update.images[0]
        print(file=sys.stderr)
        embed = image.outcome is Outcome.OK
        render_image(image).save(out, "PNG", pnginfo=png_chunks(admitted.request, image.seed, info, embed))
        return f"{out}: seed {image.seed}, {image.outcome}, drawn by {info.model} on {info.device}"
    finally:
        backend.close(0)


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
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    values = vars(parser.parse_args(argv)) | {"num_images_per_prompt": 1}
    try:
        print(asyncio.run(draw(Settings.from_env(os.environ), values, values.pop("out"))))
    except (SpaceError, InvalidSetting) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
