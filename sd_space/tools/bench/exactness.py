"""The same pixels: what the engine draws with each noise scheduler, beside a plain pipeline on the very same weights.

Alone, with one and with two pictures, and all schedulers at once in a crowd that shares calls.
"""

import argparse
from typing import Any

import numpy as np

from sd_space.backends.loading import build_engine
from sd_space.engine.engine import Engine, run_to_completion
from sd_space.model.noise_schedulers import SCHEDULER_TABLE
from sd_space.model.pipeline import LoadedPipeline
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest, GenerationResult, RequestFailed
from sd_space.settings import Settings
from sd_space.tools.bench import harness

COLUMNS = ("scheduler", "alone", "two pictures", "in a crowd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    harness.add_model_arguments(parser)
    harness.add_request_arguments(parser)


def run(options: argparse.Namespace) -> dict[str, Any]:
    options.steps = options.steps or 5
    loaded = harness.load(options)
    engine = build_engine(loaded, Settings())
    names = [options.scheduler] if options.scheduler else list(SCHEDULER_TABLE)
    admitted = {name: harness.request_of(loaded, options, number, scheduler=name) for number, name in enumerate(names)}
    some = admitted[names[0]].request
    circumstances = harness.circumstances(loaded, options) | {"size": some.width, "steps": some.num_inference_steps}
    circumstances |= {"width": engine.width}
    print(harness.describe(circumstances), flush=True)
    rows: list[dict[str, Any]] = []
    expected: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        expected[name] = by_plain(loaded, admitted[name].request)
        two = harness.request_of(loaded, options, number, scheduler=name, num_images_per_prompt=2)
        alone, both = (pixels(run_to_completion(engine, one)) for one in (admitted[name], two))
        off = {"alone": apart(alone, expected[name]), "two_pictures": apart(both, by_plain(loaded, two.request))}
        rows.append({"scheduler": name, **off, "in_a_crowd": None})
        harness.keep(options, {**circumstances, "rows": rows})
    drawn = in_a_crowd(engine, admitted)
    for row in rows:
        row["in_a_crowd"] = apart(drawn[row["scheduler"]], expected[row["scheduler"]])
    harness.print_table(COLUMNS, [list(row.values()) for row in rows])
    print("The largest difference of a value, of 255; a picture that was withheld is not compared.", flush=True)
    return {**circumstances, "rows": rows}


def by_plain(loaded: LoadedPipeline, request: GenerationRequest) -> np.ndarray:
    pictures = harness.plain_call(harness.plain_pipeline(loaded, request), request)
    return np.stack([np.asarray(picture) for picture in pictures])


def in_a_crowd(engine: Engine, admitted: dict[str, AdmittedRequest]) -> dict[str, np.ndarray]:
    """All requests at once, each picture at its own step of its own scheduler."""
    by_id = {one.request_id: name for name, one in admitted.items()}
    for one in admitted.values():
        engine.add_request(one)
    drawn: dict[str, np.ndarray] = {}
    while not engine.is_idle:
        for update in engine.step():
            if isinstance(update, RequestFailed):
                raise update.error
            if isinstance(update, GenerationResult):
                drawn[by_id[update.request_id]] = pixels(update)
    return drawn


def pixels(result: GenerationResult) -> np.ndarray:
    """(pictures, H, W, 3); black where one was withheld, as the plain pipeline has it."""
    return np.stack(
        [
            np.frombuffer(image.pixels or bytes(3 * image.height * image.width), np.uint8).reshape(
                image.height, image.width, 3
            )
            for image in result.images
        ]
    )


def apart(ours: np.ndarray, theirs: np.ndarray) -> int | None:
    """The largest difference over the pictures that both show."""
    shown = [k for k in range(len(ours)) if ours[k].any() and theirs[k].any()]
    return max((int(np.abs(ours[k].astype(int) - theirs[k]).max()) for k in shown), default=None)
