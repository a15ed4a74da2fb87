"""What the benchmarks share: the model that `--model` names, plain pipeline calls, tables and circumstances."""

import argparse
import contextlib
import datetime
import functools
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from sd_space.card import load_card
from sd_space.engine.denoiser import Denoiser
from sd_space.model.cuda_graphs import RECORD_AT
from sd_space.model.noise_schedulers import make_scheduler
from sd_space.model.pipeline import LoadedPipeline, load_pipeline
from sd_space.model.spec import PipelineSpec, detect_hardware
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest
from sd_space.settings import Settings
from sd_space.tools import v1_4_random
from sd_space.tools.bench.figures import print_table as print_table
from sd_space.tools.bench.figures import save

MIB, GIB = 2**20, 2**30
ROOT = Path(__file__).parents[3]
PACKAGES = ("torch", "diffusers", "transformers", "huggingface_hub", "accelerate", "numpy", "openvino", "gradio")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="tiny",
        help=f"tiny (the picture book), a folder, a Hub id, or {v1_4_random.NAME}: v1-4's architecture with random "
        "weights (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", help="auto (float16 on cuda, else float32), float32 or float16")
    parser.add_argument("--runtime", default="torch", help="torch, openvino or auto (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice, as deployed)")
    parser.add_argument("--seed", type=int, default=0)


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="pixels a side (default: the model's)")
    parser.add_argument("--steps", type=int, help="inference steps (default: the model's)")
    parser.add_argument("--scheduler", help="noise scheduler (default: the model's)")


def settings_of(options: argparse.Namespace, **changes: Any) -> Settings:
    given = {name: getattr(options, name) for name in ("model", "device", "dtype", "runtime")}
    return Settings(**given | changes)


def load(options: argparse.Namespace, **changes: Any) -> LoadedPipeline:
    """The model as the Space would load it; `changes` are of its settings."""
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()  # the safety screen tests itself, and the checker would report it
    if options.threads:
        torch.set_num_threads(options.threads)
    spec = PipelineSpec.from_settings(settings_of(options, **changes), detect_hardware())
    return v1_4_random.load(spec) if spec.model == v1_4_random.NAME else load_pipeline(spec)


def request_of(loaded: LoadedPipeline, options: argparse.Namespace, number: int = 0, **changes: Any) -> AdmittedRequest:
    """Visitor `number`'s request for one picture: the card's prompts in turn, a seed of its own."""
    examples = load_card().examples
    values = {
        "prompt": examples[number % len(examples)].text,
        "num_images_per_prompt": 1,
        "seed": options.seed + number,
        "width": options.size,
        "height": options.size,
        "num_inference_steps": options.steps,
        "scheduler": options.scheduler,
    }
    request = GenerationRequest.parse(values | changes, loaded.info, random_seed=0)
    return AdmittedRequest(f"request-{number}", request, f"visitor-{number}", accepted_at=0.0)


def plain_pipeline(loaded: LoadedPipeline, request: GenerationRequest) -> StableDiffusionPipeline:
    """The stock pipeline over the same weights, with the request's noise scheduler."""
    scheduler = make_scheduler(request.scheduler, loaded.pipeline.scheduler.config, request.num_inference_steps)
    plain = StableDiffusionPipeline(**loaded.pipeline.components | {"scheduler": scheduler})
    plain.set_progress_bar_config(disable=True)
    return plain


def plain_call(pipeline: StableDiffusionPipeline, request: GenerationRequest, **changes: Any) -> Any:
    """What `StableDiffusionPipeline.__call__` makes of the request, with a CPU generator for each picture."""
    arguments = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "num_images_per_prompt": request.num_images_per_prompt,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "width": request.width,
        "height": request.height,
        "generator": [torch.Generator().manual_seed(seed) for seed in request.seeds],
    }
    return pipeline(**arguments | changes).images


def peak_memory(device: torch.device, work: Callable[[], object]) -> int | None:
    """Bytes that `work` needed at most, beyond what was in use before; `None` where nobody counts them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak below
    except OSError:
        work()
        return None
    before = _status_bytes("VmRSS")
    work()
    return max(0, _status_bytes("VmHWM") - before)


def timed(denoiser: Denoiser, work: Callable[[], object], repeats: int) -> float:
    """The median of its seconds after a first time."""
    seconds = []
    for _ in range(repeats + 1):
        began_s = time.perf_counter()
        work()
        denoiser.synchronize()
        seconds.append(time.perf_counter() - began_s)
    return statistics.median(seconds[1:])


def steps(denoiser: Denoiser, request: GenerationRequest, pictures: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step that so many share, and those of them in which the host was busy launching it.

    The first steps of a shape are not counted: on CUDA, calls are recorded in them.
    """
    request = replace(request, num_inference_steps=max(request.num_inference_steps, RECORD_AT + repeats + 1))
    encoded = denoiser.encode_prompt(request)
    states = [denoiser.prepare_latents(request, seed, encoded) for seed in range(pictures)]
    for _ in range(RECORD_AT + 1):
        denoiser.denoise_step(states)
    denoiser.synchronize()
    host_s, began_s = 0.0, time.perf_counter()
    for _ in range(repeats):
        launched_s = time.perf_counter()
        denoiser.denoise_step(states)
        host_s += time.perf_counter() - launched_s
    denoiser.synchronize()
    step_ms = 1e3 * (time.perf_counter() - began_s) / repeats
    return {"step_ms": step_ms, "host_ms": 1e3 * host_s / repeats, "ms_per_picture": step_ms / pictures}


def matmul_rate(device: str, dtype: torch.dtype, rounds: int = 5) -> float:
    """FLOP a second of a large square product: the best of a few."""
    side = 2048 if device == "cpu" else 8192
    one = torch.randn(side, side, dtype=dtype, device=device)
    best_s = float("inf")
    for _ in range(rounds + 1):  # the first warms up
        began_s = time.perf_counter()
        (one @ one).flatten()[0].item()
        best_s = min(best_s, time.perf_counter() - began_s)
    return 2 * side**3 / best_s


def keep(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Puts what is known so far where `--figures` says: a run that is ended early was not for nothing."""
    if getattr(options, "figures", None):
        save(options.figures, {"benchmark": options.benchmark, **figures})


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def circumstances(loaded: LoadedPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """What a figure means nothing without."""
    return {
        "model": loaded.info.model,
        "revision": loaded.info.revision,
        "dtype": loaded.info.dtype,
        "runtime": loaded.info.runtime,
        "memory_profile": loaded.info.memory_profile,
        "seed": options.seed,
        **machine(loaded.info.device),
    }


def machine(device: str) -> dict[str, Any]:
    return {
        **(cuda_device() if device == "cuda" else {"device": device}),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | _versions(),
        "commit": _said_by("git", "rev-parse", "HEAD"),
        "date": datetime.date.today().isoformat(),
    }


def cuda_device() -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "device_memory_gib": torch.cuda.get_device_properties(0).total_memory / GIB,
        "driver": _said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.version.cuda else None,
    }


def _versions() -> dict[str, str]:
    """Of those packages that are here."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@functools.cache
def _said_by(*command: str) -> str | None:
    """The one line that a command prints; `None` where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def describe(circumstances: dict[str, Any]) -> str:
    """The circumstances in one line above a table."""
    versions = circumstances["versions"]
    return (
        f"{circumstances.get('model', '')} {circumstances.get('dtype', '')} on {circumstances['device']}, "
        f"{circumstances['cores']} cores of {circumstances['cpu']}, {circumstances['torch_threads']} threads, "
        f"torch {versions['torch']}, diffusers {versions['diffusers']}"
        f"{', OpenVINO ' + versions['openvino'] if circumstances.get('runtime') == 'openvino' else ''}"
    ).strip()
