"""What the benchmarks share: the model that `--model` names, plain pipeline calls, tables and circumstances."""

import argparse
import datetime
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from sd_space.card import load_card
from sd_space.noise_schedulers import make_scheduler
from sd_space.pipeline import LoadedPipeline, PipelineSpec, detect_hardware, load_pipeline
from sd_space.schema import AdmittedRequest, GenerationRequest
from sd_space.settings import Settings
from sd_space.tools import v1_4_random

MIB = 2**20


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="tiny",
        help=f"tiny (the picture book), a folder, a Hub id, or {v1_4_random.NAME}: v1-4's architecture with random "
        "weights (default: %(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", help="auto (float16 on cuda, else float32), float32 or float16")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch (default: its own choice, as deployed)")
    parser.add_argument("--seed", type=int, default=0)


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, help="pixels a side (default: the model's)")
    parser.add_argument("--steps", type=int, help="inference steps (default: the model's)")
    parser.add_argument("--scheduler", help="noise scheduler (default: the model's)")


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(model=options.model, device=options.device, dtype=options.dtype)


def load(options: argparse.Namespace) -> LoadedPipeline:
    """The model as the Space would load it."""
    transformers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()  # the safety screen tests itself, and the checker would report it
    if options.threads:
        torch.set_num_threads(options.threads)
    spec = PipelineSpec.from_settings(settings_of(options), detect_hardware())
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


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def circumstances(loaded: LoadedPipeline, options: argparse.Namespace) -> dict[str, Any]:
    """What a figure means nothing without."""
    return {
        "model": loaded.info.model,
        "revision": loaded.info.revision,
        "dtype": loaded.info.dtype,
        "memory_profile": loaded.info.memory_profile,
        "seed": options.seed,
        **machine(loaded.info.device),
    }


def machine(device: str) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "diffusers", "transformers", "gradio")},
        "date": datetime.date.today().isoformat(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def told(circumstances: dict[str, Any]) -> str:
    """The circumstances in one line above a table."""
    versions = circumstances["versions"]
    return (
        f"{circumstances.get('model', '')} {circumstances.get('dtype', '')} on {circumstances['device']}, "
        f"{circumstances['cores']} cores of {circumstances['cpu']}, {circumstances['torch_threads']} threads, "
        f"torch {versions['torch']}, diffusers {versions['diffusers']}"
    ).strip()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Markdown, so that it can be pasted; numbers with three significant digits, `None` as not measured."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[k]) for row in [list(columns), *cells]) for k in range(len(columns))]
    for row in [list(columns), ["-" * width for width in widths], *cells]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |", flush=True)


def _cell(value: object) -> str:
    if value is None:
        return "not measured"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
