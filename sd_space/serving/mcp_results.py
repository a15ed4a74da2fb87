"""What MCP clients see of a tool's work: its pictures, beside their addresses, and how far it is."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

MAX_PICTURE_BYTES = 256 * 1024  # clients put pictures into a model's context: some take no more than a megabyte in all
_LOOK_S = 0.3


def contents(value: object) -> Iterator[Any]:
    """What a tool returns as MCP content: lists part by part, objects as JSON, a file as its picture and address."""
    from mcp import types

    if isinstance(value, list | tuple):
        for part in value:
            yield from contents(part)
    elif isinstance(value, dict) and "path" in value:  # Gradio's FileData
        data, media_type = _picture(Path(value["path"]))
        yield types.ImageContent(type="image", data=base64.b64encode(data).decode(), mimeType=media_type)
        yield types.TextContent(type="text", text=f"Image URL: {value['url']}")
    else:
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
        yield types.TextContent(type="text", text=text)


def _picture(path: Path) -> tuple[bytes, str]:
    """The file with all its marks or, where it is too large, the picture as a JPEG with their unsigned part."""
    data = path.read_bytes()
    if len(data) <= MAX_PICTURE_BYTES:
        return data, "image/png"
    jpeg = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        xmp = str(image.info.get("XML:com.adobe.xmp", "")).encode()
        image.thumbnail((768, 768))
        image.convert("RGB").save(jpeg, "JPEG", quality=80, xmp=xmp)
    return jpeg.getvalue(), "image/jpeg"


async def followed(job: Any, session: Any, progress_token: str | int, request_id: str) -> None:
    """Tells an MCP client how far a job of Gradio's client is, until it is over."""
    shown = -1.0
    while not job.done():
        outputs = job.outputs()
        progress = outputs[-1][1].get("progress", {}) if outputs and isinstance(outputs[-1], list | tuple) else {}
        if (percent := round(100 * progress.get("fraction_done", 0.0), 1)) > shown:  # it must increase
            shown = percent
            await session.send_progress_notification(progress_token, percent, 100.0, _words(progress), request_id)
        await asyncio.sleep(_LOOK_S)


def _words(progress: dict[str, Any]) -> str:
    if position := progress.get("queue_position"):
        return f"Waiting: place {position} in the queue."
    if "num_timesteps" in progress:
        return f"Step {progress['step_index']} of {progress['num_timesteps']}."
    return f"Getting ready: {progress.get('stage', 'starting')}."
