"""Records the example prompts: draws each with the model at hand, and writes pictures, recipes and two sheets of them.

python -m sd_space.tools.record
"""

import argparse
import asyncio
import datetime
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from sd_space.backends import make_backend, until_ready
from sd_space.card import load_card
from sd_space.recorded import CONTACT_SHEET, FOLDER, LINK_PREVIEW
from sd_space.schema import GenerationResult, Outcome
from sd_space.serving.gate import Gate
from sd_space.serving.images import render_image
from sd_space.serving.png_text import png_chunks
from sd_space.serving.recipe import parameters_text
from sd_space.settings import Settings

SHEET_TILE = (256, 256)  # pixels
LINK_TILE = (400, 315)  # six fill 1200 x 630, the size that shows a link's picture whole


async def record(settings: Settings, seed: int, folder: Path) -> list[dict]:
    """Draws one picture of each example with `seed`, or with the next seed where that is not ok."""
    gate, backend = Gate(load_card(), None, settings.token_ttl_s), make_backend(settings)
    backend.start()
    try:
        async for _ in until_ready(backend):
            pass
        info = backend.status().ready_info
        recorded = []
        for example in load_card().examples:
            values = {"prompt": example.text, "num_images_per_prompt": 4, "seed": seed}
            admitted = gate.admit_operator(values, info)
            async for update in backend.generate(admitted):
                if isinstance(update, GenerationResult):
                    image = next(image for image in update.images if image.outcome is Outcome.OK)
            name = re.sub(r"[^a-z]+", "-", example.title.lower()) + ".png"
            request = admitted.request
            recipe = parameters_text(request, image.seed, info)
            render_image(image).save(folder / name, "PNG", pnginfo=png_chunks(info, recipe))
            recorded.append(
                {
                    "title": example.title,
                    "prompt": example.text,
                    "recorded": {
                        "file": f"{folder.name}/{name}",
                        "seed": image.seed,
                        "num_inference_steps": request.num_inference_steps,
                        "guidance_scale": request.guidance_scale,
                        "scheduler": request.scheduler,
                        "model": info.title,
                        "device": info.device,
                        "recorded_on": datetime.date.today().isoformat(),
                    },
                }
            )
        return recorded
    finally:
        backend.close(0)


def sheet(paths: Sequence[Path], tile: tuple[int, int]) -> Image.Image:
    """The pictures three in a row, each enlarged to `tile` (pixels) and cut where that has another shape."""
    sheet = Image.new("RGB", (3 * tile[0], -(-len(paths) // 3) * tile[1]))
    for index, path in enumerate(paths):
        with Image.open(path) as picture:
            enlarged = ImageOps.fit(picture, tile, Image.Resampling.LANCZOS)
        sheet.paste(enlarged, (index % 3 * tile[0], index // 3 * tile[1]))
    return sheet


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the first picture tried for each prompt")
    seed = parser.parse_args(argv).seed
    folder = FOLDER / "recorded"
    folder.mkdir(exist_ok=True)
    lines = asyncio.run(record(Settings.from_env(os.environ), seed, folder))
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (FOLDER / "prompts.jsonl").write_text(text, encoding="utf-8")
    pictures = [FOLDER / line["recorded"]["file"] for line in lines]
    sheet(pictures, SHEET_TILE).save(CONTACT_SHEET)
    sheet(pictures, LINK_TILE).save(LINK_PREVIEW, optimize=True)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
