"""A visitor who speaks plain HTTP and keeps every byte that comes back."""

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..server import ROOT

QUICK = {
    "prompt": "a cat",
    "negative_prompt": "",
    "num_images_per_prompt": 1,
    "num_inference_steps": 1,
    "guidance_scale": 2.0,
    "seed": 7,
    "width": 64,
    "height": 64,
    "scheduler": "PNDM",
}
LONG = QUICK | {"num_inference_steps": 150, "num_images_per_prompt": 4}
# What a sentence for visitors must not have in it: places in the code, and words that only programmers know.
_HERE = "|".join(re.escape(f"{folder}/") for folder in (Path.home(), ROOT))
FOR_PROGRAMMERS = re.compile(rf"Traceback|File \"|/tmp/|{_HERE}|site-packages|\.py\b|Error\(|<class|\bnull\b|\bNone\b$")


@dataclass(frozen=True)
class Answer:
    """The last word of the server: an HTTP status, all bytes of the body, and the last event of a stream.

    `event` is `complete`, `error` or empty where there was no stream. `sentence` is what it tells people.
    """

    status: int
    body: bytes
    seconds: float
    event: str = ""
    data: Any = None

    @property
    def sentence(self) -> str:
        told = self.data if self.event else _parsed(self.body)
        if isinstance(told, dict):
            told = told.get("error", told.get("detail", told.get("message", "")))
            told = told.get("message", "") if isinstance(told, dict) else told  # as OpenAI writes it
        return told if isinstance(told, str) else ""

    @property
    def is_complete(self) -> bool:
        return self.event == "complete"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class Visitor:
    """Talks to the server at `url`; `headers` go with every call."""

    def __init__(self, url: str, headers: dict[str, str] | None = None):
        self.http = httpx.Client(base_url=url, headers=headers, timeout=20)
        self.config = self.http.get("/config").json()

    def close(self) -> None:
        self.http.close()

    def send(self, method: str, path: str, **options: Any) -> Answer:
        began_s = time.monotonic()
        answer = self.http.request(method, path, **options)
        return Answer(answer.status_code, answer.content, time.monotonic() - began_s)

    def call(self, name: str, values: Any, version: str = "v2/", **options: Any) -> Answer:
        """Calls a public endpoint and reads its events to the last one."""
        if not options.keys() & {"content", "json"}:
            options["json"] = values
        posted = self.send("POST", f"/gradio_api/call/{version}{name}", **options)
        event_id = (_parsed(posted.body) or {}).get("event_id") if posted.status == 200 else None
        return self.events(f"/gradio_api/call/{name}/{event_id}", posted) if event_id else posted

    def generate(self, **changes: Any) -> Answer:
        return self.call("generate", QUICK | changes)

    def token(self) -> str:
        answer = self.call("accept_license", {"agree": True})
        assert answer.is_complete, answer
        return answer.data[0]

    def join(self, fn_index: Any, data: list, session: Any = None, **more: Any) -> Answer:
        """Triggers an event of the page, whatever it is, and reads the session's events until it is over."""
        session = secrets.token_hex(6) if session is None else session
        body = {"fn_index": fn_index, "data": data, "session_hash": session} | more
        posted = self.send("POST", "/gradio_api/queue/join", json=body)
        if posted.status != 200:
            return posted
        return self.events(f"/gradio_api/queue/data?session_hash={quote(str(session))}", posted)

    def events(self, path: str, posted: Answer, until: Callable[[str], bool] = lambda line: False) -> Answer:
        """Reads a stream to its end, or to a line that is enough."""
        began_s = time.monotonic()
        lines, event, data = [posted.body.decode()], "", None
        with self.http.stream("GET", path) as stream:
            for line in stream.iter_lines():
                lines.append(line)
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = _parsed(line.removeprefix("data: "))
                    if isinstance(data, dict) and data.get("msg") == "process_completed":  # as the page is told
                        event, data = "complete" if data["success"] else "error", data["output"]
                        break
                if until(line):
                    break
            status = stream.status_code
        return Answer(status, "\n".join(lines).encode(), posted.seconds + time.monotonic() - began_s, event, data)

    def started(self, token: str, **changes: Any) -> str:
        """Begins a long run and returns its event id once it is seen to be running."""
        posted = self.send("POST", "/gradio_api/call/v2/generate", json=LONG | changes | {"acceptance_token": token})
        return _parsed(posted.body)["event_id"]

    def fn_index(self, *words: str) -> int:
        """The number of the page's event whose inputs have these labels, one of them at least."""
        labels = {c["id"]: c["props"].get("label") for c in self.config["components"]}
        for event in self.config["dependencies"]:
            if set(words) <= {labels.get(i) for i in event["inputs"]}:
                return event["id"]
        raise LookupError(words)

    def page_values(self, token: str, prompt: str = "a cat", seed: int = 7, embed_recipe: bool = True) -> list:
        """The data of the page's Generate, in its order."""
        start = ["", "", 0.6, -1, 0.0]
        return [token, prompt, "", 1, 1, "PNDM", 2.0, seed, *start, False, "64x64", embed_recipe, "", ""]
