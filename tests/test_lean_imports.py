"""An engine's start without the page's packages, and without what only compilers and groups of processes use, all of
which is there when asked for."""

import json
import os
import subprocess
import sys

import pytest

from .server import ROOT
from .test_architecture import PAGE_PACKAGES

DRAWS_AND_COMPILES = """
import json, sys, threading
def tell(**what): print(json.dumps(what))
from sd_space.model.lean_imports import import_lean
import_lean()
import sd_space.engine.engine, sd_space.model.pipeline, sd_space.backends.local
tell(packages=sorted({name.split(".")[0] for name in sys.modules}), threads=threading.active_count())
from sd_space.backends.loading import build_engine, load
from sd_space.settings import Settings
settings = Settings(model=sys.argv[1], runtime="torch", max_batch_size=1)
engine = build_engine(load(settings), settings)
from tests.tiny_models import admitted, make_request
engine.add_request(admitted(make_request(num_inference_steps=1)))
while not engine.is_idle:
    engine.step()
tell(modules=[*sys.modules], is_stand_in=sys.modules["torch._dynamo"].disable(len) is len)
import torch, torch._dynamo.backends.common
from torch._dynamo import utils
doubled = torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1))
is_one_module = torch._dynamo.utils is utils is sys.modules["torch._dynamo.utils"]
tell(doubled=doubled.item(), frames=utils.counters["frames"]["ok"], is_one_module=is_one_module,
     is_stand_in=torch._dynamo.disable(len) is len)
"""


@pytest.fixture(scope="module")
def told(model_folder) -> list[dict]:
    """By a fresh interpreter: when its imports are done, when it has drawn, and when it has compiled."""
    arguments = [sys.executable, "-c", DRAWS_AND_COMPILES, str(model_folder)]
    quiet = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}  # else it recommends torchvision
    run = subprocess.run(arguments, cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_the_engine_loads_nothing_of_the_pages_and_starts_no_thread(told):
    assert PAGE_PACKAGES.isdisjoint(told[0]["packages"]) and told[0]["threads"] == 1


def test_an_engine_draws_without_a_compiler(told):
    assert {"torch.distributed.tensor", "torch._dynamo.utils"}.isdisjoint(told[1]["modules"]) and told[1]["is_stand_in"]


def test_a_compiler_that_is_asked_for_works(told):
    assert told[2] == {"doubled": 2.0, "frames": 1, "is_one_module": True, "is_stand_in": False}
