"""An engine's start without what only compilers and groups of processes use, all of which is there when asked for."""

import subprocess
import sys

from .server import ROOT

DRAWS_AND_COMPILES = """
import sys
from sd_space.backends.loading import build_engine, load
from sd_space.settings import Settings
settings = Settings(model=sys.argv[1], runtime="torch", max_batch_size=1)
engine = build_engine(load(settings), settings)
from tests.tiny_models import admitted, make_request
engine.add_request(admitted(make_request(num_inference_steps=1)))
while not engine.is_idle:
    engine.step()
left_out = {"torch.distributed.tensor", "torch._dynamo.utils"}
print(sorted(left_out & set(sys.modules)), sys.modules["torch._dynamo"].disable(len) is len)
import torch, torch._dynamo.backends.common
from torch._dynamo import utils
print(torch.compile(lambda x: 2 * x, backend="eager")(torch.ones(1)), utils.counters["frames"]["ok"])
print(torch._dynamo.utils is utils is sys.modules["torch._dynamo.utils"], torch._dynamo.disable(len) is len)
"""


def test_an_engine_draws_without_a_compiler_and_one_that_is_asked_for_works(model_folder):
    arguments = [sys.executable, "-c", DRAWS_AND_COMPILES, str(model_folder)]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["[] True", "tensor([2.]) 1", "True False"]
