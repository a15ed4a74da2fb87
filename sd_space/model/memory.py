"""Memory profiles: how a pipeline can be fitted into a device's memory, and in which order to try them. Pure Python.

What a profile needs is predicted from the architecture. Where a prediction was too low and memory runs out, `Placement`
falls back to the next profile.
"""

from dataclasses import dataclass, replace

from sd_space.languages import Phrase
from sd_space.settings import WIDTHS

GIB = 2**30
RESERVE_BYTES = GIB // 4  # workspaces of cuDNN and cuBLAS, and gaps in the allocator's blocks
RECORDED_STEPS = 1.3  # times a step's memory: the pool that all CUDA graphs share, which they do not fill
RECORDINGS_BYTES = 3 * GIB // 4  # for 16 CUDA graphs in the driver: 64 KiB a kernel up to driver 550
LARGEST_AREA = 2.25  # times the default: a request may ask for sides of up to 1.5 times the model's own
TILE_AREA = 0.25  # times the default: a tile has half of the model's sides


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """How the pipeline is fitted into the device's memory. `offload` is `none`, `model` or `sequential`.

    `max_pictures` caps how many pictures share a UNet call; with `None` the engine chooses. `recorded_steps` replays
    UNet calls as CUDA graphs, which have a memory pool of their own, and stores weights channels last.
    """

    attention_slicing: bool = False
    vae_slicing: bool = False
    max_pictures: int | None = None
    checker_on_cpu: bool = False
    vae_tiling: bool = False
    offload: str = "none"
    recorded_steps: bool = False

    @property
    def name(self) -> Phrase:
        """As the page and every result show it."""
        parts = [Phrase("attention slicing")] * self.attention_slicing
        parts += [Phrase("tiled decode")] * self.vae_tiling
        parts += [Phrase("sliced decode")] * (self.vae_slicing and not self.vae_tiling)
        if self.max_pictures:
            several = Phrase("{count} pictures a step", count=self.max_pictures)
            parts.append(Phrase("1 picture a step") if self.max_pictures == 1 else several)
        parts += [Phrase("checker on the CPU")] * (self.checker_on_cpu and self.offload == "none")
        parts += [Phrase("{kind} offload", kind=self.offload)] * (self.offload != "none")
        parts = parts or [Phrase("everything in memory")]
        parts += [Phrase("recorded steps")] * self.recorded_steps
        names = [f"part_{k}" for k in range(len(parts))]
        return Phrase(", ".join(f"{{{name}}}" for name in names), **dict(zip(names, parts, strict=True)))


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of device memory: of the weights as they are loaded, and of a step and a decode at the model's own size."""

    unet: int
    vae: int
    text_encoder: int
    safety_checker: int
    step: int  # one picture's rows in a UNet call, beside the weights
    decode: int  # one picture's decode, beside the weights

    @property
    def weights(self) -> int:
        return self.unet + self.vae + self.text_encoder + self.safety_checker


def step_bytes(channels: int, height: int, width: int, item_bytes: int) -> int:
    """A UNet call's peak beside the weights for one picture with guidance, at `height` x `width` latents.

    26 tensors of the first level's width for each of two rows, most of them in its feed-forward layers.
    """
    return 2 * 26 * channels * height * width * item_bytes


def decode_bytes(channels: int, height: int, width: int, item_bytes: int) -> int:
    """A decode's peak beside the weights for one picture of `height` x `width` pixels: three tensors of the last but
    one level, which has twice the channels of the last."""
    return 6 * channels * height * width * item_bytes


def needed_bytes(footprint: Footprint, profile: MemoryProfile, most_pictures: int = WIDTHS[-1]) -> float:
    """The peak of device memory under `profile`, with calls of up to `most_pictures`. Pure."""
    pictures = min(profile.max_pictures or most_pictures, most_pictures)
    # Slices hold one head's whole matrix of scores, which grows with the square of the area.
    largest = LARGEST_AREA * (1.6 if profile.attention_slicing else 1)
    step = footprint.step * max(pictures, largest)
    decode = footprint.decode * (TILE_AREA if profile.vae_tiling else LARGEST_AREA if profile.vae_slicing else 4)
    if profile.offload == "sequential":  # layers come one by one; the VAE stays
        return footprint.vae + max(step, decode) + RESERVE_BYTES
    if profile.offload == "model":  # the UNet goes while a picture is decoded
        text = footprint.text_encoder
        return footprint.vae + max(footprint.unet + max(step, text), text + decode) + RESERVE_BYTES
    resident = footprint.weights - (footprint.safety_checker if profile.checker_on_cpu else 0)
    if profile.recorded_steps:  # where a picture is decoded while others step
        recorded = RECORDED_STEPS * step + RECORDINGS_BYTES
        return resident + recorded + max(step + footprint.decode * LARGEST_AREA, decode) + RESERVE_BYTES
    return resident + max(step, decode) + RESERVE_BYTES


# From the fastest to the slowest. Small cards gain little from sharing a step, a checker on the CPU takes a second or
# two a picture, tiles add half of a decode and may show seams, offloading multiplies the time of a step.
MEMORY_PROFILES = (
    MemoryProfile(recorded_steps=True),
    MemoryProfile(),
    MemoryProfile(vae_slicing=True),
    MemoryProfile(vae_slicing=True, max_pictures=4),
    MemoryProfile(vae_slicing=True, max_pictures=4, checker_on_cpu=True),
    MemoryProfile(vae_slicing=True, max_pictures=4, checker_on_cpu=True, vae_tiling=True),
    MemoryProfile(vae_slicing=True, max_pictures=1, checker_on_cpu=True, vae_tiling=True),
    MemoryProfile(vae_slicing=True, max_pictures=1, checker_on_cpu=True, vae_tiling=True, offload="model"),
    MemoryProfile(vae_slicing=True, max_pictures=1, checker_on_cpu=True, vae_tiling=True, offload="sequential"),
)


def fallback_order(
    device: str,
    free_bytes: float | None,
    footprint: Footprint,
    *,
    total_bytes: float | None = None,
    attention_slicing: str = "auto",
    low_vram_gb: float = 4.0,
    max_vram_gb: float | None = None,
    most_pictures: int = WIDTHS[-1],
    recorded_steps: bool = True,
) -> tuple[MemoryProfile, ...]:
    """The profiles to try on this device in turn, the one that should fit first. Pure.

    The model card asks for attention slicing when the GPU has less than 4 GB, and that line is kept. Slicing replaces
    PyTorch's fused attention, which needs no more memory and less time, so above the line it would only cost.
    `recorded_steps=False` leaves the first profile out: ZeroGPU lends its device for one call only.
    A device without a memory of its own (`free_bytes` is `None`) begins with the first profile that records nothing,
    and has nowhere to offload to.
    """
    is_sliced = attention_slicing == "on"
    if device != "cuda" or free_bytes is None:
        candidates = [item for item in MEMORY_PROFILES[1:] if item.offload == "none" and not item.checker_on_cpu]
        candidates.append(replace(MEMORY_PROFILES[2], vae_tiling=True, max_pictures=1))
        return tuple(replace(item, attention_slicing=is_sliced) for item in candidates)
    limit_bytes = max_vram_gb * GIB if max_vram_gb else float("inf")
    has_little = min(total_bytes or free_bytes, limit_bytes) < low_vram_gb * GIB
    is_sliced = is_sliced or (attention_slicing == "auto" and has_little)
    candidates = [item for item in MEMORY_PROFILES if recorded_steps or not item.recorded_steps]
    candidates = [replace(item, attention_slicing=is_sliced) for item in candidates]
    budget = min(free_bytes, limit_bytes)
    fitting = [k for k, item in enumerate(candidates) if needed_bytes(footprint, item, most_pictures) <= budget]
    return tuple(candidates[fitting[0] if fitting else -1 :])
