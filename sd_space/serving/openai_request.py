"""Requests in the shape of OpenAI's API: its parameters, and what they are as values of a request."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers

from sd_space.errors import InvalidRequest
from sd_space.fields import Real, Whole, shown
from sd_space.request import REQUEST_FIELDS
from sd_space.serving.envelope import Refusal, parse_object
from sd_space.serving.form_parts import form_parts
from sd_space.serving.source_pictures import UploadedPicture

EDITS = "edits"
OURS = {"n": "num_images_per_prompt", "image": "init_image"}  # by their names
_PICTURES = ("image", "mask")
_CHOICES = {  # the first one where it is left out
    "response_format": ("b64_json", "url"),
    "output_format": ("png",),
    "background": ("auto", "opaque"),
}
# They say nothing that this model could do otherwise.
_IGNORED = (
    "model", "user", "safety_identifier", "quality", "style", "moderation", "input_fidelity", "output_compression",
)  # fmt: skip
_OWN = tuple(name for name in REQUEST_FIELDS if name not in (*OURS.values(), "mask", "width", "height"))
PARAMETERS = (*_OWN, "n", "size", *_CHOICES, "stream", "partial_images", *_IGNORED)
_PARTIAL_IMAGES = Whole(0, 3)
_NUMBER = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,30})?")
_MAX_PARTS = 40


@dataclass(frozen=True, slots=True)
class ImagesRequest:
    """`values` are those of a request, yet unchecked; the others say how it is answered."""

    values: Mapping[str, object]
    has_urls: bool
    is_stream: bool
    partial_images: int

    @classmethod
    def read(cls, asked: Mapping[str, object]) -> "ImagesRequest":
        """Raises InvalidRequest."""
        chosen = {name: _choice(name, asked.get(name), choices) for name, choices in _CHOICES.items()}
        given = {"stream": False, "partial_images": 0} | {name: v for name, v in asked.items() if v is not None}
        stream, partial_images = given["stream"], given["partial_images"]
        if not isinstance(stream, bool):
            raise InvalidRequest("stream", f"stream must be true or false, not {shown(stream)}.")
        has_urls = chosen["response_format"] == "url"
        if stream and has_urls:
            raise InvalidRequest("response_format", "response_format must be b64_json while stream is true.")
        values = {name: asked.get(name) for name in (*_OWN, "mask")} | _sides(asked.get("size"))
        values |= {ours: asked.get(theirs) for theirs, ours in OURS.items()}
        if asked.get("n") is None:
            values[OURS["n"]] = 1
        return cls(values, has_urls, stream, _PARTIAL_IMAGES.check("partial_images", partial_images, None))


def parameters_of(name: str, headers: Headers, body: bytes) -> dict[str, object]:
    """The parameters that a body has, by their names; `name` is the last part of the address. Raises Refusal."""
    known = (*PARAMETERS, *_PICTURES) if name == EDITS else PARAMETERS
    takes = f"/v1/images/{name} takes {', '.join(known)}."
    asked = _form(headers.get("content-type", ""), body) if name == EDITS else parse_object(body)
    if not asked.keys() <= set(known):
        raise Refusal(400, f"There is an unknown parameter: {takes}")
    if missing := [p for p in ("prompt", "image") if p in known and asked.get(p) is None]:
        raise Refusal(400, f"{missing[0]} is missing: {takes}")
    return asked


def _form(content_type: str, body: bytes) -> dict[str, object]:
    try:
        parts = form_parts(content_type, body, _MAX_PARTS)
        # Clients write a list of pictures as image[].
        named = [(name.removesuffix("[]"), value) for name, value in parts]
        form = {name: _form_value(name, value) for name, value in named}
    except ValueError:
        raise Refusal(
            400,
            f"The form could not be read; send multipart/form-data of 1 to {_MAX_PARTS} parts with texts in UTF-8.",
        ) from None
    if len(form) < len(named):
        twice = [p for p in (*PARAMETERS, *_PICTURES) if [name for name, _ in named].count(p) > 1]
        raise Refusal(400, f"{twice[0] if twice else 'A parameter'} came twice; send each once, and one image.")
    return form


def _form_value(name: str, value: bytes) -> object:
    """A form has text and files alone: the text of a number, as JSON would have it. Raises ValueError."""
    if name in _PICTURES:
        return UploadedPicture(value)
    text = value.decode()
    if name == "stream":
        return {"true": True, "false": False}.get(text.lower(), text)
    field = REQUEST_FIELDS.get(OURS.get(name, name))
    kind = field.kind if field else _PARTIAL_IMAGES if name == "partial_images" else None
    if isinstance(kind, Whole | Real) and _NUMBER.fullmatch(text):
        return float(text) if "." in text else int(text)
    return text


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value is None:
        return choices[0]
    if not isinstance(value, str) or value not in choices:
        raise InvalidRequest(name, f"{name} must be {' or '.join(choices)}, not {shown(value)}.")
    return value


def _sides(size: object) -> dict[str, object]:
    """Width and height; what is no size is kept, for the gate to refuse."""
    if size is None or size == "auto":
        return {}
    match = re.fullmatch("([0-9]{1,5})x([0-9]{1,5})", size) if isinstance(size, str) else None
    return {"width": int(match[1]), "height": int(match[2])} if match else {"width": size, "height": size}
