"""The clients that people already have, with their own packages, against a real server."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamable_http_client
from openai import BadRequestError, OpenAI
from PIL import Image

from examples import mcp_client, openai_client
from sd_space.card import load_card
from sd_space.serving.gate import USE_RESTRICTIONS

from .server import ROOT
from .test_api import PROMPT, QUICK, call


@pytest.fixture(scope="module")
def token(ready_server) -> str:
    _, (token,) = call(ready_server, "accept_license", {"agree": True})
    return token


@pytest.fixture(scope="module")
def openai(ready_server, token):
    with OpenAI(base_url=f"{ready_server.url}/v1", api_key=token, max_retries=0) as client:
        yield client


def shown(image) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


FAST = {"num_inference_steps": 2, "seed": 7}


def test_openais_client_draws_changes_and_lists(openai, token):
    (model,) = openai.models.list()
    drawn = openai.images.generate(model=model.id, prompt=PROMPT, n=2, size="64x64", extra_body=FAST)
    assert [shown(image).size for image in drawn.data] == [(64, 64)] * 2 and drawn.data[1].seed == 8
    assert "Seed: 8" in shown(drawn.data[1]).text["parameters"], "the file itself, with its marks"
    source = base64.b64decode(drawn.data[0].b64_json)
    mask = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 255)).save(mask, "PNG")
    changed = openai.images.edit(
        image=("cat.png", source), mask=("mask.png", mask.getvalue()), prompt=PROMPT, response_format="url",
        extra_body=FAST | {"strength": 0.6},
    )  # fmt: skip
    kept = Image.open(io.BytesIO(httpx.get(changed.data[0].url).content))
    assert kept.size == (64, 64) and changed.data[0].outcome == "ok"
    with pytest.raises(BadRequestError, match="n must be a whole number from 1 to 4, not 9") as refused:
        openai.images.generate(prompt=PROMPT, n=9)
    assert refused.value.param == "n" and refused.value.type == "invalid_request_error"


def test_openais_client_sees_the_picture_come(openai):
    asked = {"num_inference_steps": 40, "seed": 7}
    events = list(openai.images.generate(prompt=PROMPT, stream=True, partial_images=2, extra_body=asked))
    assert events[-1].type == "image_generation.completed" and shown(events[-1]).size == (256, 256)
    assert {event.type for event in events[:-1]} == {"image_generation.partial_image"}
    assert [event.partial_image_index for event in events[:-1]] == list(range(len(events) - 1))


def test_an_mcp_client_reads_picks_a_prompt_and_sees_how_far_its_picture_is(ready_server, token):
    heard: list[tuple[float, float, str]] = []

    async def listen(progress, total, message):
        heard.append((progress, total, message))

    async def ignore(*_):
        pass

    async def session():
        address = f"{ready_server.url}/gradio_api/mcp/"
        async with streamable_http_client(address) as (read, write, _), ClientSession(read, write) as mcp:
            about = await mcp.initialize()
            assert about.capabilities.resources and about.capabilities.prompts
            hints = {tool.name: tool.annotations for tool in (await mcp.list_tools()).tools}
            assert hints["model"].readOnlyHint and not hints["generate"].destructiveHint and hints["verify"].title
            resources = [resource.uri for resource in (await mcp.list_resources()).resources]
            licence, card, model = [(await mcp.read_resource(uri)).contents[0] for uri in resources]
            assert all(line in licence.text for line in USE_RESTRICTIONS) and "openrail" in licence.text
            assert "Misuse" in card.text and card.mimeType == "text/markdown"
            assert json.loads(model.text)["model"] == "picture-book"
            prompts = (await mcp.list_prompts()).prompts
            assert [prompt.description for prompt in prompts] == [example.text for example in load_card().examples]
            prompt = await mcp.get_prompt(prompts[0].name)
            assert prompts[0].description in prompt.messages[0].content.text
            for asking in (mcp.read_resource("sd-space://other"), mcp.get_prompt("other")):
                with pytest.raises(McpError, match="There is no such"):
                    await asking
            with pytest.raises(McpError, match="uri must be one of those"):
                await mcp.read_resource("file:///etc/passwd")
            asked = QUICK | {"acceptance_token": token, "num_inference_steps": 60}
            drawn = await mcp.call_tool("generate", asked, progress_callback=listen)
            refused = await mcp.call_tool("generate", asked | {"seed": -5}, progress_callback=ignore)
            return drawn, refused

    drawn, refused = asyncio.run(session())
    picture, address, result = drawn.content
    file = httpx.get(address.text.removeprefix("Image URL: ")).content
    assert base64.b64decode(picture.data) == file and picture.mimeType == "image/png"
    assert json.loads(result.text)["images"][0]["outcome"] == "ok"
    progress = [percent for percent, _, _ in heard]
    assert progress == sorted(set(progress)) and progress[-1] > 0 and "Step " in str(heard)
    assert refused.isError and "seed must be a whole number" in refused.content[0].text


def test_the_example_of_openais_client_saves_what_it_drew_and_changed(ready_server, token, tmp_path, capsys):
    arguments = [PROMPT, "--then", f"{PROMPT} at night", "--seed", "3", "--out", str(tmp_path)]
    assert openai_client.main([ready_server.url, token, *arguments]) == 0
    assert re.findall(r"seed 3, (\w+)", capsys.readouterr().out) == ["ok", "ok"]
    before, after = ((tmp_path / name).read_bytes() for name in ("picture.png", "changed.png"))
    assert before != after and before.startswith(b"\x89PNG")
    assert openai_client.main([ready_server.url, "x", PROMPT]) == 1
    assert "/accept_license" in capsys.readouterr().err


def test_the_example_of_mcps_client_accepts_and_saves_its_picture(ready_server, tmp_path, capsys):
    arguments = [ready_server.url, PROMPT, "--out", str(tmp_path / "picture.png")]
    assert mcp_client.main(arguments) == 1 and "agree must be true" in capsys.readouterr().err
    assert mcp_client.main([*arguments, "--agree"]) == 0
    said = capsys.readouterr()
    assert '"outcome": "ok"' in said.out and "Step " in said.err
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_of_gradios_javascript_client_draws(ready_server, token):
    packages = Path(os.environ.get("NODE_PATH", ROOT / "node_modules"))
    if shutil.which("node") is None or not (packages / "@gradio" / "client").is_dir():
        sentence = "there is no node with @gradio/client here; NODE_PATH names the folder that has it"
        assert not os.environ.get("REQUIRE_NODE"), sentence
        pytest.skip(sentence)
    example = packages.parent / "gradio_client_example.mjs"  # modules are looked for beside the file
    shutil.copy(ROOT / "examples/gradio_client.mjs", example)
    command = ["node", example, ready_server.url, token, PROMPT]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    example.unlink()
    assert run.returncode == 0 and run.stdout.rstrip().endswith(".png ok"), run.stderr


def test_the_page_for_agents_has_lines_that_accept_draw_and_change(ready_server, tmp_path):
    page = ready_server.get("/agents.md")
    assert page.headers["content-type"].startswith("text/markdown") and len(page.text.splitlines()) < 70
    assert '<link rel="alternate" type="text/markdown" href="agents.md"' in ready_server.get("/").text
    accept, draw, change = re.findall(r"```bash\n(.*?)```", page.text, re.DOTALL)
    fetch = """curl -so picture.png "$(grep -o 'http[^"]*png' drawn.json)"\n"""
    script = f"set -e\n{accept}{{ {draw} }} > drawn.json\n{fetch}{{ {change} }} > changed.json\n"
    run = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    answers = [json.loads((tmp_path / name).read_text()) for name in ("drawn.json", "changed.json")]
    assert [answer["data"][0]["outcome"] for answer in answers] == ["ok", "ok"], run.stderr
    assert answers[1]["result"]["recipe"]["strength"] == 0.7 and "High-Resolution Image Synthesis" in page.text


def test_no_key_and_no_prompt_of_a_client_reaches_the_log(ready_server, openai, token):
    openai.images.generate(prompt="marker-plugh", size="64x64", extra_body=FAST)
    with pytest.raises(BadRequestError):
        openai.images.generate(prompt="marker-plugh", size="7x7")
    assert "plugh" not in ready_server.log and token not in ready_server.log and "Traceback" not in ready_server.log
