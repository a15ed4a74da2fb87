"""The simulator, fed with the times of the very calls that it plays again, agrees with two replicas."""

import argparse
import asyncio

import pytest

from sd_space.tools.bench import harness, scale
from sd_space.tools.bench.simulator import poisson, simulate

PICTURES = 16


@pytest.mark.nightly
def test_a_crowd_and_arrivals_at_random_are_predicted(whole, cluster_settings):
    """In two rounds of five at most: what else this machine does may delay a single one."""
    options = argparse.Namespace(
        model=cluster_settings.model, device="cpu", dtype="auto", runtime="torch", threads=None, seed=0, size=None,
        steps=60, scheduler=None,
    )  # fmt: skip
    loaded, rates_per_s = harness.load(options), []

    async def is_foretold(arrivals_s, name):
        admitted = scale.requests(loaded, options, PICTURES, name)
        outcome, work = await scale.attend(loaded, whole, admitted, arrivals_s)
        expected = simulate(arrivals_s, 2, cluster_settings.max_batch_size, work, PICTURES)
        rates_per_s.append(outcome.pictures_per_s)
        return expected.pictures_per_s == pytest.approx(outcome.pictures_per_s, rel=0.15) and (
            expected.mean_wait_s == pytest.approx(outcome.mean_wait_s, rel=0.15)
        )

    async def rounds_foretold(name, arrivals_of):
        found = []
        while found.count(True) < 2 and len(found) < 5:
            found.append(await is_foretold(arrivals_of(), f"{name} {len(found)}"))
        return found.count(True)

    async def main():
        assert await rounds_foretold("at once", lambda: [0.0] * PICTURES) == 2
        rate_per_s = max(rates_per_s)
        assert await rounds_foretold("at random", lambda: poisson(0.7 * rate_per_s, PICTURES)) == 2

    asyncio.run(main())
