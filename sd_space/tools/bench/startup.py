"""Starting up: seconds from the command to the page, to ready, to the first picture.

Beside a bare Gradio page that has no model, the model card's plain recipe that has no page, and this Space without one.
Files that were read before are in the system's cache, as they are when a Space restarts.
"""

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sd_space.card import load_card
from sd_space.model.spec import TINY_FOLDER
from sd_space.settings import PREFIX
from sd_space.tools import v1_4_random
from sd_space.tools.bench import harness

ROOT = harness.ROOT
COLUMNS = ("what", "page s", "ready s", "first picture s")
BARE_PAGE = "import gradio; gradio.Interface(str, 'text', 'text').launch(server_port=int(__import__('sys').argv[1]))"
RECIPE = """
import json, sys
import torch
from diffusers import StableDiffusionPipeline
options = json.loads(sys.argv[1])
dtype = torch.float16 if options["device"] == "cuda" else torch.float32
pipe = StableDiffusionPipeline.from_pretrained(options["model"], variant=options["variant"], dtype=dtype)
pipe.to(options["device"])
pipe(options["prompt"], num_inference_steps=options["steps"]).images[0].save(options["file"])
"""
PATIENCE_S = 1800.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="tiny",
        help=f"tiny (the picture book), a folder, a Hub id, or {v1_4_random.NAME}, which is written to a folder first",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    parser.add_argument("--runtime", default="torch", help="torch, openvino or auto (default: %(default)s)")
    parser.add_argument("--variant", help="of the files, such as fp16")
    parser.add_argument("--steps", type=int, default=20, help="inference steps of the first picture")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-page", action="store_true", help="leaves out what needs Gradio")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    circumstances = {"model": options.model, "runtime": options.runtime, "steps": options.steps}
    circumstances |= {"seed": options.seed, "repeats": options.repeats}
    circumstances |= harness.machine(options.device)
    print(harness.describe(circumstances), flush=True)
    ways: dict[str, Callable[..., dict[str, float]]] = {"this Space": space, "bare Gradio page": bare_page}
    ways = ({} if options.no_page else ways) | {"this Space, no page": no_page, "plain recipe": recipe}
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if model == v1_4_random.NAME:
            model = str(Path(scratch) / model)
            v1_4_random.save(
                Path(model), torch.float16 if options.variant == "fp16" else torch.float32, options.variant
            )
        for _ in range(options.repeats):
            for way, measure in ways.items():
                runs[way].append(measure(options, model, scratch))
                medians = {
                    what: {name: statistics.median(one[name] for one in each) for name in each[0]}
                    for what, each in runs.items()
                    if each
                }
                harness.keep(options, {**circumstances, "runs": runs, "rows": medians})
    names = ("page_s", "ready_s", "first_picture_s")
    harness.print_table(COLUMNS, [[what, *(row.get(name, "") for name in names)] for what, row in medians.items()])
    return {**circumstances, "runs": runs, "rows": medians}


def space(options: argparse.Namespace, model: str, scratch: str) -> dict[str, float]:
    """The app as an operator starts it, and one picture through its public API as soon as the page answers."""
    environ = {
        "MODEL": model,
        "DEVICE": options.device,
        "RUNTIME": options.runtime,
        "VARIANT": options.variant or "",
        "RESULT_DIR": str(Path(scratch) / "results"),
    }
    port = free_port()
    with started([str(ROOT / "app.py")], port, {PREFIX + k: v for k, v in environ.items() if v}) as (url, began_s):
        page_s = answers(url, "/", began_s)
        ready_s = answers(url, "/readyz", began_s)
        token = call(url, "accept_license", {"agree": True})[0]
        values = {"prompt": load_card().examples[0].text, "num_images_per_prompt": 1, "seed": options.seed}
        call(url, "generate", values | {"num_inference_steps": options.steps, "acceptance_token": token})
        return {"page_s": page_s, "ready_s": ready_s, "first_picture_s": time.perf_counter() - began_s}


def bare_page(options: argparse.Namespace, model: str, scratch: str) -> dict[str, float]:
    port = free_port()
    with started(["-c", BARE_PAGE, str(port)], port, {}) as (url, began_s):
        return {"page_s": answers(url, "/", began_s)}


def no_page(options: argparse.Namespace, model: str, scratch: str) -> dict[str, float]:
    """What the Space does for one picture, without a page, in a process of its own: see `picture.py`."""
    arguments = ["--model", model, "--device", options.device, "--steps", str(options.steps)]
    arguments += [
        "--runtime",
        options.runtime,
        "--seed",
        str(options.seed),
        "--out",
        str(Path(scratch) / "picture.png"),
    ]
    return {"first_picture_s": seconds_of(["-m", "sd_space.tools.bench", "picture", *arguments])}


def recipe(options: argparse.Namespace, model: str, scratch: str) -> dict[str, float]:
    is_book = model == "tiny"
    values = {
        "model": str(TINY_FOLDER) if is_book else model,
        "variant": options.variant or ("fp16" if is_book else None),
        "device": options.device,
        "prompt": load_card().examples[0].text,
        "steps": options.steps,
        "file": str(Path(scratch) / "picture.png"),
    }
    return {"first_picture_s": seconds_of(["-c", RECIPE, json.dumps(values)])}


def seconds_of(arguments: list[str]) -> float:
    """How long Python is busy with them, in a process of its own."""
    began_s = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise RuntimeError(f"the process ended with {done.returncode}: {said[-1]}")
    return time.perf_counter() - began_s


@contextlib.contextmanager
def started(arguments: list[str], port: int, environ: dict[str, str]) -> Iterator[tuple[str, float]]:
    """A server in a process of its own: its address, and when it was started."""
    gradio = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    began_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | gradio | environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}", began_s
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str, path: str, began_s: float) -> float:
    """Seconds from `began_s` until `path` answers 200."""
    import httpx  # Gradio's, as all that speaks to a page

    with httpx.Client(timeout=30) as client:  # one for all: making one takes longer than a page does
        while time.perf_counter() - began_s < PATIENCE_S:
            with contextlib.suppress(httpx.TransportError):
                answer = client.get(url + path)
                if answer.status_code == 200:
                    return time.perf_counter() - began_s
                if '"failed"' in answer.text:
                    raise RuntimeError(f"the Space did not start: {answer.text}")
            time.sleep(0.05)
    raise TimeoutError(f"{path} did not answer 200 in {PATIENCE_S:.0f} s")


def call(url: str, endpoint: str, values: dict[str, Any]) -> list[Any]:
    """What an endpoint of Gradio's plain HTTP API returns."""
    import httpx

    asked = httpx.post(f"{url}/gradio_api/call/v2/{endpoint}", json=values, timeout=PATIENCE_S).raise_for_status()
    event = ""
    event_url = f"{url}/gradio_api/call/{endpoint}/{asked.json()['event_id']}"
    with httpx.stream("GET", event_url, timeout=PATIENCE_S) as lines:
        for line in lines.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data" and event == "complete":
                return json.loads(value)
    raise RuntimeError(f"{endpoint} ended with {event}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
