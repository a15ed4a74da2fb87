"""Measures the marks: what the watermark costs and survives, and how long signing takes, on a folder of pictures.

    python -m sd_space.tools.marks FOLDER [--marked 200] [--unmarked 2000]

FOLDER holds pictures without the watermark, PNG or JPEG, of at least 256 pixels a side. A table for people; the last
line is one JSON object.
"""

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from sd_space.serving.certificate import own_folder, own_key
from sd_space.serving.credentials import Claim, Signer
from sd_space.serving.watermark import Pixels, embedded, is_found

Harm = Callable[[Image.Image], Image.Image]


def as_jpeg(quality: int) -> Harm:
    def harmed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return harmed


def resized(share: float, and_back: bool = False) -> Harm:
    def harmed(image: Image.Image) -> Image.Image:
        small = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)
        return small.resize(image.size, Image.Resampling.LANCZOS) if and_back else small

    return harmed


def cut(left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> Harm:
    return lambda image: image.crop((left, top, image.width - right, image.height - bottom))


def pasted(image: Image.Image) -> Image.Image:
    """As a screenshot shows it: its pixels, somewhere in something larger."""
    screen = Image.new("RGB", (image.width + 203, image.height + 101), "white")
    screen.paste(image, (101, 53))
    return screen


HARMS: dict[str, Harm] = {
    "none": lambda image: image,
    **{f"JPEG {quality}": as_jpeg(quality) for quality in (95, 90, 75, 60, 50)},
    "cut 64 at the bottom": cut(bottom=64),
    "cut 64 at the right": cut(right=64),
    "cut 8 at left and top": cut(left=8, top=8),
    "75 % of the size and back": resized(0.75, and_back=True),
    "50 % of the size": resized(0.5),
    "90 % of the size": resized(0.9),
    "a screenshot": pasted,
}


def psnr_db(before: Pixels, after: Pixels) -> float:
    error = np.square(before.astype(np.float64) - after).mean()
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def load(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def watermark_figures(paths: Sequence[Path]) -> dict[str, object]:
    found, psnr, seconds = dict.fromkeys(HARMS, 0), [], []
    for path in paths:
        pixels, began_s = load(path), time.perf_counter()
        marked = embedded(pixels)
        seconds.append(time.perf_counter() - began_s)
        if marked is None:
            continue
        psnr.append(psnr_db(pixels, marked))
        for name, harm in HARMS.items():
            found[name] += is_found(np.asarray(harm(Image.fromarray(marked))))
    return {
        "pictures": len(paths),
        "marked": len(psnr),
        "psnr_db": {"least": round(min(psnr), 2), "median": round(float(np.median(psnr)), 2)},
        "embed_s": {"median": round(float(np.median(seconds)), 4)},
        "found": {name: round(number / len(psnr), 4) for name, number in found.items()},
    }


def signing_s(paths: Sequence[Path]) -> dict[str, float]:
    signer = Signer(own_key(own_folder(), datetime.now(UTC)))
    seconds = []
    for path in paths:
        png = io.BytesIO()
        Image.fromarray(load(path)).save(png, "PNG")
        began_s = time.perf_counter()
        signer.signed(png.getvalue(), Claim("a model", None, datetime.now(UTC), None))
        seconds.append(time.perf_counter() - began_s)
    return {"median": round(float(np.median(seconds)), 4), "most": round(max(seconds), 4)}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--marked", type=int, default=200, help="pictures that are marked and harmed")
    parser.add_argument("--unmarked", type=int, default=2000, help="pictures in which nothing may be found")
    options = parser.parse_args(argv)
    paths = pictures(options.folder)
    if not paths:
        parser.error(f"there are no pictures in {options.folder}")
    step = max(1, len(paths) // options.marked)
    figures = watermark_figures(paths[::step][: options.marked])
    unmarked = paths[: options.unmarked]
    figures["unmarked"] = len(unmarked)
    figures["false_finds"] = sum(is_found(load(path)) for path in unmarked)
    figures["sign_s"] = signing_s(paths[::step][:50])
    for name, value in figures.items():
        lines = [f"{key}: {number}" for key, number in value.items()] if isinstance(value, dict) else [str(value)]
        print(f"{name:<14}" + f"\n{'':14}".join(lines))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
