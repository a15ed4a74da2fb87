"""The simulator, fed with the times of the very calls that it plays again, agrees with two replicas."""

import argparse
import asyncio

import pytest

from sd_space.tools.bench import harness, scale
from sd_space.tools.bench.simulator import poisson, simulate

PICTURES = 24


def test_a_crowd_and_arrivals_at_random_are_foretold(whole, cluster_settings):
    options = argparse.Namespace(
        model=cluster_settings.model, device="cpu", dtype="auto", threads=None, seed=0, size=None, steps=60,
        scheduler=None,
    )  # fmt: skip
    loaded, at_once = harness.load(options), [0.0] * PICTURES

    async def compare(arrivals_s, name):
        admitted = scale.requests(loaded, options, PICTURES, name)
        outcome, work = await scale.attend(loaded, whole, admitted, arrivals_s)
        expected = simulate(arrivals_s, 2, cluster_settings.max_batch_size, work, PICTURES)
        assert expected.pictures_per_s == pytest.approx(outcome.pictures_per_s, rel=0.15)
        assert expected.mean_wait_s == pytest.approx(outcome.mean_wait_s, rel=0.15)
        return outcome.pictures_per_s

    async def main():
        rate_per_s = await compare(at_once, "at once")
        await compare(poisson(0.7 * rate_per_s, PICTURES), "at random")

    asyncio.run(main())
