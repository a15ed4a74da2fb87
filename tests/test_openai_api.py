"""The image API of OpenAI behind the request filter, over a scripted backend."""

import asyncio
import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette

from sd_space.card import load_card
from sd_space.errors import EngineFailed
from sd_space.recorded import ICON, LINK_PREVIEW
from sd_space.schema import Outcome, Preview, Progress, Stage
from sd_space.serving.app_contract import AppContract
from sd_space.serving.form_parts import form_parts
from sd_space.serving.gate import Gate
from sd_space.serving.intake import Intake
from sd_space.serving.limits import Capacity
from sd_space.serving.metrics import Metrics
from sd_space.serving.middleware import RequestFilter
from sd_space.serving.openai_api import OpenAiApi
from sd_space.serving.openai_request import PARAMETERS
from sd_space.serving.results import ResultStore
from sd_space.serving.runs import Runs
from sd_space.serving.verify import MAX_BODY_BYTES
from sd_space.settings import Settings

from .fakes import FakeBackend
from .generated import drawn
from .test_schema import INFO

GENERATIONS, EDITS, MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/models"
ASKED = {"prompt": "a cat", "seed": 7}


class MosaicBackend(FakeBackend):
    """Says once how far it is, with a mosaic of the picture."""

    async def generate(self, admitted):
        updates = super().generate(admitted)
        async for update in updates:
            if isinstance(update, Progress):
                mosaic = Preview(2, 2, bytes(range(12)))
                update = replace(update, previews=(mosaic,) * update.num_pictures, fraction_done=0.6)
            yield update


class Door:
    """The filter with the API behind it, and nothing else that draws."""

    def __init__(self, folder: Path, backend: FakeBackend | None = None, has_login: bool = False, **settings):
        self.backend = backend or FakeBackend()
        given = Settings(**{"rate_per_minute": 1000} | settings)
        self.gate = Gate(load_card(), "secret", given.token_ttl_s)
        self.store = ResultStore(str(folder), given.result_ttl_s)
        self.capacity = Capacity(given, self.backend.status)
        metrics = Metrics(self.backend.status)
        runs = Runs(self.backend, self.store, given.result_ttl_s, self.capacity, metrics.count_run)
        api = OpenAiApi(self.gate, self.backend.status, Intake(self.gate, self.backend, self.capacity, runs))
        contract = AppContract(
            endpoints={}, tools={}, inputs={}, files=[folder], assets=(), visitor_of=self.gate.visitor_of,
            running=lambda event: None, is_alone=lambda event: True, session_of=lambda event: None,
            has_session=lambda session: False, evict_idle=lambda sessions: None, is_queue_alive=lambda: True,
            body_bytes={"edits": MAX_BODY_BYTES}, draws=(), has_login=has_login, title="A page", icon=ICON,
            link_preview=LINK_PREVIEW,
        )  # fmt: skip
        status = self.backend.status
        parts = (given, status, metrics, contract, self.capacity, 40)
        self.app = RequestFilter(Starlette(), *parts, openai=None if has_login else api)
        self.token = self.gate.issue_token(True)
        self.backend.proceed.set()

    def ask(self, path: str = GENERATIONS, method: str = "POST", **options) -> httpx.Response:
        return asyncio.run(self.asked(path, method, **options))

    async def asked(self, path: str = GENERATIONS, method: str = "POST", **options) -> httpx.Response:
        options["headers"] = {"Authorization": f"Bearer {self.token}"} | options.get("headers", {})
        transport = httpx.ASGITransport(self.app, client=("192.0.2.1", 1))
        async with asyncio.timeout(30), httpx.AsyncClient(transport=transport, base_url="http://space") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def door(tmp_path) -> Door:
    return Door(tmp_path)


def png(mode: str = "RGB", color: object = "white", size: int = 64) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size), color).save(file, "PNG")
    return file.getvalue()


def shown(entry: dict) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(entry["b64_json"])))


def test_one_picture_comes_as_base64_with_its_recipe_beside_it(door):
    answer = door.ask(json=ASKED | {"model": "dall-e-2", "quality": "hd", "user": "me", "size": "64x64"}).json()
    (entry,) = answer["data"]
    assert shown(entry).size == (64, 64) and (entry["seed"], entry["outcome"]) == (7, "ok")
    assert (answer["size"], answer["output_format"]) == ("64x64", "png") and answer["created"] > 10**9
    assert answer["result"]["recipe"]["prompt"] == "a cat" and answer["result"]["model"] == INFO.model
    assert answer["result"]["recipe"]["num_inference_steps"] == INFO.defaults.num_inference_steps


def test_addresses_are_those_of_results_where_the_caller_has_reached_the_page(door):
    answer = door.ask(json=ASKED | {"n": 2, "response_format": "url"}).json()
    address, path = answer["data"][1]["url"].split("/gradio_api/file=")
    assert address == "http://space" and Path(path).name == "seed-8.png" and "b64_json" not in answer["data"][1]


def test_a_withheld_picture_is_its_placeholder_with_words(tmp_path):
    door = Door(tmp_path, FakeBackend((Outcome.OK, Outcome.WITHHELD, Outcome.BROKEN)))
    entries = door.ask(json=ASKED | {"n": 3}).json()["data"]
    assert [entry["outcome"] for entry in entries] == ["ok", "withheld", "broken"]
    assert entries[1]["caption"] == "Seed 8: withheld by the safety checker" and shown(entries[1])


def test_own_fields_reach_the_backend(door):
    own = {"negative_prompt": "a dog", "num_inference_steps": 3, "guidance_scale": 2, "scheduler": "Euler"}
    assert door.ask(json=ASKED | own).status_code == 200
    (admitted,) = door.backend.started
    assert {name: getattr(admitted.request, name) for name in own} == own


def test_an_uploaded_picture_changes_where_its_mask_is_transparent_and_touches_no_disk(door, tmp_path, monkeypatch):
    admitted = []
    monkeypatch.setattr(
        "sd_space.request.GenerationRequest.without_pixels", lambda request: admitted.append(request) or request
    )
    for kind in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile"):
        monkeypatch.setattr(f"tempfile.{kind}", None)
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    file = io.BytesIO()
    mask.save(file, "PNG")
    uploads = {"image[]": ("cat.png", png(color="red")), "mask": ("mask.png", file.getvalue(), "image/png")}
    answer = door.ask(EDITS, data={"prompt": "a cat", "n": "2", "strength": "0.5", "size": "auto"}, files=uploads)
    assert answer.status_code == 200, answer.text
    (request,) = admitted
    assert (request.num_images_per_prompt, request.strength, request.width) == (2, 0.5, 64)
    assert request.init_image.pixels[:3] == b"\xff\0\0"
    assert (request.mask.pixels[0], request.mask.pixels[63]) == (255, 0), "white is drawn anew"
    written = {path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(written) > 1 and not written & {uploads["image[]"][1], uploads["mask"][1]}


async def call(door: Door, request: httpx.Request, receive, send) -> None:
    """What a server does, so that a test sees each part of an answer as it comes."""
    body = await request.aread()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def received():
        return messages.pop() if messages else await receive()

    headers = [*request.headers.raw, (b"Authorization", f"Bearer {door.token}".encode())]
    headers = [(name.lower(), value) for name, value in headers]
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": request.url.path, "query_string": b"",
        "scheme": "http", "headers": headers, "client": ("192.0.2.1", 1),
    }  # fmt: skip
    await door.app(scope, received, send)


def streamed(path: str) -> httpx.Request:
    asked = ASKED | {"n": 2, "stream": True, "partial_images": 1, "size": "64x64"}
    if path == GENERATIONS:
        return httpx.Request("POST", f"http://space{path}", json=asked)
    form = {name: str(value).lower() for name, value in asked.items()}
    return httpx.Request("POST", f"http://space{path}", data=form, files={"image": ("a.png", png())})


@pytest.mark.parametrize(("path", "name"), [(GENERATIONS, "image_generation"), (EDITS, "image_edit")])
def test_a_stream_has_mosaics_and_then_each_picture(tmp_path, path, name):
    head, events = {}, []

    async def scene():
        door = Door(tmp_path, MosaicBackend())
        door.backend.proceed.clear()

        async def send(message):
            head.update(message.get("headers", ()))
            for part in filter(None, message.get("body", b"").decode().split("\n\n")):
                event, data = (line.partition(": ")[2] for line in part.splitlines())
                events.append(json.loads(data))
                assert events[-1]["type"] == event
            if events:  # a mosaic has come while the picture is drawn
                door.backend.proceed.set()

        await call(door, streamed(path), asyncio.Event().wait, send)

    asyncio.run(asyncio.wait_for(scene(), 30))
    assert head[b"content-type"] == b"text/event-stream" and b"no-cache" in head[b"cache-control"]
    kinds = [(event["type"].removeprefix(f"{name}."), event["image_index"]) for event in events]
    assert kinds == [("partial_image", 1), ("completed", 0), ("completed", 1)]
    for event in events:
        assert shown(event).size == (64, 64) and event["size"] == "64x64" and event["output_format"] == "png"
    assert events[0]["partial_image_index"] == 0 and len(shown(events[0]).getcolors()) == 4
    assert events[1]["usage"]["total_tokens"] == 0 and events[1]["outcome"] == "ok"


def test_a_failure_in_a_stream_is_an_event_with_the_sentence(tmp_path):
    backend = FakeBackend(error=EngineFailed("A step failed; please try again."))
    answer = Door(tmp_path, backend).ask(json=ASKED | {"stream": True})
    last = json.loads(answer.text.strip().rpartition("data: ")[2])
    assert answer.status_code == 200 and last["error"]["message"] == "A step failed; please try again."
    answer = Door(tmp_path / "b", FakeBackend(error=EngineFailed("A step failed."))).ask(json=ASKED)
    assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"


def test_the_served_model_is_listed_and_found_by_its_name(door):
    listed = door.ask(MODELS, "GET").json()
    assert [model["id"] for model in listed["data"]] == ["picture-book"] and listed["object"] == "list"
    assert door.ask(f"{MODELS}/picture-book", "GET").json() == listed["data"][0]
    assert door.ask(f"{MODELS}/gpt-9", "GET").status_code == 404
    assert door.ask(MODELS, "GET", headers={"Authorization": "Bearer x"}).status_code == 401
    door.backend.stage, door.backend.info = Stage.LOADING, None
    loading = door.ask(MODELS, "GET")
    assert loading.status_code == 503 and "loading" in loading.json()["error"]["message"]
    assert "retry-after" in loading.headers


@pytest.mark.parametrize("is_stream", [False, True])
def test_who_leaves_takes_the_request_along(tmp_path, is_stream):
    async def scene():
        door = Door(tmp_path)
        door.backend.proceed.clear()
        leaves = asyncio.Event()

        async def receive():
            await leaves.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            pass

        request = httpx.Request("POST", f"http://space{GENERATIONS}", json=ASKED | {"stream": is_stream})
        under_way = asyncio.ensure_future(call(door, request, receive, send))
        while not door.backend.started:
            await asyncio.sleep(0.001)
        leaves.set()
        await under_way
        await door.backend.cancelled[door.backend.started[0].request_id].wait()
        while len(door.capacity):
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_the_doors_guards_hold_here(tmp_path):
    door = Door(tmp_path, max_queue=1, max_per_visitor=1)
    foreign = door.ask(json=ASKED, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403 and "Another site" in foreign.json()["error"]["message"]
    door.capacity.enter(None, door.gate.visitor_of(door.token))
    full = door.ask(json=ASKED)
    assert full.status_code == 429 and full.headers["retry-after"] and full.json()["error"]["code"]
    few = Door(tmp_path / "few", rate_per_minute=1)
    answers = [few.ask(json=ASKED) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429] and answers[1].headers["retry-after"]
    assert few.ask(json=ASKED).json()["error"]["type"] == "rate_limit_error"
    assert not door.backend.started
    behind_a_login = Door(tmp_path / "login", has_login=True)
    assert [behind_a_login.ask(path).status_code for path in (GENERATIONS, EDITS)] == [404, 404]
    assert behind_a_login.ask(MODELS, "GET").status_code == 404


JSON, FORM = {"Content-Type": "application/json"}, {"Content-Type": "multipart/form-data; boundary=x"}
PICTURE = {"image": ("cat.png", png())}
TEXTS = {"prompt": "a cat"}
MALFORMED = {  # id -> (path, how it is sent, status, what the sentence says)
    "no token": (GENERATIONS, {"json": ASKED, "headers": {"Authorization": ""}}, 401, "/accept_license"),
    "a forged token": (GENERATIONS, {"json": ASKED, "headers": {"Authorization": "Bearer x.y"}}, 401, "not valid"),
    "a token of another scheme": (GENERATIONS, {"json": ASKED, "headers": {"Authorization": "Basic x"}}, 401, "key"),
    "no body": (GENERATIONS, {"headers": JSON}, 400, "not valid JSON"),
    "half a body": (GENERATIONS, {"content": '{"prompt": ', "headers": JSON}, 400, "not valid JSON"),
    "a list": (GENERATIONS, {"json": ["a cat"]}, 400, "JSON object"),
    "a form for a prompt": (GENERATIONS, {"data": TEXTS}, 415, "must be JSON"),
    "a compressed body": (GENERATIONS, {"json": ASKED, "headers": {"Content-Encoding": "gzip"}}, 415, "compressed"),
    "deep JSON": (GENERATIONS, {"content": "[" * 50_000, "headers": JSON}, 400, "not valid JSON"),
    "too long a body": (GENERATIONS, {"json": {"prompt": "x" * 70_000}}, 413, "64 KiB"),
    "no prompt": (GENERATIONS, {"json": {}}, 400, "prompt is missing"),
    "an empty prompt": (GENERATIONS, {"json": {"prompt": " "}}, 400, "prompt must not be empty"),
    "a list of prompts": (GENERATIONS, {"json": {"prompt": ["a cat"]}}, 400, "prompt must be text"),
    "half a character": (GENERATIONS, {"content": '{"prompt": "\\ud800"}', "headers": JSON}, 400, "control"),
    "a long prompt": (GENERATIONS, {"json": {"prompt": "x" * 5000}}, 400, "prompt must be at most 1000"),
    "no pictures": (GENERATIONS, {"json": ASKED | {"n": 0}}, 400, "n must be a whole number from 1 to 4"),
    "too many pictures": (GENERATIONS, {"json": ASKED | {"n": 10}}, 400, "n must be a whole number from 1 to 4"),
    "a number as text": (GENERATIONS, {"json": ASKED | {"n": "2"}}, 400, "n must be a whole number"),
    "a large size": (GENERATIONS, {"json": ASKED | {"size": "1024x1024"}}, 400, "from 64 to 192 pixels"),
    "an odd size": (GENERATIONS, {"json": ASKED | {"size": "65x65"}}, 400, "multiples of 8, such as 128x128"),
    "no size": (GENERATIONS, {"json": ASKED | {"size": "large"}}, 400, "size must be auto"),
    "a number for a size": (GENERATIONS, {"json": ASKED | {"size": 512}}, 400, "size must be auto"),
    "an endless size": (GENERATIONS, {"json": ASKED | {"size": "9" * 4000 + "x1"}}, 400, "size must be auto"),
    "another format": (GENERATIONS, {"json": ASKED | {"response_format": "gif"}}, 400, "b64_json or url"),
    "a JPEG": (GENERATIONS, {"json": ASKED | {"output_format": "jpeg"}}, 400, "output_format must be png"),
    "no background": (GENERATIONS, {"json": ASKED | {"background": "transparent"}}, 400, "background must be"),
    "stream as text": (GENERATIONS, {"json": ASKED | {"stream": "yes"}}, 400, "stream must be true or false"),
    "many mosaics": (GENERATIONS, {"json": ASKED | {"stream": True, "partial_images": 9}}, 400, "from 0 to 3"),
    "streamed addresses": (
        GENERATIONS, {"json": ASKED | {"stream": True, "response_format": "url"}}, 400, "b64_json while stream"
    ),
    "an unknown parameter": (GENERATIONS, {"json": ASKED | {"steps": 5}}, 400, "unknown parameter"),
    "an unknown scheduler": (GENERATIONS, {"json": ASKED | {"scheduler": "x"}}, 400, "scheduler must be one of PNDM"),
    "not a number": (
        GENERATIONS, {"content": '{"prompt": "a", "guidance_scale": NaN}', "headers": JSON}, 400, "guidance_scale must"
    ),
    "a mask without its picture": (GENERATIONS, {"json": ASKED | {"mask": "x"}}, 400, "unknown parameter"),
    "JSON for an edit": (EDITS, {"json": ASKED}, 415, "multipart/form-data"),
    "a form without a boundary": (EDITS, {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400,
                                  "could not be read"),
    "a form without an end": (EDITS, {"content": b"--x\r\n", "headers": FORM}, 400, "could not be read"),
    "a form of a thousand parts": (EDITS, {"content": b"--x\r\n\r\n\r\n" * 1000, "headers": FORM}, 400,
                                   "not be read; send multipart/form-data of 1 to 40 parts"),
    "no picture": (EDITS, {"data": TEXTS, "files": {"mask": png()}}, 400, "image is missing"),
    "two pictures": (EDITS, {"data": TEXTS, "files": [("image[]", png())] * 2}, 400, "image came twice"),
    "a picture that is none": (EDITS, {"data": TEXTS, "files": {"image": b"no picture"}}, 400, "image is no PNG"),
    "half a picture": (EDITS, {"data": TEXTS, "files": {"image": png()[:60]}}, 400, "image is no PNG"),
    "a speck": (EDITS, {"data": TEXTS, "files": {"image": png(size=2)}}, 400, "image must have at least 16 pixels"),
    "a mask without a hole": (EDITS, {"data": TEXTS, "files": PICTURE | {"mask": png()}}, 400, "mask must be transp"),
    "a prompt that is no text": (EDITS, {"data": {}, "files": PICTURE | {"prompt": b"\xff"}}, 400, "in UTF-8"),
    "words for a number": (EDITS, {"data": TEXTS | {"n": "two"}, "files": PICTURE}, 400, "n must be a whole number"),
    "strength above all": (EDITS, {"data": TEXTS | {"strength": "2"}, "files": PICTURE}, 400, "strength must be"),
    "too large an upload": (EDITS, {"data": TEXTS, "files": {"image": bytes(9 * 2**20)}}, 413, "8 MB"),
    "another method": (GENERATIONS, {"method": "PUT", "json": ASKED}, 405, "takes POST only"),
    "another address": ("/v1/chat/completions", {"json": ASKED}, 404, "nothing at this address"),
    "variations": ("/v1/images/variations", {"data": TEXTS, "files": PICTURE}, 404, "nothing at this address"),
}  # fmt: skip


@pytest.mark.parametrize("beside", ["{}; charset=utf-8", 'charset="UTF-8"; {}', "{}"])
def test_a_form_may_say_that_its_texts_are_utf_8(beside):
    part = 'x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nä'
    body = f"--{part}\r\n--x--\r\n".encode()
    assert form_parts("multipart/form-data; " + beside.format("boundary=x"), body, 1) == [("prompt", "ä".encode())]


@pytest.fixture(scope="module")
def shared_door(tmp_path_factory) -> Door:
    return Door(tmp_path_factory.mktemp("results"))


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_in_openais_shape(shared_door, case):
    path, options, status, says = MALFORMED[case]
    answer = shared_door.ask(path, **options)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert says in error["message"] and "Traceback" not in answer.text
    assert not len(shared_door.capacity) and not shared_door.backend.started


VALUES = (
    None, True, 0, 2, -1, 1.5, 1e308, float("nan"), 10**30, "", "auto", "64x64", "1x1", "x", "true", "url", "PNDM",
    "\ud800", "\0", "é" * 50, "9" * 5000, "٣x٣", [], {}, [1],
)  # fmt: skip
FILES = (
    png(), png("RGBA", (1, 2, 3, 0)), png("LA", (3, 0)), png("P", 3), png("I;16", 5), png("1", 1), png()[:50], b"",
)  # fmt: skip


@drawn(60, nightly=3000)
def test_no_request_is_answered_without_words(tmp_path, attempts):
    door = Door(tmp_path, rate_per_minute=10**6)
    for attempt in attempts:
        with attempt:
            random = attempt.random
            chosen = random.sample(PARAMETERS, random.randrange(1, 4))
            asked = attempt.asks({"prompt": "a cat"} | {name: random.choice(VALUES) for name in chosen})
            if random.random() < 0.5:
                answer = door.ask(content=json.dumps(asked), headers=JSON)
            else:
                files = {name: random.choice(FILES) for name in ("image", "mask")}
                texts = {name: str(value).encode("utf-8", "replace").decode() for name, value in asked.items()}
                answer = door.ask(EDITS, data=texts, files=files)
            assert answer.status_code in (200, 400), answer.text
            assert answer.status_code == 200 or len(answer.json()["error"]["message"]) > 10
            attempt.came_to(answer.status_code)
    attempts.assert_held(200, 400)


def test_an_acceptance_that_was_withdrawn_is_no_key(door):
    door.gate.withdraw(door.token)
    refused = door.ask(json=ASKED)
    assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert "withdrawn" in refused.json()["error"]["message"] and not door.backend.started


def test_a_refusal_names_the_parameter(door):
    for asked, param in (({"n": 9}, "n"), ({"size": "7x7"}, "size"), ({"seed": -9}, "seed"), ({"stream": 1}, "stream")):
        assert door.ask(json=ASKED | asked).json()["error"]["param"] == param
    assert door.ask(EDITS, data=TEXTS, files={"image": b"x"}).json()["error"]["param"] == "image"
