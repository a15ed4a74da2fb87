"""Which memory profile a device gets, and that the predictions are the architecture's own."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sd_space.model.memory import (
    GIB,
    MEMORY_PROFILES,
    Footprint,
    MemoryProfile,
    decode_bytes,
    fallback_order,
    needed_bytes,
    step_bytes,
)
from sd_space.tools.v1_4_random import make_modules

from .fakes import V1_4

SHARED = MemoryProfile(vae_slicing=True, max_pictures=4, checker_on_cpu=True)
RECORDED = MemoryProfile(recorded_steps=True)
TILED = MemoryProfile(vae_slicing=True, max_pictures=4, checker_on_cpu=True, vae_tiling=True)


def first(free_gb: float, footprint: Footprint = V1_4, **options) -> MemoryProfile:
    return fallback_order("cuda", free_gb * GIB, footprint, total_bytes=free_gb * GIB, **options)[0]


@pytest.mark.parametrize(
    ("free_gb", "expected"),
    [
        (24, RECORDED),
        (12, RECORDED),
        (8, RECORDED),
        (7.4, RECORDED),
        (6, MemoryProfile()),
        (5, MemoryProfile()),
        (4.5, MemoryProfile(vae_slicing=True)),
        (4, SHARED),
        (3.6, MemoryProfile(attention_slicing=True, vae_slicing=True, max_pictures=4, checker_on_cpu=True)),
        (3, MemoryProfile(True, vae_slicing=True, max_pictures=4, checker_on_cpu=True, vae_tiling=True)),
        (2.7, MemoryProfile(True, vae_slicing=True, max_pictures=1, checker_on_cpu=True, vae_tiling=True)),
        (2.48, MemoryProfile(True, True, 1, True, True, "model")),
        (2, MemoryProfile(True, True, 1, True, True, "sequential")),
        (0.1, MemoryProfile(True, True, 1, True, True, "sequential")),
    ],
)
def test_the_first_memory_profile_of_v1_4(free_gb, expected):
    assert first(free_gb) == expected


def test_each_profile_needs_less_than_the_one_before():
    needed = [needed_bytes(V1_4, profile) for profile in MEMORY_PROFILES]
    assert needed == sorted(needed, reverse=True)
    assert len(set(needed)) == len(needed)


def test_the_profiles_after_the_first_stay_to_fall_back_to():
    profiles = fallback_order("cuda", 4 * GIB, V1_4, total_bytes=4 * GIB)
    assert profiles == MEMORY_PROFILES[4:]


def test_a_gpu_that_is_lent_by_the_call_records_no_steps():
    assert first(24, recorded_steps=False) == MemoryProfile()


def test_what_others_hold_of_the_memory_counts():
    profiles = fallback_order("cuda", 3.5 * GIB, V1_4, total_bytes=24 * GIB)
    assert profiles[0] == SHARED, "and attention is not sliced: the card is no small one"


def test_a_pretended_limit_counts_like_a_smaller_card():
    assert first(24, max_vram_gb=3.6) == first(3.6)
    assert first(3, max_vram_gb=24) == first(3)


def test_a_narrow_batch_needs_less():
    assert first(4.4, most_pictures=8) == MemoryProfile(vae_slicing=True)
    assert needed_bytes(V1_4, MemoryProfile(vae_slicing=True), 1) < needed_bytes(V1_4, MemoryProfile(vae_slicing=True))


@pytest.mark.parametrize(
    ("changes", "is_sliced"),
    [
        ({}, False),
        ({"attention_slicing": "on"}, True),
        ({"low_vram_gb": 12.0}, True),
        ({"low_vram_gb": 12.0, "attention_slicing": "off"}, False),
        ({"max_vram_gb": 3.5}, True),
        ({"max_vram_gb": 4.0}, False),
    ],
)
def test_attention_is_sliced_below_the_cards_line_or_when_asked(changes, is_sliced):
    profiles = fallback_order("cuda", 8 * GIB, V1_4, total_bytes=8 * GIB, **changes)
    assert {profile.attention_slicing for profile in profiles} == {is_sliced}


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_a_device_without_memory_of_its_own_begins_at_the_top_and_never_offloads(device):
    profiles = fallback_order(device, None, V1_4)
    assert profiles[0] == MemoryProfile()
    assert profiles[-1] == MemoryProfile(vae_slicing=True, max_pictures=1, vae_tiling=True)
    assert not any(profile.checker_on_cpu or profile.offload != "none" for profile in profiles)
    assert fallback_order(device, None, V1_4, attention_slicing="on")[0].attention_slicing


def test_a_small_model_has_room_on_a_small_device():
    small = Footprint(*(8_000_000,) * 4, step=step_bytes(32, 16, 16, 2), decode=decode_bytes(32, 128, 128, 2))
    assert first(1, small) == MemoryProfile(attention_slicing=True)
    assert first(2, small) == MemoryProfile(attention_slicing=True, recorded_steps=True)


def test_profiles_are_named_for_people():
    assert MemoryProfile().name == "everything in memory"
    assert RECORDED.name == "everything in memory, recorded steps"
    assert SHARED.name == "sliced decode, 4 pictures a step, checker on the CPU"
    profile = MemoryProfile(True, True, 1, True, True, "model")
    assert profile.name == "attention slicing, tiled decode, 1 picture a step, model offload"


# --- the formulas, against v1-4's own networks on a device that holds nothing


class PeakMemory(TorchDispatchMode):
    """Adds up the storages that operators make while it is on, and remembers the peak."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())
        return result

    def _forget(self, key: int, count: int) -> None:
        self._seen.discard(key)
        self.live -= count


@pytest.fixture(scope="module")
def networks():
    return {name: make_modules()[name].to(torch.float16).eval() for name in ("unet", "vae")}


@pytest.mark.parametrize(("side", "pictures"), [(64, 1), (64, 4), (96, 1)])
def test_a_step_of_v1_4_takes_what_is_predicted(networks, side, pictures):
    rows = 2 * pictures
    latents = torch.empty(rows, 4, side, side, dtype=torch.float16, device="meta")
    embeds = torch.empty(rows, 77, 768, dtype=torch.float16, device="meta")
    with torch.inference_mode(), PeakMemory() as memory:
        networks["unet"](latents, torch.empty(rows, device="meta"), encoder_hidden_states=embeds, return_dict=False)
    assert memory.peak == pytest.approx(pictures * step_bytes(320, side, side, 2), rel=0.01)


@pytest.mark.parametrize("side", [32, 64, 96])
def test_a_decode_of_v1_4_takes_what_is_predicted(networks, side):
    latents = torch.empty(1, 4, side, side, dtype=torch.float16, device="meta")
    with torch.inference_mode(), PeakMemory() as memory:
        networks["vae"].decode(latents, return_dict=False)
    assert memory.peak == pytest.approx(decode_bytes(128, 8 * side, 8 * side, 2), rel=0.01)
