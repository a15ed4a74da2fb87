"""What a picture says about itself: its credentials, its watermark and its recipe, and all that in plain words."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from sd_space.errors import InvalidRequest
from sd_space.languages import Phrase
from sd_space.serving import watermark
from sd_space.serving.bare_pictures import bare
from sd_space.serving.certificate import SigningKey
from sd_space.serving.credentials import Credentials, can_be_read, read_credentials
from sd_space.serving.picture_files import FORMATS, MAX_PIXELS, data_uri_bytes, data_uri_size, takes_long
from sd_space.serving.picture_settings import recipe_in

MAX_PICTURE_BYTES = 5_900_000  # as a data URI within `MAX_BODY_BYTES`
MAX_BODY_BYTES = 8 * 2**20
_WRONG = "picture must be a PNG, JPEG or WebP as a data URI (data:image/png;base64,…) of at most 5.9 MB, not {what}."
_NO_CREDENTIALS = Phrase("It has no Content Credentials.")
_UNREAD_CREDENTIALS = Phrase("Content Credentials cannot be read here.")
_CHANGED = Phrase("It has Content Credentials by {by}, but was changed since they were signed: do not rely on them.")
_NOT_VALID = Phrase("It has Content Credentials by {by} that are not valid: do not rely on them.")
_VALID = Phrase("It has valid Content Credentials, and was not changed since {by} signed them.")
_SIGNED = Phrase("This Space signed it.")
_SIGNED_WITH_OWN_KEY = Phrase("This Space signed it, with a key of its own for which nobody else vouches.")
_SIGNED_BY_ANOTHER = Phrase("Another maker signed it; whether that name is true is not known here.")
_BY_MODEL = Phrase("They say that a model made it.")
_BY_THIS_MODEL = Phrase("They say that a model made it: {model}.")
_NO_LOOK = Phrase(
    "The watermark of Stable Diffusion was not looked for: the picture is too small, too large or damaged."
)
_WATERMARK = Phrase("It has the invisible watermark of Stable Diffusion, so a model has very probably made it.")
_NO_WATERMARK = Phrase("The invisible watermark of Stable Diffusion was not found.")
_TEXT_SAYS = Phrase("Unsigned text in it says that a model made it.")
_HAS_RECIPE = Phrase("It carries the recipe that draws it again.")


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in a picture. `has_watermark` is `None` where it was not looked for; `recipe` are the values of a
    request; `sentences` say all of it to a visitor.
    """

    credentials: Credentials | None
    has_watermark: bool | None
    says_model: bool  # unsigned, in its XMP
    recipe: dict[str, Any] | None
    sentences: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        found = self.credentials
        return {
            "credentials": None
            if found is None
            else {
                "valid": found.is_valid,
                "ours": found.is_ours,
                "changed": not found.is_intact,
                "signer": found.signer,
                "software": found.software,
                "model": found.model,
                "by_model": found.is_by_model,
            },
            "watermark": self.has_watermark,
            "xmp": self.says_model,
            "recipe": self.recipe,
            "sentences": list(self.sentences),
        }


def picture_of(data_uri: object) -> bytes:
    """The bytes in a data URI. Raises InvalidRequest."""
    if (size := data_uri_size(data_uri)) is None:
        raise _wrong("something else")
    if size > MAX_PICTURE_BYTES + 2:
        raise _wrong("a larger one")
    try:
        return data_uri_bytes(str(data_uri))
    except ValueError:
        raise _wrong("one whose base64 is broken") from None


def verify(picture: bytes, key: SigningKey | None) -> Verification:
    """Reads the bytes of a picture, of whatever maker and however damaged; `key` is the one that we sign with.

    Takes up to a second; fetches nothing. Raises InvalidRequest for what is no picture.
    """
    if takes_long(picture):
        raise _wrong("one in so many parts")
    try:
        image = Image.open(io.BytesIO(bare(picture, keeps_text=True)), formats=tuple(FORMATS))
    except Exception:  # Pillow has many, and none of them tells a visitor more
        raise _wrong("a damaged file or another format") from None
    with image:
        media_type = FORMATS[image.format or "PNG"]
        says_model, parameters = _texts(image)
        has_watermark = _has_watermark(image)
    found = read_credentials(picture, media_type, key)
    recipe = recipe_in(parameters) if parameters else None
    sentences = (*_about_credentials(found, key), _about_watermark(has_watermark), *_about_texts(says_model, recipe))
    if not (found or has_watermark or says_model or recipe):
        sentences += ("Nothing was found. That proves nothing: most services strip such marks from pictures.",)
    return Verification(found, has_watermark, says_model, recipe, sentences)


def _texts(image: Image.Image) -> tuple[bool, str | None]:
    """Whether its XMP names a model as its maker, and its recipe's text."""
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp)
    parameters = image.info.get("parameters")
    return "trainedalgorithmicmedia" in text.lower(), parameters if isinstance(parameters, str) else None


def _has_watermark(image: Image.Image) -> bool | None:
    width, height = image.size
    if width * height > MAX_PIXELS or min(width, height) < watermark.MIN_SIDE:
        return None
    try:
        return watermark.is_found(np.asarray(image.convert("RGB")))
    except Exception:  # its pixels are damaged, which the rest of it may outlive
        return None


def _about_credentials(found: Credentials | None, key: SigningKey | None) -> tuple[str, ...]:
    if found is None:
        return (_NO_CREDENTIALS if can_be_read() else _UNREAD_CREDENTIALS,)
    by = f"“{found.signer}”" if found.signer else Phrase("somebody without a name")
    if not found.is_intact:
        return (Phrase(_CHANGED, by=by),)
    if not found.is_valid:
        return (Phrase(_NOT_VALID, by=by),)
    said = [Phrase(_VALID, by=by)]
    if found.is_ours:
        said.append(_SIGNED_WITH_OWN_KEY if key and key.is_own else _SIGNED)
    else:
        said.append(_SIGNED_BY_ANOTHER)
    if found.is_by_model:
        said.append(Phrase(_BY_THIS_MODEL, model=f"“{found.model}”") if found.model else _BY_MODEL)
    return tuple(said)


def _about_watermark(has_watermark: bool | None) -> str:
    if has_watermark is None:
        return _NO_LOOK
    if has_watermark:
        return _WATERMARK
    return _NO_WATERMARK


def _about_texts(says_model: bool, recipe: dict[str, Any] | None) -> tuple[str, ...]:
    said = (_TEXT_SAYS,) if says_model else ()
    return (*said, _HAS_RECIPE) if recipe else said


def _wrong(what: str) -> InvalidRequest:
    return InvalidRequest("picture", _WRONG.format(what=what))
