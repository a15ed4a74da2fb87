"""Replicas of Ray Serve that are killed while they draw, every picture beside the same one drawn undisturbed."""

import argparse
import asyncio
import random
from typing import Any

import torch

from sd_space.backends.loading import build_engine
from sd_space.errors import SpaceError
from sd_space.model.pipeline import LoadedPipeline
from sd_space.schema import GenerationResult
from sd_space.settings import Settings
from sd_space.tools.bench.clusters import replica_processes, requests, settings_for, started, whole


async def faults(loaded: LoadedPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """Kills replicas at random while `--pictures` requests are drawn on two, and compares every picture."""
    engine = build_engine(loaded, Settings(max_batch_size=options.width))
    admitted = requests(loaded, options, options.pictures, "fault")
    expected: dict[str, bytes | None] = {}
    for one in admitted:
        engine.add_request(one)
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, GenerationResult):
                expected[update.request_id] = update.images[0].pixels
    settings = settings_for(options, backend="ray", ray_replicas=2)
    draw = random.Random(options.seed)
    waiting, kills = iter(admitted), 0
    counted = {"right": 0, "wrong": 0, "refused": 0}

    with started(settings) as backend:
        await whole(backend, 2)

        async def visitor() -> None:
            for one in waiting:
                try:
                    last = [update async for update in backend.generate(one)][-1]
                except SpaceError:
                    last = None
                if not isinstance(last, GenerationResult):
                    counted["refused"] += 1
                else:
                    counted["right" if like(last.images[0].pixels, expected[one.request_id]) else "wrong"] += 1

        visitors = [asyncio.ensure_future(visitor()) for _ in range(2 * options.width)]
        while kills < options.kills and not all(task.done() for task in visitors):
            done = sum(counted.values())
            if done >= (kills + 0.5) * options.pictures / (options.kills + 1) and (alive := replica_processes()):
                draw.choice(alive).kill()
                kills += 1
            await asyncio.sleep(0.05)
        await asyncio.gather(*visitors)
        return {"kills": kills, **counted, "reruns": backend.status().reruns}


def like(pixels: bytes | None, expected: bytes | None) -> bool:
    """Equal but for what company does to a picture: 1 in 255."""
    if pixels is None or expected is None:
        return pixels is expected
    both = (torch.frombuffer(bytearray(part), dtype=torch.uint8).int() for part in (pixels, expected))
    return int((next(both) - next(both)).abs().max()) <= 1
