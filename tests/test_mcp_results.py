"""What MCP clients see of a picture."""

import base64
import io
import os

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sd_space.serving.mcp_results import MAX_PICTURE_BYTES, contents


def test_a_picture_too_large_for_a_models_context_comes_smaller_and_says_still_that_a_model_made_it(tmp_path):
    path, chunks = tmp_path / "seed-7.png", PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", "<x>trainedAlgorithmicMedia</x>")
    noise = Image.frombytes("RGB", (1024, 512), os.urandom(1024 * 512 * 3))
    noise.save(path, pnginfo=chunks)
    assert path.stat().st_size > MAX_PICTURE_BYTES
    picture, address = contents([{"path": str(path), "url": "http://space/seed-7.png"}])
    with Image.open(io.BytesIO(base64.b64decode(picture.data))) as image:
        assert image.format == "JPEG" and image.size == (768, 384) and picture.mimeType == "image/jpeg"
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]
    assert address.text == "Image URL: http://space/seed-7.png"
