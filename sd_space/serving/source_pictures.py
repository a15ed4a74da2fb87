"""Pictures that requests bring: decoded within bounds, turned upright, made opaque, scaled, and without metadata.

They come as data URIs or files in the request itself, or are named as results of the same visitor; nothing is written
to disk.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image, ImageChops

from sd_space.errors import InvalidRequest, SpaceError
from sd_space.fields import Picture, SourcePicture, shown
from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS
from sd_space.schema import Outcome
from sd_space.served_model import Limits, ModelInfo
from sd_space.serving.bare_pictures import bare, upright
from sd_space.serving.picture_files import FORMATS, MAX_PIXELS, data_uri_bytes, data_uri_size, takes_long
from sd_space.serving.placeholder import PLACEHOLDER_SIDE, placeholder
from sd_space.serving.results import SavedPicture

SOURCES = {name: field.kind.channels for name, field in REQUEST_FIELDS.items() if isinstance(field.kind, Picture)}
MAX_FILE_BYTES = 2**20
MIN_SIDE = 16
_NOT_SHOWN = (Outcome.WITHHELD, Outcome.BROKEN)


@dataclass(frozen=True, slots=True)
class UploadedPicture:
    """A file as a form brings it. Of a mask that comes so, what is transparent is drawn anew, as OpenAI's clients mean
    it; a mask as a data URI says the same in white.
    """

    data: bytes = field(repr=False)


def read_sources(values: Mapping[str, object], info: ModelInfo) -> Mapping[str, object]:
    """A request's `values` with its pictures decoded, in the size that it asks for: else `init_image` has that.

    A picture is a data URI, an `UploadedPicture`, or a `SavedPicture` of the same visitor. Raises InvalidRequest.
    """
    images = {name: _read(name, values[name]) for name in SOURCES if values.get(name) not in (None, "")}
    if not images:
        return values
    size = _size(values, images["init_image"][0].size if "init_image" in images else None, info)
    sources = {
        name: SourcePicture(
            width=size["width"],
            height=size["height"],
            channels=SOURCES[name],
            pixels=image.resize((size["width"], size["height"]), Image.Resampling.LANCZOS).tobytes(),
            sha256=sha256,
            seed=seed,
        )
        for name, (image, sha256, seed) in images.items()
    }
    return {**values, **size, **sources}


def _size(values: Mapping[str, object], own: tuple[int, int] | None, info: ModelInfo) -> dict[str, Any]:
    """Width and height as asked for, else the picture's own `own`, else the model's."""
    own = fitting_size(own, info.limits) if own else (info.defaults.width, info.defaults.height)
    given = {name: values.get(name) for name in ("width", "height")}
    return {
        name: REQUEST_FIELDS[name].kind.check(name, side if given[name] is None else given[name], info.limits)
        for name, side in zip(given, own, strict=True)
    }


def fitting_size(size: tuple[int, int], limits: Limits) -> tuple[int, int]:
    """The size that a model draws a picture of `size` in: as large where it can, of the same shape as far as it can."""
    scale, step = min(1.0, limits.max_size / max(size)), limits.size_step
    width, height = (max(int(side * scale) // step * step, limits.min_size) for side in size)
    return width, height


def _read(name: str, value: object) -> tuple[Image.Image, str, int | None]:
    """The picture, its file's hash, and its seed if it is one of ours."""
    seed = None
    plain: Callable[[Image.Image], Image.Image] = partial(_plain, channels=SOURCES[name])
    if isinstance(value, SavedPicture):
        data, seed = _own_file(name, value), value.seed
    elif isinstance(value, UploadedPicture):
        data, plain = value.data, _transparency if name == "mask" else plain
    else:
        data = _sent(name, value)
    try:
        image = _decoded(name, data, plain)
    except SpaceError:
        raise
    except Exception:  # of any type: what is wrong with a file is known to its decoder alone
        raise _unreadable(name) from None
    if _is_placeholder(image):
        raise _not_shown(name)
    return image, hashlib.sha256(data).hexdigest(), seed


def _is_placeholder(image: Image.Image) -> bool:
    """Whether it is what stands in the place of a picture that is not shown."""
    is_large = min(image.size) >= PLACEHOLDER_SIDE  # as all of them are
    return is_large and any(placeholder(outcome, *image.size).tobytes() == image.tobytes() for outcome in _NOT_SHOWN)


def _own_file(name: str, picture: SavedPicture) -> bytes:
    if picture.outcome is not Outcome.OK:
        raise _not_shown(name)
    try:
        return picture.path.read_bytes()
    except OSError:
        raise InvalidRequest(
            name, Phrase("{name} was deleted on the server; send it as a data URI.", name=name)
        ) from None


def _sent(name: str, value: object) -> bytes:
    if (size := data_uri_size(value)) is None:
        own = " or the address of one of your own results that is still there" if name == "init_image" else ""
        raise InvalidRequest(
            name, f"{name} must be a picture as a data URI (data:image/png;base64,…){own}, not {shown(value)}."
        )
    if size > MAX_FILE_BYTES + 2:
        raise InvalidRequest(
            name,
            Phrase(
                "{name} must be a file of at most 1 MB, not {size} MB; scale it down.",
                name=name,
                size=f"{size / 2**20:.2f}",
            ),
        )
    try:
        return data_uri_bytes(str(value))
    except ValueError:
        raise _unreadable(name) from None


def _decoded(name: str, data: bytes, plain: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `plain` makes of the picture. Its size is known, and checked, before it is decoded."""
    if takes_long(data):
        raise _unreadable(name)
    try:
        opened = Image.open(io.BytesIO(bare(data)), formats=tuple(FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(name) from None
    with opened as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_many_pixels(name)
        if min(width, height) < MIN_SIDE:
            sentence = Phrase(
                "{name} must have at least {least} pixels on each side, not {width} x {height}.",
                name=name,
                least=MIN_SIDE,
                width=width,
                height=height,
            )
            raise InvalidRequest(name, sentence)
        # Phones put a second picture into a JPEG, and show the first.
        if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
            raise InvalidRequest(name, Phrase("{name} is animated; send a single picture of it.", name=name))
        return plain(upright(image, data))


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Eight bits, and opaque: what is transparent becomes white, or in a mask black, which stays."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off above 255
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        image.info.pop("transparency", None)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white" if channels == 3 else "black")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB" if channels == 3 else "L")


def _transparency(mask: Image.Image) -> Image.Image:
    """In white what is transparent, as far as it is."""
    if not mask.has_transparency_data:
        raise InvalidRequest("mask", "mask must be transparent where the picture is drawn anew; save it as such a PNG.")
    return ImageChops.invert(mask.convert("RGBA").getchannel("A"))


def _not_shown(name: str) -> InvalidRequest:
    return InvalidRequest(
        name, Phrase("{name} is a picture that is not shown, so none can start from it; use another.", name=name)
    )


def _unreadable(name: str) -> InvalidRequest:
    return InvalidRequest(
        name, Phrase("{name} is no PNG, JPEG or WebP picture that can be read; save it as one of these.", name=name)
    )


def _too_many_pixels(name: str) -> InvalidRequest:
    return InvalidRequest(
        name,
        Phrase(
            "{name} must have at most {most} megapixels; scale it down.", name=name, most=f"{MAX_PIXELS / 10**6:.1f}"
        ),
    )
