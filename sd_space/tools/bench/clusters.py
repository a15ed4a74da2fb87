"""Clusters of Ray Serve and the local backend, started from a bench's options: requests for them, their processes."""

import argparse
import asyncio
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psutil

from sd_space.backends import Backend, make_backend, until_ready
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import AdmittedRequest
from sd_space.settings import Settings
from sd_space.tools.bench import harness

MIB = 2**20


def settings_for(options: argparse.Namespace, **changes: Any) -> Settings:
    return dataclasses.replace(harness.settings_of(options), max_batch_size=options.width, **changes)


@contextlib.contextmanager
def started(settings: Settings) -> Iterator[Backend]:
    backend = make_backend(settings)
    backend.start()
    try:
        yield backend
    finally:
        backend.close(0)


def requests(loaded: LoadedPipeline, options: argparse.Namespace, pictures: int, name: str) -> list[AdmittedRequest]:
    made = (harness.request_of(loaded, options, number) for number in range(pictures))
    return [dataclasses.replace(one, request_id=f"{name} {one.request_id}") for one in made]


async def whole(backend: Backend, replicas: int) -> None:
    """Until the model is loaded everywhere."""
    async for _ in until_ready(backend):
        pass
    while replicas and backend.status().replicas.get("running", 0) < replicas:
        await asyncio.sleep(0.2)


def replica_processes(pid: int | None = None) -> list[psutil.Process]:
    """The replicas of a cluster that a process, this one by default, started."""
    replicas = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
            if "EngineReplica" in " ".join(process.cmdline()):
                replicas.append(process)
    return replicas


def cpu_seconds() -> tuple[float, float]:
    """What this process has used of the CPU, and what the replicas have."""
    theirs = [process.cpu_times() for process in replica_processes()]
    return time.process_time(), sum(times.user + times.system for times in theirs)


def memory_of_ray() -> tuple[float, float]:
    """MiB of one replica, and of everything else of Ray's; each process's own pages."""
    mine = {process.pid: process.memory_full_info().uss / MIB for process in replica_processes()}
    family = psutil.Process().children(recursive=True)
    others = [process.memory_full_info().uss / MIB for process in family if process.pid not in mine]
    return statistics.mean(mine.values()), sum(others)
