"""What requests for pictures are answered in the shape of OpenAI's API: the whole result, or the events of a stream."""

import asyncio
import base64
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from PIL import Image

from sd_space.errors import EngineFailed
from sd_space.schema import Preview
from sd_space.serving.recipe import result_json
from sd_space.serving.results import GONE, SavedPicture
from sd_space.serving.routes import FILE
from sd_space.serving.runs import Run

_NO_USAGE = {  # nothing here is counted in tokens; strict clients want the numbers
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


def images_object(run: Run, public_address: str | None) -> dict[str, Any]:
    """The result of a finished run: with addresses below `public_address`, or with the pictures' bytes if it is `None`.

    A picture that is not shown is its placeholder; `outcome` and `caption` say so, as of every picture.
    """
    result = run.result()
    data = [
        _about(picture)
        | (
            {"b64_json": _file_base64(picture)}
            if public_address is None
            else {"url": f"{public_address}{FILE}{picture.path}"}
        )
        for picture in run.finished
    ]
    own = {"result": result_json(run.admitted.request, run.info, run.finished, result)}
    return {"created": int(time.time()), "data": data} | _format(run) | own


def completed_event(run: Run, index: int, name: str) -> dict[str, Any]:
    """A finished picture. `name` is of what the event is: image_generation or image_edit."""
    picture = run.pictures[index]
    assert picture is not None
    own = _about(picture) | {"image_index": index, "usage": _NO_USAGE}
    return _event(run, f"{name}.completed", _file_base64(picture)) | own


def partial_event(run: Run, number: int, name: str, index: int, preview: Preview) -> dict[str, Any]:
    """The mosaic of an unfinished picture, in the size that it will have."""
    size = (run.admitted.request.width, run.admitted.request.height)
    mosaic = Image.frombytes("RGB", (preview.columns, preview.rows), preview.pixels)
    png = io.BytesIO()
    mosaic.resize(size, Image.Resampling.NEAREST).save(png, "PNG")
    event = _event(run, f"{name}.partial_image", base64.b64encode(png.getvalue()).decode())
    return event | {"partial_image_index": number, "image_index": index}


async def stream_events(
    run: Run, watched: AsyncIterator[object], name: str, partial_images: int
) -> AsyncGenerator[dict[str, Any]]:
    """The events of a run, to its end: at `partial_images` even steps the mosaics, and each picture once it is done.

    Raises the error that the run ends with.
    """
    number, done = 0, set[int]()
    async for _ in watched:
        progress = run.progress
        is_due = progress is not None and progress.fraction_done * (partial_images + 1) >= number + 1
        if progress is not None and is_due and number < partial_images and any(progress.previews):
            for index, preview in enumerate(progress.previews):
                if preview is not None and run.pictures[index] is None:
                    yield partial_event(run, number, name, index, preview)
            number += 1
        for index, picture in enumerate(run.pictures):
            if picture is not None and index not in done:
                done.add(index)
                yield await asyncio.to_thread(completed_event, run, index, name)
    run.result()


def sse(event: dict[str, Any]) -> bytes:
    return f"event: {event.get('type', 'error')}\ndata: {json.dumps(event)}\n\n".encode()


def _event(run: Run, kind: str, b64_json: str) -> dict[str, Any]:
    return {"type": kind, "b64_json": b64_json, "created_at": int(time.time()), "quality": "auto"} | _format(run)


def _format(run: Run) -> dict[str, Any]:
    request = run.admitted.request
    return {"output_format": "png", "background": "opaque", "size": f"{request.width}x{request.height}"}


def _about(picture: SavedPicture) -> dict[str, Any]:
    return {"seed": picture.seed, "outcome": str(picture.outcome), "caption": picture.caption}


def _file_base64(picture: SavedPicture) -> str:
    try:
        return base64.b64encode(picture.path.read_bytes()).decode()
    except OSError:
        raise EngineFailed(GONE) from None
