"""JAX draws what PyTorch draws, on all of its devices, and compiling is not taken for anything else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sd_space.errors import ModelUnavailable
from sd_space.model.pipeline import fit_pipeline
from sd_space.model.spec import Hardware, PipelineSpec
from sd_space.settings import Settings

from .generated import taking_turns
from .tiny_models import make_pipeline

ROOT = Path(__file__).parent.parent
CPU = Hardware("cpu")
# XLA compiles in less than half of the time, to programs that are slower: it matters where little is drawn.
FAST_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jax")


def found_with_four_devices(folder: Path, *parts: str, model: str = "tiny", xla_flags: str = "") -> dict:
    """What tests/jax_program.py found out, by its parts."""
    pytest.importorskip("jax")
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags}
    command = [sys.executable, "-m", "tests.jax_program", str(folder), model, *parts]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(folder):
    return found_with_four_devices(folder, "card_example", "unknown_operation")


@pytest.fixture(scope="module")
def found_at_night(folder):
    return found_with_four_devices(folder, "by_scheduler", "new_size")


@pytest.mark.nightly
def test_every_noise_scheduler_draws_pytorchs_pictures_within_1_of_255(found_at_night):
    for name, (_, largest) in found_at_night["by_scheduler"]["differences"].items():
        assert largest <= 1, name
    assert len(found_at_night["by_scheduler"]["differences"]) == 8


@pytest.mark.nightly
def test_the_models_own_size_is_compiled_before_ready_and_no_other(found_at_night):
    assert found_at_night["by_scheduler"]["compiled"] == [[256, 256]]
    assert "compiling the unet" in found_at_night["by_scheduler"]["details"]


@pytest.mark.nightly
def test_a_call_has_a_picture_for_each_device(found_at_night):
    assert found_at_night["by_scheduler"]["width"] == 4


@pytest.mark.nightly
def test_the_model_says_what_runs_it_and_offers_few_sizes(found_at_night):
    info = found_at_night["by_scheduler"]["info"]
    assert (info["runtime"], info["dtype"], info["size_step"]) == ("jax", "float32", 64)


@pytest.mark.nightly
def test_a_new_size_is_announced_and_compiled_outside_of_any_step(found_at_night):
    new = found_at_night["new_size"]
    assert new["compiled"] and len(new["notes"]) == 1 and "compiled" in new["notes"][0]
    assert new["slowest_step_s"] < 3.0


@pytest.mark.nightly
def test_the_cards_example_draws_with_the_picture_book_and_all_its_steps(found, folder):
    check_card_example(found["card_example"], folder)


@taking_turns(0)
def test_the_cards_example_draws_a_picture_for_each_device_in_bfloat16(model_folder, tmp_path):
    """With a model of noise in v1-4's layout, and 10 steps: at night the picture book draws all 50."""
    found = found_with_four_devices(tmp_path, "card_example", model=str(model_folder), xla_flags=FAST_TO_COMPILE)
    check_card_example(found["card_example"], tmp_path)


def check_card_example(found: dict, folder: Path) -> None:
    assert found == {"dtype": "bfloat16", "files": [f"picture_{seed}.png" for seed in range(4)]}
    pictures = [
        np.stack([np.asarray(Image.open(folder / way / name)).astype(int) for name in found["files"]])
        for way in ("jax", "torch")
    ]
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() <= 2


@pytest.mark.nightly
def test_what_is_compiled_is_kept_in_a_private_folder(found, folder):
    kept = folder / "cache" / "sd_space" / "jax"
    assert [path.stat().st_mode & 0o777 for path in (kept, kept.parent)] == [0o700, 0o700]
    assert any(path.stat().st_size > 10_000 for path in kept.iterdir())


@pytest.mark.nightly
def test_an_operation_that_is_not_in_the_table_is_named_when_the_model_is_loaded(found):
    assert found["unknown_operation"] == (
        "SD_SPACE_RUNTIME is jax, which cannot run this model (no operation silu); set it to torch, or leave it empty."
    )


def test_without_the_package_it_is_refused_in_a_sentence(one_torch_thread, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ModelUnavailable) as failure:
        fit_pipeline(make_pipeline(), spec_of())
    assert failure.value.operator_hint == (
        "SD_SPACE_RUNTIME is jax, which is not installed; pip install jax, or leave it empty."
    )


@pytest.mark.parametrize(
    ("settings", "obstacle"),
    [
        ({"turbo": True}, "with SD_SPACE_TURBO"),
        ({"attention_slicing": "on"}, "with SD_SPACE_ATTENTION_SLICING"),
        ({"backend": "zerogpu"}, "in a process that is forked for each call"),
        ({"device": "cuda"}, "on cuda"),
    ],
)
def test_where_it_cannot_be_the_operator_reads_so_before_anything_is_loaded(settings, obstacle):
    with pytest.raises(ModelUnavailable) as failure:
        spec_of(Hardware("cuda"), **settings)
    assert failure.value.operator_hint == (
        f"SD_SPACE_RUNTIME is jax, which does not work {obstacle}; leave SD_SPACE_RUNTIME empty."
    )


def test_float16_is_refused_and_bfloat16_leaves_the_other_parts_in_float32():
    assert (spec_of(dtype="bfloat16").dtype, spec_of(dtype="bfloat16").jax_dtype) == ("float32", "bfloat16")
    assert (spec_of().device, spec_of(Hardware("cuda")).device, spec_of().jax_dtype) == ("cpu", "cpu", "float32")
    with pytest.raises(ModelUnavailable, match="cannot be loaded") as failure:
        spec_of(dtype="float16")
    assert "SD_SPACE_DTYPE is float16" in failure.value.operator_hint


def test_auto_never_takes_it():
    assert PipelineSpec.from_settings(Settings(model="tiny"), CPU).runtime != "jax"


def spec_of(hardware: Hardware = CPU, **settings) -> PipelineSpec:
    return PipelineSpec.from_settings(Settings(model="noise-painter", runtime="jax", **settings), hardware)
