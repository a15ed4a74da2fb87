"""The kernels that pay are remembered by device and shape."""

import json

import pytest

from sd_space.cache_folder import cache_folder, write_cached
from sd_space.model.kernels import MOST_STORED, NAME, TRIALS, USUAL, Kernels, StoredKernels, fastest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_only_what_gains_enough_is_taken():
    attention, convolutions = TRIALS
    assert fastest({USUAL: 1.0, attention: 0.98, convolutions: 1.2}) == USUAL
    assert fastest({USUAL: 1.0, attention: 0.9, convolutions: 1.2}) == attention
    assert fastest({USUAL: 1.0, attention: 0.9, convolutions: 0.8}) == Kernels(True, True)
    assert fastest({USUAL: 1.0, convolutions: 0.8}) == convolutions, "there may be none of the other kind"


def test_a_device_knows_its_own():
    one, other = StoredKernels("one"), StoredKernels("other")
    assert one.read("2x4") is None
    one.store("2x4", Kernels(True, False))
    assert (one.read("2x4"), one.read("4x4"), other.read("2x4")) == (Kernels(True, False), None, None)
    for number in range(MOST_STORED):
        one.store(f"{number}", USUAL)
    assert one.read("2x4") is None and one.read("0") == USUAL, "the oldest go"


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[1]", json.dumps({"one; 2x4": [True]}).encode()])
def test_what_is_damaged_is_measured_again(content):
    write_cached(NAME, content)
    assert (cache_folder() / NAME).exists() and StoredKernels("one").read("2x4") is None
