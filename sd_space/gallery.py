"""Results as files: PNGs with their recipe, captions, placeholders, previews, and the janitor that deletes them all.

A result lives in a folder with an unguessable name; who knows the name may see it until it expires. The names of the
files inside are for people.
"""

import base64
import io
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sd_space.faults import described
from sd_space.schema import (
    EngineFailed,
    GenerationRequest,
    GenerationResult,
    ModelInfo,
    Outcome,
    Preview,
    ScreenedImage,
)

logger = logging.getLogger(__name__)

PLACEHOLDER_SIDE = 512  # pixels, at least, along the shorter side
_SWEEPS_PER_TTL = 4
# The samplers' names in other tools' "parameters" chunks, where they differ from ours.
_SAMPLERS = {"PNDM": "PLMS"}
# IPTC's term for media that a trained model made, as the "digital source type" of XMP.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType='
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>'
)

# Title and sentence of a placeholder, and how the caption ends.
_WORDS = {
    Outcome.WITHHELD: ("Withheld", "The safety checker flagged this picture. Try another prompt or seed."),
    Outcome.BROKEN: ("Failed", "The numbers overflowed and nothing was drawn. Try another seed."),
}
_CAPTIONS = {
    Outcome.OK: "",
    Outcome.WITHHELD: ": withheld by the safety checker",
    Outcome.BROKEN: ": failed numerically",
}
_PANELS = {Outcome.WITHHELD: ((228, 231, 240), (71, 78, 105)), Outcome.BROKEN: ((244, 236, 222), (122, 84, 28))}


@dataclass(frozen=True, slots=True)
class SavedPicture:
    """A finished picture on disk; `caption` is also its alternative text."""

    path: Path
    seed: int
    outcome: Outcome
    caption: str


class ResultStore:
    """Owns the folder of results: writes them, and deletes them when they are older than `ttl_s` seconds.

    Ages are taken on a monotonic clock, so that a clock that is set forward deletes nothing early; folders left by an
    earlier process go by their modification time.
    """

    def __init__(
        self,
        folder: str | None,
        ttl_s: float,
        now_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ):
        self.root = Path(folder or Path(tempfile.gettempdir()) / f"sd_space-results-{os.getuid()}").resolve()
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._wall_s = wall_s
        self._folders: dict[str, Path] = {}  # by request
        self._made_s: dict[Path, float] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._keep_clean, name="janitor", daemon=True)

    def start(self) -> None:
        """Makes the folder, readable by this user only, and starts the janitor."""
        self._make(self.root)
        self._janitor.start()

    def close(self) -> None:
        """Stops the janitor and deletes the results of this process."""
        self._closing.set()
        if self._janitor.is_alive():
            self._janitor.join()
        with self._lock:
            for folder in self._made_s:
                shutil.rmtree(folder, ignore_errors=True)

    def save(
        self,
        request_id: str,
        index: int,
        image: ScreenedImage,
        request: GenerationRequest,
        info: ModelInfo,
        embed_recipe: bool,
    ) -> SavedPicture:
        """Writes picture `index` of a request, or the placeholder of one that was withheld or broken.

        Raises EngineFailed when the disk does not take it.
        """
        is_ok = image.outcome is Outcome.OK
        name = f"seed-{image.seed}.png" if is_ok else f"seed-{image.seed}-{image.outcome}.png"
        chunks = png_chunks(request, image.seed, info, embed_recipe and is_ok)
        path = self._write(request_id, name, lambda file: picture_of(image).save(file, "PNG", pnginfo=chunks))
        return SavedPicture(path, image.seed, image.outcome, caption(image.outcome, image.seed))

    def zip(self, request_id: str, pictures: Sequence[SavedPicture]) -> Path | None:
        """One archive of the pictures that may be seen, or `None` when there are none. Raises EngineFailed."""
        shown = [picture for picture in pictures if picture.outcome is Outcome.OK]
        if not shown:
            return None

        def write(file: io.BufferedIOBase) -> None:
            with zipfile.ZipFile(file, "w") as archive:  # stored, not deflated: a PNG is compressed already
                for picture in shown:
                    archive.write(picture.path, picture.path.name)

        return self._write(request_id, f"pictures-seed-{shown[0].seed}.zip", write)

    def sweep(self) -> None:
        """Deletes what has expired, whole folders at a time."""
        with self._lock:
            expired = [folder for folder, made_s in self._made_s.items() if made_s <= self._now_s() - self._ttl_s]
            for folder in expired:
                del self._made_s[folder]
            self._folders = {key: folder for key, folder in self._folders.items() if folder in self._made_s}
            kept = set(self._made_s)
        for folder in expired:
            shutil.rmtree(folder, ignore_errors=True)
        oldest_s = self._wall_s() - self._ttl_s
        leftovers = [f for f in self.root.iterdir() if f not in kept and f.stat().st_mtime <= oldest_s]
        for folder in leftovers:
            shutil.rmtree(folder, ignore_errors=True)

    def _keep_clean(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception as error:  # the next sweep tries again: this thread is the promise that files go away
                logger.error("results could not be swept:\n%s", described(error))
            if self._closing.wait(self._ttl_s / _SWEEPS_PER_TTL):
                return

    def _write(self, request_id: str, name: str, write: Callable[[io.BufferedIOBase], Any]) -> Path:
        try:
            folder = self._folder(request_id)
            path, part = folder / name, folder / f".{name}"
            with part.open("wb") as file:
                write(file)
            return part.replace(path)  # nobody sees half a file
        except OSError as error:
            logger.error("request %s: a result could not be saved: %s", request_id, error.strerror)
            raise EngineFailed("A picture could not be saved on the server; please try again later.") from None

    def _folder(self, request_id: str) -> Path:
        with self._lock:
            folder = self._folders.get(request_id)
            if folder is None or not folder.is_dir():
                folder = self.root / secrets.token_urlsafe(16)
                self._make(self.root)  # it may have gone, with all that was in the temporary folder
                self._make(folder)
                self._folders[request_id] = folder
                self._made_s[folder] = self._now_s()
            return folder

    @staticmethod
    def _make(folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def picture_of(image: ScreenedImage) -> Image.Image:
    """What a visitor sees of a finished picture: the picture, or its placeholder."""
    if image.outcome is Outcome.OK:
        return Image.frombytes("RGB", (image.width, image.height), image.pixels)
    return placeholder(image.outcome, image.width, image.height)


def caption(outcome: Outcome, seed: int) -> str:
    """What stands below a picture and is read out for it."""
    return f"Seed {seed}{_CAPTIONS[outcome]}"


def png_chunks(request: GenerationRequest, seed: int, info: ModelInfo, embed_recipe: bool) -> PngInfo:
    """What a PNG says about itself: always that a model made it; the recipe where the visitor wants it."""
    chunks = PngInfo()
    if embed_recipe:
        chunks.add_itxt("parameters", parameters_text(request, seed, info))
    chunks.add_text("Software", "sd_space")
    chunks.add_text("Source", f"AI-generated with {info.title}")
    chunks.add_itxt("XML:com.adobe.xmp", _XMP)
    return chunks


def parameters_text(request: GenerationRequest, seed: int, info: ModelInfo) -> str:
    """The recipe in the form that other tools read back: prompt, negative prompt, then `Name: value` pairs."""
    lines = [request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    pairs = {
        "Steps": request.num_inference_steps,
        "Sampler": _SAMPLERS.get(request.scheduler, request.scheduler),
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": info.model,
    }
    if info.revision:
        pairs["Model hash"] = info.revision[:10]
    if info.turbo:  # without it the same values draw another picture
        pairs["Turbo"] = "on"
    lines.append(", ".join(f"{name}: {value}" for name, value in pairs.items()))
    return "\n".join(lines)


def result_json(
    request: GenerationRequest,
    info: ModelInfo,
    pictures: Sequence[SavedPicture | ScreenedImage],
    result: GenerationResult,
) -> dict[str, Any]:
    """The `result` of the API. `truncated_prompt` holds the words beyond the text encoder's 77 tokens."""
    return {
        "images": [{"seed": image.seed, "outcome": str(image.outcome)} for image in pictures],
        "recipe": asdict(request),
        "model": info.model,
        "revision": info.revision,
        "device": info.device,
        "dtype": info.dtype,
        "memory_profile": info.memory_profile,
        "turbo": info.turbo,
        "elapsed_s": {stage: round(seconds, 4) for stage, seconds in result.elapsed_s.items()},
        "truncated_prompt": result.truncated_prompt,
    }


def recipe_query(request: GenerationRequest) -> str:
    """The recipe as a query string, for a link that brings it back."""
    return urlencode({name: value for name, value in asdict(request).items() if value != ""})


def recipe_from_query(query: Mapping[str, str]) -> dict[str, Any]:
    """The values of a link, numbers as numbers; what is no part of a recipe is left out. All are checked later."""
    values: dict[str, Any] = {}
    for name, of in GenerationRequest.__annotations__.items():
        if name not in query:
            continue
        try:
            values[name] = of(query[name])
        except ValueError:
            continue
    return values


def placeholder(outcome: Outcome, width: int, height: int) -> Image.Image:
    """A calm panel with a sign and words, in place of a picture that was withheld (a shield) or broken (a zigzag).

    It has the picture's shape, in at least 512 pixels along the shorter side: the page enlarges small ones, and words
    that were enlarged cannot be read.
    """
    background, ink = _PANELS[outcome]
    scale = -(-PLACEHOLDER_SIDE // min(width, height))
    width, height = width * scale, height * scale
    panel = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(panel)
    unit = min(width, height)
    x, y, r, line = width / 2, height * 0.33, unit * 0.13, max(2, unit // 64)
    if outcome is Outcome.WITHHELD:
        shield = [(x - r, y - r), (x, y - r * 1.25), (x + r, y - r), (x + r * 0.9, y + r * 0.4), (x, y + r * 1.2),
                  (x - r * 0.9, y + r * 0.4), (x - r, y - r)]  # fmt: skip
        draw.line(shield, fill=ink, width=line, joint="curve")
        draw.line([(x - r * 0.4, y), (x + r * 0.4, y)], fill=ink, width=line)
    else:
        zigzag = [(x + (k - 3) * r * 0.45, y + (r * 0.7 if k % 2 else -r * 0.7)) for k in range(7)]
        draw.line(zigzag, fill=ink, width=line, joint="curve")
    title, sentence = _WORDS[outcome]
    draw.text((x, height * 0.6), title, fill=ink, font=ImageFont.load_default(unit * 0.1), anchor="mm")
    font = ImageFont.load_default(max(8.0, unit * 0.05))
    lines = _wrapped(sentence, font, width * 0.84)
    draw.multiline_text((x, height * 0.68), "\n".join(lines), fill=ink, font=font, anchor="ma", align="center")
    return panel


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def preview_uri(preview: Preview) -> str:
    """A mosaic as a data URI, one pixel a cell: the browser scales it."""
    png = io.BytesIO()
    Image.frombytes("RGB", (preview.columns, preview.rows), preview.pixels).save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
