"""The public contract, over a real server: gradio_client, plain HTTP and MCP."""

import asyncio
import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from PIL import Image, ImageChops

from sd_space.recorded import LINK_PREVIEW

from .server import ROOT, Server

PROMPT = "A small cabin on top of a snowy mountain"
QUICK = {"prompt": PROMPT, "num_images_per_prompt": 1, "num_inference_steps": 2, "guidance_scale": 2.0, "seed": 7}

MARKS = {"watermark": False, "credentials": True}
PICTURES_MADE = "sd_space_pictures_total"


@pytest.fixture(scope="module")
def client(ready_server):
    return Client(ready_server.url, verbose=False)


@pytest.fixture(scope="module")
def token(client):
    return client.predict(agree=True, api_name="/accept_license")


def call(server: Server, name: str, body: dict, headers: dict | None = None) -> tuple[str, object]:
    """Plain HTTP: posts the call and reads its events to the last; returns that event's name and data."""
    url = f"{server.url}/gradio_api/call"
    posted = httpx.post(f"{url}/v2/{name}", json=body, headers=headers)
    assert posted.status_code == 200, posted.text
    event = data = None
    with httpx.stream("GET", f"{url}/{name}/{posted.json()['event_id']}", timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = json.loads(line.removeprefix("data: "))
    return event, data


def test_a_picture_is_changed_by_its_address_and_by_its_bytes(ready_server, client, token):
    _, (files, _) = call(ready_server, "generate", QUICK | {"acceptance_token": token})
    data = httpx.get(files[0]["url"]).content
    mask = io.BytesIO()
    Image.new("L", (64, 64), 0).save(mask, "PNG")
    uris = [f"data:image/png;base64,{base64.b64encode(part).decode()}" for part in (data, mask.getvalue())]
    change = QUICK | {"acceptance_token": token, "strength": 0.5, "seed": 8}
    _, result = client.predict(**change, init_image=files[0]["url"], api_name="/generate")
    assert result["recipe"]["init_image"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert (result["recipe"]["init_image_seed"], result["recipe"]["strength"]) == (7, 0.5)
    kept, result = client.predict(**change, init_image=uris[0], mask=uris[1], api_name="/generate")
    assert result["images"] == [{"seed": 8, "outcome": "ok", **MARKS}] and "encode_image" in result["elapsed_s"]
    before, after = (np.asarray(Image.open(io.BytesIO(d)), int) for d in (data, Path(kept[0]).read_bytes()))
    assert np.abs(before - after).mean() < 12, "where the mask is black, the picture stays"
    with pytest.raises(AppError, match="num_inference_steps x strength"):
        client.predict(**change | {"strength": 0.2}, init_image=uris[0], api_name="/generate")
    with pytest.raises(AppError, match="init_image must be a picture as a data URI"):
        client.predict(**change, init_image="/etc/passwd", api_name="/generate")


def test_a_picture_comes_back_with_its_recipe(client, token):
    files, result = client.predict(**QUICK, acceptance_token=token, api_name="/generate")
    assert result["images"] == [{"seed": 7, "outcome": "ok", **MARKS}]
    assert result["recipe"]["prompt"] == PROMPT and result["recipe"]["num_inference_steps"] == 2
    assert {"model", "revision", "device", "dtype", "runtime", "memory_profile", "elapsed_s"} <= result.keys()
    assert result["elapsed_s"]["total"] > 0
    (file,) = files
    assert "7" in file.rpartition("/")[2]
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.text["parameters"].startswith(PROMPT)
        assert "Seed: 7" in picture.text["parameters"]


def test_the_pictures_of_a_strip_are_those_of_the_same_requests_alone(client, token):
    asked = {name: value for name, value in QUICK.items() if name not in ("num_images_per_prompt", "guidance_scale")}
    files, answer = client.predict(
        **asked, field="guidance_scale", values="2, 7.5, 1", acceptance_token=token, api_name="/compare"
    )
    for file, result in zip(files, answer["results"], strict=True):
        (alone,), same = client.predict(**result["recipe"], acceptance_token=token, api_name="/generate")
        assert same["images"] == result["images"]
        both = (np.asarray(Image.open(path)).astype(int) for path in (file, alone))
        assert np.abs(next(both) - next(both)).max() <= 1


def test_a_picture_that_is_brought_back_is_verified_over_the_api_and_damage_is_named(client, token, ready_server):
    (file,), _ = client.predict(**QUICK, acceptance_token=token, api_name="/generate")
    data = Path(file).read_bytes()
    uri = "data:image/png;base64," + base64.b64encode(data + bytes(100_000)).decode()  # more than other bodies may have
    found = client.predict(uri, acceptance_token=token, api_name="/verify")
    assert found["credentials"]["ours"] and found["recipe"]["prompt"] == PROMPT and found["watermark"] is False
    assert found["credentials"]["changed"], "something was appended"
    asked = {"picture": "data:image/png;base64," + base64.b64encode(data).decode(), "acceptance_token": token}
    event, answer = call(ready_server, "verify", asked)
    assert (
        event == "complete" and answer[0]["credentials"]["valid"] and "This Space" in " ".join(answer[0]["sentences"])
    )
    for refused, says in (({"acceptance_token": ""}, "/accept_license"), ({"picture": "data:,x"}, "must be a PNG")):
        event, answer = call(ready_server, "verify", asked | refused)
        assert event == "error" and says in answer["error"]


def test_the_same_recipe_gives_the_same_pixels(client, token):
    files = [client.predict(**QUICK, acceptance_token=token, api_name="/generate")[0][0] for _ in range(2)]
    first, second = (Image.open(file).tobytes() for file in files)
    assert first == second


def test_pictures_come_in_the_order_of_their_seeds(client, token):
    files, result = client.predict(**QUICK | {"num_images_per_prompt": 4}, acceptance_token=token, api_name="/generate")
    assert [image["seed"] for image in result["images"]] == [7, 8, 9, 10]
    assert ["8" in file.rpartition("/")[2] for file in files] == [False, True, False, False]


def test_curl_gets_progress_and_then_a_file_to_fetch(ready_server, token):
    event, data = call(ready_server, "generate", QUICK | {"acceptance_token": token})
    assert event == "complete"
    (file,), result = data
    assert result["images"][0]["outcome"] == "ok"
    picture = ready_server.get(f"/gradio_api/file={file['path']}")
    assert picture.status_code == 200 and picture.headers["content-type"] == "image/png"
    assert "no-store" in picture.headers["cache-control"]


def test_the_token_may_travel_in_a_header(ready_server, token):
    event, _ = call(ready_server, "generate", QUICK, headers={"X-License-Token": token})
    assert event == "complete"


@pytest.mark.parametrize("forged", ["", "x", "e30.x", None])
def test_without_a_valid_token_nothing_is_drawn(client, ready_server, forged):
    before = ready_server.metric(PICTURES_MADE)
    with pytest.raises(AppError, match="/accept_license"):
        client.predict(**QUICK, acceptance_token=forged, api_name="/generate")
    assert ready_server.metric(PICTURES_MADE) == before


@pytest.mark.parametrize("agree", [False, "true", 1, None])
def test_only_true_accepts_the_licence(client, agree):
    with pytest.raises(AppError, match="agree must be true"):
        client.predict(agree=agree, api_name="/accept_license")


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", "  ", "prompt must not be empty"),
        ("num_images_per_prompt", 5, "num_images_per_prompt must be a whole number from 1 to 4, not 5."),
        ("num_inference_steps", "20", "num_inference_steps must be a whole number from 1 to 150, not '20'."),
        ("guidance_scale", 0, "guidance_scale must be a number from 1 to 20, not 0."),
        ("seed", 1.5, "seed must be a whole number from -1"),
        ("width", 7, "width must be a whole number from 64"),
        ("scheduler", "Unknown", "scheduler must be one of PNDM"),
    ],
)
def test_a_bad_value_is_refused_in_a_sentence(client, token, field, value, says):
    with pytest.raises(AppError) as refusal:
        client.predict(**QUICK | {field: value}, acceptance_token=token, api_name="/generate")
    assert says in str(refusal.value)


def test_every_scheduler_on_offer_draws(client, token):
    for scheduler in client.predict(api_name="/model")["schedulers"]:
        _, result = client.predict(**QUICK | {"scheduler": scheduler}, acceptance_token=token, api_name="/generate")
        assert result["recipe"]["scheduler"] == scheduler
        assert result["images"][0]["outcome"] in ("ok", "withheld")


def test_the_model_describes_itself(client):
    model = client.predict(api_name="/model")
    assert model["ready"] is True and model["model"] == "picture-book"
    assert model["default_size"] == [256, 256] and model["dtype"] == "float32" and model["runtime"] == "torch"
    assert "PNDM" in model["schedulers"] and model["limits"]["max_images"] == 4
    (device,) = model["devices"]
    assert device["device"] == "cpu" and device["state"] == "ready" and device["name"]
    assert device["width"] >= 1 and device["memory_profile"] == model["memory_profile"]


def test_four_endpoints_are_public_and_no_more(ready_server):
    info = ready_server.get("/gradio_api/info").json()
    assert set(info["named_endpoints"]) == {"/accept_license", "/compare", "/generate", "/model", "/verify"}
    assert info["unnamed_endpoints"] == {}
    parameters = [p["parameter_name"] for p in info["named_endpoints"]["/generate"]["parameters"]]
    assert parameters == [
        "prompt", "negative_prompt", "num_images_per_prompt", "num_inference_steps", "guidance_scale", "seed",
        "width", "height", "scheduler", "acceptance_token", "init_image", "mask", "strength", "variation_seed",
        "variation_strength",
    ]  # fmt: skip


def page_values(config: dict, inputs: list[int], token: str, **by_label) -> list:
    """What the page's form sends: the token, and of each control what it shows, or what `by_label` says."""
    props = {component["id"]: component["props"] for component in config["components"]}
    given = {"Guidance scale": 3.0, "Noise scheduler": "PNDM", "Number of pictures": 4, "Size": "128x128"} | by_label
    return [token, *(given.get(props[id].get("label"), props[id].get("value")) for id in inputs[1:])]


def test_private_events_make_no_picture_without_a_token(ready_server):
    """Gradio answers private events to whoever knows their number: the token must stop them, not their hiding."""
    config = ready_server.get("/config").json()
    before = ready_server.metric(PICTURES_MADE)
    for dependency in config["dependencies"]:
        body = {
            "data": page_values(config, dependency["inputs"], "", Prompt=PROMPT),
            "fn_index": dependency["id"],
            "session_hash": f"probe{dependency['id']}",
        }
        httpx.post(f"{ready_server.url}/gradio_api/queue/join", json=body)
        httpx.post(f"{ready_server.url}/gradio_api/run/predict", json=body)
    event, _ = call(ready_server, "model", {})  # served after those before it
    assert event == "complete"
    assert ready_server.metric(PICTURES_MADE) == before


def test_mcp_clients_accept_and_see_the_picture(ready_server):
    async def session():
        async with (
            streamable_http_client(f"{ready_server.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as mcp,
        ):
            await mcp.initialize()
            tools = {tool.name: tool for tool in (await mcp.list_tools()).tools}
            accepted = await mcp.call_tool("accept_license", {"agree": True})
            refused = await mcp.call_tool("generate", QUICK)
            asked = QUICK | {"acceptance_token": accepted.content[0].text}
            drawn = await mcp.call_tool("generate", asked)
            source = f"data:image/png;base64,{drawn.content[0].data}"
            changed = await mcp.call_tool("generate", asked | {"init_image": source, "strength": 0.5})
            return tools, refused, drawn, changed

    tools, refused, drawn, changed = asyncio.run(session())
    assert set(tools) == {"accept_license", "compare", "generate", "model", "verify"}
    assert "Attachment A" in tools["generate"].description
    assert refused.isError and "/accept_license" in refused.content[0].text
    assert drawn.content[0].type == "image"
    assert drawn.content[0].mimeType == "image/png"
    assert json.loads(drawn.content[-1].text)["images"] == [{"seed": QUICK["seed"], "outcome": "ok", **MARKS}]
    assert changed.content[0].type == "image"
    assert json.loads(changed.content[-1].text)["recipe"]["strength"] == 0.5
    assert any("/gradio_api/file=" in getattr(part, "text", "") for part in drawn.content), "or by its address"


def test_leaving_an_api_call_frees_the_device(ready_server, token):
    url = f"{ready_server.url}/gradio_api/call"
    body = QUICK | {"num_inference_steps": 150, "num_images_per_prompt": 4, "acceptance_token": token}
    event_id = httpx.post(f"{url}/v2/generate", json=body).json()["event_id"]
    with httpx.stream("GET", f"{url}/generate/{event_id}", timeout=60) as stream:
        for line in stream.iter_lines():
            if '"step"' in line:
                break
    ready_server.wait_for_metric("sd_space_requests_running", 0)


def test_no_client_is_asked_for_a_heartbeat(ready_server):
    """Nothing of ours lives as long as a page's connection does, so that no such stream is open to anybody."""
    assert ready_server.get("/config").json()["connect_heartbeat"] is False
    assert ready_server.get("/gradio_api/heartbeat/made-up").status_code == 404


def test_a_cancelled_event_frees_the_device_whatever_number_its_caller_gives_it(ready_server, token):
    """At once: what is drawn for a page that only lost its connection goes on for half a minute."""
    config = ready_server.get("/config").json()
    labels = {c["id"]: c["props"].get("label") for c in config["components"]}
    drawing = [e for e in config["dependencies"] if {"Prompt", "Steps"} <= {labels.get(i) for i in e["inputs"]}]
    page_event = drawing[0]
    values = page_values(config, page_event["inputs"], token, Prompt="a cat", Steps=150, Size="64x64")
    event = {"data": values, "fn_index": page_event["id"], "session_hash": "cancels"}
    url, cancelled = f"{ready_server.url}/gradio_api", 'sd_space_failures_total{kind="Cancelled"}'
    before = ready_server.metric(cancelled)
    event_id = httpx.post(f"{url}/queue/join", json=event).json()["event_id"]
    with httpx.stream("GET", f"{url}/queue/data?session_hash=cancels", timeout=60) as stream:
        lines = stream.iter_lines()
        assert any("Step " in line for line in lines)
        body = {"event_id": event_id, "session_hash": "cancels", "fn_index": 0}
        assert httpx.post(f"{url}/cancel", json=body).status_code == 200
        assert any("process_completed" in line for line in lines)
    ready_server.wait_for_metric(cancelled, before + 1)
    ready_server.wait_for_metric("sd_space_requests_running", 0)
    assert "Traceback" not in ready_server.log


def test_cancelling_one_of_a_clients_jobs_leaves_the_other(client, token):
    values = QUICK | {"num_inference_steps": 150, "acceptance_token": token}
    cancelled, other = (client.submit(**values | {"seed": seed}, api_name="/generate") for seed in (1, 2))
    next(iter(cancelled)), next(iter(other))
    cancelled.cancel()
    _, result = other.result(timeout=60)
    assert result["images"] == [{"seed": 2, "outcome": "ok", **MARKS}]


def test_an_mcp_client_that_leaves_takes_its_pictures_request_along(ready_server, token):
    arguments = QUICK | {"num_inference_steps": 150, "num_images_per_prompt": 4, "acceptance_token": token}
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "generate", "arguments": arguments},
    }
    headers = {"Accept": "application/json, text/event-stream"}
    cancelled = 'sd_space_failures_total{kind="Cancelled"}'
    before = ready_server.metric(cancelled)
    with httpx.stream("POST", f"{ready_server.url}/gradio_api/mcp/", json=message, headers=headers, timeout=60):
        ready_server.wait_for_metric("sd_space_requests_running", 1)
    ready_server.wait_for_metric(cancelled, before + 1)
    ready_server.wait_for_metric("sd_space_requests_running", 0)


def test_files_have_whole_addresses_for_clients_elsewhere(ready_server, token):
    headers = {"Host": "10.0.0.1", "X-Forwarded-Host": "demo.example.org", "X-Forwarded-Proto": "https"}
    _, (files, _) = call(ready_server, "generate", QUICK | {"acceptance_token": token}, headers)
    assert files[0]["url"] == f"https://demo.example.org/gradio_api/file={files[0]['path']}"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://huggingface.co"])
def test_another_sites_page_can_neither_call_nor_read(ready_server, origin):
    url, asked = f"{ready_server.url}/gradio_api/call/v2/model", {"Origin": origin}
    refused = httpx.post(url, json={}, headers=asked)
    assert refused.status_code == 403 and "Another site" in refused.json()["error"]
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for answer in (httpx.options(url, headers=asked | preflight), ready_server.get("/config", headers=asked)):
        allowed = {name: value for name, value in answer.headers.items() if name.startswith("access-control")}
        assert allowed in ({}, {"access-control-allow-origin": "https://huggingface.co"})
        assert not allowed or origin == "https://huggingface.co"


def test_the_manifest_names_icons_that_are_there_below_any_path(ready_server):
    manifest, page = ready_server.get("/manifest.json").json(), ready_server.get("/").text
    assert f'<meta name="theme-color" content="{manifest["theme_color"]}">' in page
    assert manifest["short_name"] == "Stable Diffusion" and manifest["start_url"] == manifest["id"] == "./"
    assert re.search('<link rel="apple-touch-icon" href="([^"]+)">', page)[1] in {i["src"] for i in manifest["icons"]}
    for icon in manifest["icons"]:
        assert not icon["src"].startswith("/")
        answer = ready_server.get(f"/{icon['src']}")
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert "{}x{}".format(*picture.size) == icon["sizes"]
    assert ready_server.get("/pwa_icon/4096").status_code == 404


def test_health_readiness_and_metrics_answer(ready_server):
    assert ready_server.get("/healthz").status_code == 200
    assert ready_server.get("/readyz").status_code == 200
    assert "sd_space_" in ready_server.get("/metrics").text


def test_a_link_to_the_page_is_shown_with_its_name_and_a_picture(ready_server):
    page = ready_server.get("/").text
    assert "<title>Stable Diffusion v1-4</title>" in page
    shown = re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', page)
    assert [name for name, _ in shown] == ["type", "title", "description", "url", "image"], "each once"
    assert dict(shown)["title"] == "Stable Diffusion v1-4" and "Gradio" not in str(shown)
    assert dict(shown)["image"] == f"{dict(shown)['url']}link-preview.png", "nothing of where the program is installed"
    picture = httpx.get(dict(shown)["image"])
    assert picture.status_code == 200
    shown, kept = (Image.open(io.BytesIO(png)) for png in (picture.content, LINK_PREVIEW.read_bytes()))
    assert ImageChops.difference(shown, kept).getbbox() is None and shown.size == (1200, 630)
    assert b"c2pa" in picture.content and b"c2pa" not in LINK_PREVIEW.read_bytes(), "signed as it is served"
    assert len(ready_server.get("/favicon.ico").content) < 6000


def test_the_document_is_compressed_and_pictures_are_not(ready_server):
    for path, is_compressed in (("/", True), ("/config", True), ("/favicon.ico", False), ("/healthz", False)):
        answer = ready_server.get(path, headers={"Accept-Encoding": "gzip"})
        assert (answer.headers.get("content-encoding") == "gzip") == is_compressed, path
        assert "content-encoding" not in ready_server.get(path, headers={"Accept-Encoding": "identity"}).headers


def test_no_prompt_and_no_token_reaches_the_log(ready_server, client, token):
    client.predict(**QUICK | {"prompt": "marker-xyzzy " * 60}, acceptance_token=token, api_name="/generate")
    with pytest.raises(AppError):
        client.predict(**QUICK | {"prompt": "marker-xyzzy", "seed": -9}, acceptance_token=token, api_name="/generate")
    log = ready_server.log
    assert "xyzzy" not in log and token not in log


def test_words_beyond_the_77_tokens_are_named(client, token):
    prompt = " ".join(["a small cabin on a snowy mountain"] * 20)
    _, result = client.predict(**QUICK | {"prompt": prompt}, acceptance_token=token, api_name="/generate")
    assert "cabin" in result["truncated_prompt"]


def test_the_example_client_saves_its_pictures(ready_server, tmp_path):
    command = [sys.executable, "examples/api_client.py", ready_server.url, PROMPT, "--agree", "--seed", "3"]
    run = subprocess.run([*command, "--out", tmp_path], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "seed 3, ok" in run.stdout and "\r" not in run.stderr
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_the_example_client_says_how_to_accept(ready_server):
    run = subprocess.run(
        [sys.executable, "examples/api_client.py", ready_server.url, PROMPT], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 1 and "agree must be true" in run.stderr and "Traceback" not in run.stderr
