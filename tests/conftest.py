"""Fixtures that load a model load it once, and torch is imported only by tests that ask for one."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from .generated import SEED, Attempts

PICTURE_BOOK = Path(__file__).parent.parent / "sd_space" / "tiny"


SERVED = {
    "reliability", "cluster", "test_api", "test_app", "test_clients", "test_doctor", "test_local_backend",
}  # fmt: skip
os.environ["SD_SPACE_RUNTIME"] = "torch"  # for which exact pictures are promised
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small models lose time to a second thread, and lanes to each other's
settings.register_profile("any machine", deadline=None)  # a busy one is slow now and then
settings.load_profile("any machine")


def pytest_itemcollected(item):
    if SERVED.intersection((*item.path.parts, item.path.stem)):
        item.add_marker(pytest.mark.served)


def pytest_collection_modifyitems(config, items):
    """What does not run here says so once, loudly: what needs CUDA where there is none, and what is for the night."""
    leave_out_gpu(config, items)
    leave_out_nightly(config, items)


def leave_out_gpu(config, items) -> None:
    mine = [item for item in items if item.get_closest_marker("gpu")]
    if not mine:
        return
    import torch

    if not torch.cuda.is_available():
        left = [item for item in mine if item.get_closest_marker("real_gpu")]
        sentence = f"{len(mine) - len(left)} tests run on a pretended device, and {len(left)} that need memory do not."
        leave_out(config, items, left, f"NO CUDA: {sentence}")


def leave_out_nightly(config, items) -> None:
    mine = [item for item in items if item.get_closest_marker("nightly")]
    if not mine:
        return
    config.get_terminal_writer().line(f"\nTEST_SEED={SEED} draws the same sample again.")
    if "nightly" in config.option.markexpr:
        return
    left = [item for item in mine if not item.get_closest_marker("sample")]
    sentence = f"NIGHTLY: {len(left)} tests do not run, of {len(mine)} that `python -m pytest -m nightly` runs."
    leave_out(config, items, left, sentence)


def leave_out(config, items, left, sentence: str) -> None:
    config.get_terminal_writer().line(f"\n{sentence}", red=True, bold=True)
    is_left = set(left)
    items[:] = [item for item in items if item not in is_left]
    config.hook.pytest_deselected(items=left)


@pytest.fixture
def attempts(request) -> Attempts:
    """Those of a test that is `drawn`."""
    return Attempts(request.node.originalname, request.param)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Nothing is read from the user's own cache, and nothing is written to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def one_torch_thread():
    """Small models lose time to a second thread, and results do not hang on the machine's cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def pretended_gpu(one_torch_thread):
    from .gpu import Gpu
    from .pretend_cuda import pretended_cuda

    with pretended_cuda() as device:
        yield Gpu(device)


@pytest.fixture
def gpu(request):
    """A CUDA device, pretended where there is none."""
    import torch

    from .gpu import Gpu

    return Gpu(None) if torch.cuda.is_available() else request.getfixturevalue("pretended_gpu")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, one_torch_thread) -> Path:
    """A folder in v1-4's layout with seeded random weights: 64 x 64 pictures of noise."""
    from .tiny_models import save_model_folder

    return save_model_folder(tmp_path_factory.mktemp("models") / "noise-painter")


@pytest.fixture(scope="session")
def repository(tmp_path_factory, one_torch_thread) -> Path:
    """The noise painter as v1-4's repository on the Hub has it."""
    from .hub import save_2022_repository

    return save_2022_repository(tmp_path_factory.mktemp("hub") / "v1-4")


@pytest.fixture
def standin(repository, tmp_path, monkeypatch):
    """A stand-in that this process takes for the Hub, and an empty cache."""
    from sd_space.model import hub

    from .hub import point_here, serving

    monkeypatch.setattr(hub, "SHORTEST_DELAY_S", 0.01)
    with serving(repository) as server:
        point_here(monkeypatch, server.url, tmp_path / "cache")
        yield server


@pytest.fixture(scope="session")
def noise_painter(model_folder):
    """That folder, loaded."""
    from .tiny_models import load

    return load(model_folder)


@pytest.fixture(scope="session")
def picture_book(one_torch_thread):
    """The model that ships, loaded."""
    from .tiny_models import load

    return load(PICTURE_BOOK)


@pytest.fixture(scope="session", params=["noise painter", "picture book"])
def loaded(request):
    """Both models that need no network, in turn."""
    return request.getfixturevalue(request.param.replace(" ", "_"))


@pytest.fixture(scope="session")
def ready_server():
    """The real app, serving the picture book; one for all tests that only use it as visitors do."""
    from .server import serve

    with serve() as server:
        server.wait_for("/readyz", timeout_s=120)
        yield server
