"""A Ray cluster on this machine, loopback only. Without Ray these tests say so once, loudly, and are left out."""

import asyncio
import importlib.util
import os
import time
import warnings
from pathlib import Path

import psutil
import pytest

from sd_space.backends import make_backend, until_ready
from sd_space.settings import Settings
from sd_space.tools.bench.clusters import replica_processes

HAS_RAY = importlib.util.find_spec("ray") is not None
collect_ignore_glob = [] if HAS_RAY else ["test_*.py"]
if HAS_RAY:
    with warnings.catch_warnings(action="ignore"):  # its own use of pydantic is out of date
        import ray.serve  # noqa: F401


def pytest_collection_modifyitems(config, items):
    for item in items:
        if "cluster" in item.path.parts:
            item.add_marker(pytest.mark.ray)
            # Ray's own code leaves sockets and files to the garbage collector, and forks in threads.
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"))
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning:ray"))
    if not HAS_RAY:
        sentence = "NO RAY: the tests of tests/cluster do not run; pip install -r tests/requirements.txt."
        if os.environ.get("REQUIRE_RAY"):
            raise pytest.UsageError(sentence)
        config.get_terminal_writer().line(f"\n{sentence}", red=True, bold=True)


def busiest(processes: list[psutil.Process]) -> psutil.Process:
    """The one that is drawing."""
    before = {process: process.cpu_times().user for process in processes}
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        worked = {process: process.cpu_times().user - before[process] for process in processes}
        if max(worked.values()) > 0.1:
            return max(processes, key=worked.get)
    raise AssertionError("no replica is drawing")


@pytest.fixture(scope="package")
def cluster_settings(model_folder: Path) -> Settings:
    return Settings(model=str(model_folder), backend="ray", runtime="torch", ray_replicas=2, max_batch_size=4)


@pytest.fixture(scope="package")
def cluster(cluster_settings):
    """Two replicas that paint noise."""
    backend = make_backend(cluster_settings)
    backend.start()

    async def ready():
        async with asyncio.timeout(120):
            async for _ in until_ready(backend):
                pass

    asyncio.run(ready())
    yield backend
    backend.close(5)


@pytest.fixture
def whole(cluster):
    """The cluster with both replicas running and nothing to do."""
    deadline_s = time.monotonic() + 120
    while cluster.status().replicas != {"running": 2} or len(replica_processes()) != 2:
        assert time.monotonic() < deadline_s, cluster.status()
        time.sleep(0.1)
    return cluster
