"""Several replicas behind Ray Serve: throughput, wait, overhead and memory, beside a simulation of the same arrivals.

With `--plan`, how many replicas it takes for so many pictures a minute, from the times measured here or given.
"""

import argparse
import asyncio
import dataclasses
import os
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil

from sd_space.backends import Backend
from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoiser import Denoiser
from sd_space.engine.step_times import StepTimes
from sd_space.model.pipeline import LoadedPipeline
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest, GenerationResult
from sd_space.tools.bench import harness, startup
from sd_space.tools.bench.clusters import cpu_seconds, memory_of_ray, requests, settings_for, started, whole
from sd_space.tools.bench.kills import faults
from sd_space.tools.bench.simulator import Outcome, Work, poisson, replicas_needed, simulate

ASK_EVERY_S = 1.5  # a page asks its replicas every second
COLUMNS = (
    "backend", "replicas", "arrivals", "pictures/s", "simulated", "off %", "mean wait s", "simulated s", "wait off %",
    "engine CPU ms/picture", "page CPU ms/picture", "replica MiB", "Ray MiB",
)  # fmt: skip
PLAN_COLUMNS = ("pictures a minute", "within s", "replicas", "GPUs busy %", "cost an hour", "per 1,000 pictures")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)
    parser.add_argument("--width", type=int, default=4, help="pictures that share a UNet call (default: %(default)s)")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2], help="of each cluster that is compared")
    parser.add_argument("--pictures", type=int, default=24, help="a replica, one a request (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is reported (default: %(default)s)")
    parser.add_argument("--load", type=float, default=0.7, help="of what is made at once, for arrivals at random")
    parser.add_argument("--kills", type=int, default=0, help="replicas to kill while --pictures are drawn on two")
    parser.add_argument("--http", type=int, default=0, help="pictures to ask the page itself for, and count its CPU")
    parser.add_argument("--plan", type=float, nargs="*", default=[], help="pictures a minute to plan for")
    parser.add_argument(
        "--within", type=float, default=30.0, help="seconds for 19 of 20 visitors (default: %(default)s)"
    )
    parser.add_argument(
        "--step-ms", type=float, nargs="*", default=[], help="of a call with 1, 2, … pictures, else measured"
    )
    parser.add_argument("--finish-ms", type=float, default=0.0, help="decode and check of a picture, with --step-ms")
    parser.add_argument("--price", type=float, default=1.0, help="of a replica for an hour (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    options.threads = options.threads or 1
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the local backend that they are compared with
    loaded = harness.load(options)
    circumstances = harness.circumstances(loaded, options) | {"width": options.width, "pictures": options.pictures}
    print(harness.describe(circumstances), flush=True)
    columns: tuple[str, ...] | None
    if options.kills:
        columns, rows = None, [asyncio.run(faults(loaded, options))]
    elif options.http:
        columns, rows = None, [over_http(loaded, options)]
    elif options.plan:
        work = given_work(loaded, options) if options.step_ms else asyncio.run(measured_work(loaded, options))
        columns, rows = PLAN_COLUMNS, [plan(rate, work, options) for rate in options.plan]
    else:
        columns, rows = COLUMNS, asyncio.run(compare(loaded, options))
    harness.print_table(columns or list(rows[0]), [list(row.values()) for row in rows])
    return {**circumstances, "rows": rows}


def work_of(
    request: GenerationRequest, num_timesteps: int, steps_s: dict[int, float], finish_s: float, start_s: float = 0.0
) -> Work:
    """`steps_s` are those of calls by the pictures in them."""
    key, times = BatchKey.of(request), StepTimes()
    for pictures, seconds in steps_s.items():
        times.record_step(key, pictures, seconds)
    times.record_finish(request.height, request.width, finish_s)
    return Work(key, num_timesteps, times, start_s)


def given_work(loaded: LoadedPipeline, options: argparse.Namespace) -> Work:
    """The request on a device whose times are given."""
    steps_s = {pictures: milliseconds / 1e3 for pictures, milliseconds in enumerate(options.step_ms, start=1)}
    request = harness.request_of(loaded, options).request
    return work_of(request, Denoiser(loaded.pipeline).num_timesteps(request), steps_s, options.finish_ms / 1e3)


async def measured_work(loaded: LoadedPipeline, options: argparse.Namespace) -> Work:
    """The request on this machine, in a crowd."""
    with started(settings_for(options, max_queue=options.pictures)) as backend:
        await whole(backend, 0)
        admitted = requests(loaded, options, options.pictures, "crowd")
        _, work = await attend(loaded, backend, admitted, [0.0] * len(admitted))
        return work


def plan(per_minute: float, work: Work, options: argparse.Namespace) -> dict[str, Any]:
    replicas = replicas_needed(per_minute / 60, options.within, options.width, work)
    return {
        "per_minute": per_minute,
        "within_s": options.within,
        "replicas": replicas,
        "busy_percent": 100 * per_minute / 60 * work.busy_s(options.width) / replicas,
        "cost_per_hour": replicas * options.price,
        "cost_per_1000": replicas * options.price / (per_minute * 60) * 1000,
    }


async def compare(loaded: LoadedPipeline, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A crowd at once, and arrivals at random, on each number of replicas and on the local backend.

    They take turns, so that other work on this machine slows all alike; each figure is the median of the rounds.
    Each crowd is simulated with the times that its own calls took: a shared machine's speed changes by the minute.
    """
    rows = []
    for replicas in options.replicas:
        settings = settings_for(options, max_queue=10 * options.pictures)
        with (
            started(settings) as local,
            started(dataclasses.replace(settings, backend="ray", ray_replicas=replicas)) as ray,
        ):
            ways = {"local": (local, 1), "ray": (ray, replicas)}
            await whole(local, 0)
            await whole(ray, replicas)
            memory = dict(zip(("replica_mib", "ray_mib"), memory_of_ray(), strict=True))
            at_once: dict[str, float] = {}  # pictures a second
            for arrivals in ("at once", "at random"):
                rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
                for number in range(-1, options.rounds):  # the first warms up
                    for way, (backend, engines) in ways.items():
                        moments_s = [0.0] * options.pictures * engines
                        if arrivals == "at random":
                            moments_s = poisson(options.load * at_once[way], len(moments_s), options.seed)
                        admitted = requests(loaded, options, len(moments_s), f"{arrivals} {number}")
                        before_s = cpu_seconds()
                        outcome, work = await attend(loaded, backend, admitted, moments_s)
                        used_s = [after - before for after, before in zip(cpu_seconds(), before_s, strict=True)]
                        expected = simulate(moments_s, engines, options.width, work, settings.max_queue)
                        if number >= 0:
                            rounds[way].append(figures_of(outcome, expected, used_s[way == "ray"], used_s[0]))
                for way, (_, engines) in ways.items():
                    medians = {key: statistics.median(one[key] for one in rounds[way]) for key in rounds[way][0]}
                    at_once.setdefault(way, medians["pictures_per_s"])
                    of_ray = memory if way == "ray" else dict.fromkeys(memory)
                    rows.append({"backend": way, "replicas": engines, "arrivals": arrivals} | medians | of_ray)
    return rows


def figures_of(outcome: Outcome, expected: Outcome, engine_s: float, page_s: float) -> dict[str, float]:
    pictures = len(outcome.waits_s)
    return {
        "pictures_per_s": outcome.pictures_per_s,
        "simulated_pictures_per_s": expected.pictures_per_s,
        "throughput_off_percent": 100 * (expected.pictures_per_s / outcome.pictures_per_s - 1),
        "mean_wait_s": outcome.mean_wait_s,
        "simulated_mean_wait_s": expected.mean_wait_s,
        "wait_off_percent": 100 * (expected.mean_wait_s / outcome.mean_wait_s - 1),
        "engine_cpu_ms": 1e3 * engine_s / pictures,
        "page_cpu_ms": 1e3 * page_s / pictures,
    }


async def attend(
    loaded: LoadedPipeline, backend: Backend, admitted: list[AdmittedRequest], arrivals_s: list[float]
) -> tuple[Outcome, Work]:
    """Sends each request at its moment and waits for all of their pictures; also what they cost the engines."""
    before = await calls_so_far(backend)
    began_s = time.perf_counter()

    async def visit(one: AdmittedRequest, at_s: float) -> tuple[float, float, Mapping[str, float]]:
        await asyncio.sleep(max(0.0, began_s + at_s - time.perf_counter()))
        asked_s = time.perf_counter()
        last = [update async for update in backend.generate(one)][-1]
        assert isinstance(last, GenerationResult), last
        return time.perf_counter() - asked_s, time.perf_counter(), last.elapsed_s

    visits = await asyncio.gather(*(visit(*pair) for pair in zip(admitted, arrivals_s, strict=True)))
    waits_s, ends_s, stages_s = zip(*visits, strict=True)
    steps_s = {}
    for pictures, (calls, seconds) in (await calls_so_far(backend)).items():
        earlier, earlier_s = before.get(pictures, (0, 0.0))
        if calls > earlier:
            steps_s[pictures] = (seconds - earlier_s) / (calls - earlier)
    request = admitted[0].request
    finish_s, start_s = (
        statistics.mean(sum(stage_s.get(name, 0.0) for name in names) for stage_s in stages_s)
        for names in (("decode", "safety"), ("encode_prompt",))
    )
    work = work_of(request, Denoiser(loaded.pipeline).num_timesteps(request), steps_s, finish_s, start_s)
    return Outcome(waits_s, max(ends_s) - began_s - arrivals_s[0]), work


async def calls_so_far(backend: Backend) -> Mapping[int, tuple[int, float]]:
    """Once they no longer grow, so that none is missing."""
    calls, before = backend.status().unet_calls, None
    while calls != before:
        before = calls
        await asyncio.sleep(ASK_EVERY_S)
        calls = backend.status().unet_calls
    return calls


def over_http(loaded: LoadedPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """CPU of the page's process a picture, Gradio and PNG files included: the app, asked for two pictures a replica."""
    port = startup.free_port()
    replicas = max(options.replicas)
    environ = {
        "SD_SPACE_MODEL": options.model,
        "SD_SPACE_MAX_BATCH_SIZE": str(options.width),
        "SD_SPACE_RAY_REPLICAS": str(replicas),
    }
    values = dataclasses.asdict(harness.request_of(loaded, options).request)
    with startup.started([str(startup.ROOT / "app.py"), "--backend", "ray"], port, environ) as (url, began_s):
        (page,) = (child for child in psutil.Process().children() if "app.py" in " ".join(child.cmdline()))
        startup.answers(url, "/readyz", began_s)
        values["acceptance_token"] = startup.call(url, "accept_license", {"agree": True})[0]

        def draw(seed: int) -> None:
            startup.call(url, "generate", values | {"seed": seed})

        with ThreadPoolExecutor(2 * replicas) as visitors:
            list(visitors.map(draw, range(2 * replicas)))
            before, before_s = page.cpu_times(), time.perf_counter()
            list(visitors.map(draw, range(options.http)))
            after, seconds = page.cpu_times(), time.perf_counter() - before_s
    used_s = after.user + after.system - before.user - before.system
    return {
        "replicas": replicas,
        "pictures": options.http,
        "pictures_per_s": options.http / seconds,
        "page_cpu_ms": 1e3 * used_s / options.http,
    }
