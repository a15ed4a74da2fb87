"""Draws a picture over MCP with the official client, as an agent does: accepts, shows the progress, saves the file.

python examples/mcp_client.py http://127.0.0.1:7860 "a small cabin on a snowy mountain" --agree
"""

import argparse
import asyncio
import base64
import sys
from collections.abc import Sequence
from pathlib import Path

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def show_progress(progress: float, total: float | None, message: str | None) -> None:
    print(f"{progress:3.0f} % {message}", file=sys.stderr)


async def draw(arguments: argparse.Namespace) -> int:
    address = f"{arguments.url.rstrip('/')}/gradio_api/mcp/"
    async with streamable_http_client(address) as (read, write, _), ClientSession(read, write) as session:
        await session.initialize()
        accepted = await session.call_tool("accept_license", {"agree": arguments.agree})
        if accepted.isError:
            print(accepted.content[0].text, file=sys.stderr)
            return 1
        asked = {"prompt": arguments.prompt, "num_images_per_prompt": 1, "acceptance_token": accepted.content[0].text}
        drawn = await session.call_tool("generate", asked, progress_callback=show_progress)
    if drawn.isError:
        print(drawn.content[0].text, file=sys.stderr)
        return 1
    picture, address_line, result = drawn.content
    arguments.out.write_bytes(base64.b64decode(picture.data))
    print(f"{arguments.out}\n{address_line.text}\n{result.text}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the Space's address")
    parser.add_argument("prompt")
    parser.add_argument("--agree", action="store_true", help="I have read the licence and accept it")
    parser.add_argument("--out", type=Path, default=Path("picture.png"), help="the file to write")
    return asyncio.run(draw(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
