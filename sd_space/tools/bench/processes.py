"""Engines in processes of their own, on a CPU: their throughput, what the border costs, the page's delay, memory.

Each figure is a median of `--rounds` in which the ways take turns; ratios are taken within a round.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import psutil

from sd_space.backends import Backend
from sd_space.backends.in_process import InProcessBackend
from sd_space.backends.local import LocalBackend
from sd_space.card import load_card
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import AdmittedRequest, GenerationResult
from sd_space.settings import PREFIX
from sd_space.tools.bench import clusters, harness, startup

APP = harness.ROOT / "app.py"
TICK_S = 0.002  # how often the event loop is to be punctual
ONE_PROCESS = """
import sys
import app
import sd_space.backends.local
from sd_space.backends.in_process import InProcessBackend
sd_space.backends.local.LocalBackend = InProcessBackend
if __name__ == "__main__":
    sys.exit(app.main([]))
"""
COLUMNS = ("way", "pictures/s", "s a picture alone", "loop delay ms: median", "99 of 100", "most")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--width", type=int, default=4, help="pictures that share a UNet call (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=16, help="of a crowd, one a request (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-page", action="store_true", help="leaves out what needs Gradio: the memory")


def run(options: argparse.Namespace) -> dict[str, Any]:
    options.threads, options.device = options.threads or os.cpu_count() or 1, "cpu"
    loaded = harness.load(options)
    request = harness.request_of(loaded, options).request
    circumstances = harness.circumstances(loaded, options) | {
        "size": request.width, "steps": request.num_inference_steps, "scheduler": request.scheduler,
        "width": options.width, "pictures": options.pictures, "rounds": options.rounds,
    }  # fmt: skip
    print(harness.describe(circumstances), flush=True)
    rounds = asyncio.run(in_turns(loaded, options))
    medians = {
        way: {name: statistics.median(one[name] for one in each) for name in each[0]} for way, each in rounds.items()
    }
    harness.print_table(COLUMNS, [[way, *row.values()] for way, row in medians.items()])
    ratios = ratios_of(rounds) | ({} if options.no_page else memory(options))
    harness.print_table(("ratio", "median"), [list(pair) for pair in ratios.items()])
    return {**circumstances, "rounds": rounds, "rows": medians, "ratios": ratios}


async def in_turns(loaded: LoadedPipeline, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """A crowd, and one picture alone, on each way; the ways that wait for their turns are idle."""
    threads = options.threads
    settings = clusters.settings_for(options, max_queue=10 * options.pictures)
    with contextlib.ExitStack() as stack:
        made: dict[str, tuple[Backend, int]] = {
            f"{threads} engines of one thread": (LocalBackend(replace(settings, devices=str(threads))), 1),
            "one engine of one thread": (LocalBackend(settings), 1),
            f"one engine of {threads} threads": (LocalBackend(settings), threads),
            f"in this process, {threads} threads": (InProcessBackend(settings), threads),
        }
        ways = {way: stack.enter_context(started(*each)) for way, each in made.items()}
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(-1, options.rounds):  # the first warms up
            for way, backend in ways.items():
                figures = await measure(loaded, backend, options, f"{number}")
                if number >= 0:
                    rounds[way].append(figures)
                    harness.keep(options, {"rounds": rounds})
        return rounds


@contextlib.contextmanager
def started(backend: Backend, threads: int) -> Iterator[Backend]:
    """Loaded, with so many threads for each engine."""
    with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": str(threads)}):  # an engine's process reads it as it begins
        backend.start()
        while not all(device.name for device in backend.status().devices) or not backend.status().is_ready:
            time.sleep(0.1)
    try:
        yield backend
    finally:
        backend.close(0)


async def measure(loaded: LoadedPipeline, backend: Backend, options: argparse.Namespace, name: str) -> dict[str, float]:
    crowd, (alone,) = (
        clusters.requests(loaded, options, count, f"{name} of {count}") for count in (options.pictures, 1)
    )
    delays_s: list[float] = []
    watching = asyncio.create_task(watch_loop(delays_s))
    began_s = time.perf_counter()
    await asyncio.gather(*(drawn(backend, one) for one in crowd))
    crowd_s = time.perf_counter() - began_s
    watching.cancel()
    began_s = time.perf_counter()
    await drawn(backend, alone)
    alone_s = time.perf_counter() - began_s
    *_, p99_s = statistics.quantiles(delays_s, n=100)
    return {
        "pictures_per_s": len(crowd) / crowd_s,
        "alone_s": alone_s,
        "delay_ms": 1e3 * statistics.median(delays_s),
        "delay_p99_ms": 1e3 * p99_s,
        "delay_most_ms": 1e3 * max(delays_s),
    }


async def drawn(backend: Backend, one: AdmittedRequest) -> None:
    last = [update async for update in backend.generate(one)][-1]
    assert isinstance(last, GenerationResult), last


async def watch_loop(delays_s: list[float]) -> None:
    """By how much a sleep on the event loop takes longer than it should."""
    while True:
        due_s = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        delays_s.append(time.perf_counter() - due_s)


def ratios_of(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    several, one, threaded, inside = rounds.values()

    def ratio(name: str, above: list[dict[str, float]], below: list[dict[str, float]]) -> float:
        return statistics.median(a[name] / b[name] for a, b in zip(above, below, strict=True))

    return {
        "crowd: engines of one thread to one of them": ratio("pictures_per_s", several, one),
        "crowd: engines of one thread to one of all threads": ratio("pictures_per_s", several, threaded),
        "one picture: engine's process to this process": ratio("alone_s", threaded, inside),
        "loop delay, 99 of 100: engine's process to this process": ratio("delay_p99_ms", threaded, inside),
    }


def memory(options: argparse.Namespace) -> dict[str, float]:
    """The page's and the engine's proportional set size after a picture, beside the same in one process."""
    apart, together = (mib_after_a_picture(arguments, options) for arguments in ([str(APP)], ["-c", ONE_PROCESS]))
    return {"MiB: page and engine": apart, "MiB: in one process": together, "memory": apart / together}


def mib_after_a_picture(arguments: list[str], options: argparse.Namespace) -> float:
    environ = {f"{PREFIX}MODEL": options.model, f"{PREFIX}DEVICE": "cpu", f"{PREFIX}MAX_BATCH_SIZE": str(options.width)}
    port = startup.free_port()
    with startup.started(arguments, port, environ) as (url, began_s):
        startup.answers(url, "/readyz", began_s)
        token = startup.call(url, "accept_license", {"agree": True})[0]
        values = {"prompt": load_card().examples[0].text, "seed": options.seed, "acceptance_token": token}
        startup.call(url, "generate", values | ({"num_inference_steps": options.steps} if options.steps else {}))
        children = psutil.Process().children()
        (page,) = (child for child in children if child.environ().get("GRADIO_SERVER_PORT") == str(port))
        family = [page, *page.children(recursive=True)]
        return sum(process.memory_full_info().pss for process in family) / harness.MIB
