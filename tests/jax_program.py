"""Draws with JAX on four virtual devices, in a process of its own, and prints as JSON what came of it.

JAX takes its number of devices once in a process, and warns of every later fork. What imports much is imported where it
is used: loading a model imports the least.
"""

import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from sd_space.backends.engine_thread import EngineThread
from sd_space.backends.loading import build_engine, load
from sd_space.errors import SpaceError
from sd_space.schema import AdmittedRequest, Stage
from sd_space.settings import Settings
from sd_space.tools import drawing

JAX, TORCH = Settings(model="tiny", runtime="jax"), Settings(model="tiny", runtime="torch")


class Kept:
    """A stream that keeps what it gets."""

    def __init__(self, request: AdmittedRequest):
        self.admitted, self.updates = request, []

    def send(self, update) -> bool:
        self.updates.append(update)
        return True


def pixels(image) -> np.ndarray:
    return np.frombuffer(image.pixels, np.uint8).astype(int)


def drawn(engine, **changes) -> np.ndarray:
    from sd_space.engine.engine import run_to_completion

    from .tiny_models import admitted

    changes = {"width": 256, "height": 256, "prompt": "a red house at night"} | changes
    return np.concatenate([pixels(image) for image in run_to_completion(engine, admitted("a", **changes)).images])


def differences(engines, **changes) -> tuple[float, int]:
    one, other = (drawn(engine, **changes) for engine in engines)
    return float(np.abs(one - other).mean()), int(np.abs(one - other).max())


def by_scheduler(steps: int) -> dict:
    details: list[str] = []
    loaded = load(JAX, on_progress=details.append)
    engines = [build_engine(each, settings) for each, settings in ((loaded, JAX), (load(TORCH), TORCH))]
    info, compiled = loaded.info, loaded.placement.jax
    return {
        "details": details,
        "info": info.as_dict() | {"size_step": info.limits.size_step},
        "width": engines[0].width,
        "compiled": [size for size in ((256, 256), (64, 64)) if compiled.is_compiled(*size)],
        "differences": {
            name: differences(engines, scheduler=name, num_inference_steps=steps, num_images_per_prompt=3)
            for name in info.limits.schedulers
        },
    }


def new_size() -> dict:
    """As the engine's thread draws it: the first request of a size, and what the thread says meanwhile."""
    from .tiny_models import admitted

    thread, stream = EngineThread(JAX), Kept(admitted("new", width=64, height=64, num_inference_steps=2))
    thread.start()
    thread.submit(stream)
    while not hasattr(stream.updates[-1] if stream.updates else None, "images"):
        assert thread.status().stage is not Stage.FAILED
        time.sleep(0.05)
    engine_step_s = thread._heartbeat._slowest_step_s
    thread.close(10.0)
    return {
        "notes": [update.note for update in stream.updates if getattr(update, "note", "")],
        "slowest_step_s": engine_step_s,
        "compiled": load(JAX).placement.jax.is_compiled(64, 64),
    }


def card_example(folder: Path, model: str, steps: int) -> dict:
    """The example as it is, but with a model that is here, and at most `steps`; beside PyTorch's pictures."""
    asked = []

    def draw_files(settings, wanted):
        wanted = [{**each, "num_inference_steps": min(steps, each["num_inference_steps"])} for each in wanted]
        asked.append((settings, wanted))
        yield from original(replace(settings, model=model), wanted, folder / "jax")

    original, drawing.draw_files = drawing.draw_files, draw_files
    for name in ("jax", "torch"):
        (folder / name).mkdir()
    runpy.run_path("examples/jax_pictures.py")
    settings, wanted = asked[0]
    files = list(original(replace(TORCH, model=model), wanted, folder / "torch"))
    return {"dtype": settings.dtype, "files": [path.name for path in files]}


def unknown_operation() -> str:
    from sd_space.model.jax_operations import OPERATIONS

    del OPERATIONS["silu"]
    try:
        load(replace(JAX, dtype="bfloat16", hub_timeout_s=59.0))  # a spec that was not loaded yet
    except SpaceError as error:
        return error.operator_hint
    return ""


def main(folder: Path, model: str, names: list[str]) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    parts = {
        "by_scheduler": lambda: by_scheduler(3),
        "new_size": new_size,
        "card_example": lambda: card_example(folder, model, steps=50 if model == "tiny" else 10),
        "unknown_operation": unknown_operation,
    }
    print(json.dumps({name: parts[name]() for name in names}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
