"""The model card's evaluation of any model: a score by guidance scale, beside how much its pictures vary.

The prompts are drawn at each guidance scale with the same seeds; pictures of all scales share UNet calls.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from sd_space.backends.loading import build_engine, load
from sd_space.engine.schedules import NoiseSchedules
from sd_space.errors import CannotStart, InvalidRequest, SpaceError
from sd_space.schema import AdmittedRequest, Outcome, ScreenedImage
from sd_space.served_model import ModelInfo
from sd_space.serving.strip import EVALUATION, strip
from sd_space.settings import Settings
from sd_space.tools.drawing import admit, draw
from sd_space.tools.evaluate.judges import ClipJudge, Judge, PictureBookJudge
from sd_space.tools.evaluate.metrics import pareto_plot, spread

if TYPE_CHECKING:
    from sd_space.engine.engine import Engine

STEPS, SCHEDULER = 50, "PNDM"  # of the card's evaluation
VARIETY = "variety: mean distance of two pictures of a prompt (right is more)"
COLUMNS = ("guidance scale", "score", "variety", "pictures", "withheld", "broken")
PUBLISHED = (
    "Published in diffusers' evaluation guide, not measured here: v1-4 has a CLIP score of 34.91 with the card's six "
    "prompts at guidance scale 7.5, 50 steps, seed 0 and openai/clip-vit-base-patch16."
)


@dataclass(slots=True)
class Row:
    """What was drawn at one guidance scale. `features` are by prompt."""

    guidance_scale: float
    scores: list[float] = field(default_factory=list)
    features: dict[str, list[np.ndarray]] = field(default_factory=dict)
    withheld: int = 0
    broken: int = 0

    def add(self, image: ScreenedImage, prompt: str, judge: Judge) -> None:
        """Only what may be seen is judged."""
        if image.pixels is None:
            self.withheld += image.outcome is Outcome.WITHHELD
            self.broken += image.outcome is Outcome.BROKEN
            return
        picture = Image.frombytes("RGB", (image.width, image.height), image.pixels)
        features, score = judge.read(picture, prompt)
        self.scores.append(score)
        self.features.setdefault(prompt, []).append(features / np.linalg.norm(features))

    def figures(self) -> dict[str, float | None]:
        """A figure that nothing could be measured of is None."""
        known = [score for score in self.scores if not np.isnan(score)]
        spreads = [spread(np.stack(several)) for several in self.features.values() if len(several) > 1]
        return {
            "guidance_scale": self.guidance_scale,
            "score": max(0.0, statistics.fmean(known)) if known else None,
            "variety": statistics.fmean(spreads) if spreads else None,
            "pictures": len(self.scores),
            "withheld": self.withheld,
            "broken": self.broken,
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="as SD_SPACE_MODEL, which it replaces; the other settings count as well")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="one a line, or JSON lines (default: the card's six)"
    )
    parser.add_argument(
        "--guidance-scales",
        default=EVALUATION.replace(" ", ""),
        help="2 to 8 of them (default: %(default)s, the card's)",
    )
    parser.add_argument(
        "--scorer", help="a CLIP model, as a folder or a Hub id; the picture book has a scorer and prompts of its own"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="gets sweep.md and sweep.png")
    parser.add_argument("--steps", type=int, default=STEPS, help="of PLMS (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=at_least_one, default=4, help="pictures of each prompt and scale (default: %(default)s)"
    )


def at_least_one(text: str) -> int:
    """A number of things, as argparse reads it."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def run(options: argparse.Namespace) -> dict:
    settings = Settings.from_env(os.environ)
    settings = replace(settings, model=options.model or settings.model)
    try:
        make_folder(options.out)
        loaded = load(settings)
        judge = judge_for(options, loaded.info)
        prompts = read_prompts(options.prompts) if options.prompts else judge.prompts
        admitted = admit(settings, wanted(options, prompts), loaded.info)
        engine = build_engine(loaded, settings)
        steps = NoiseSchedules(loaded.pipeline.scheduler.config).num_timesteps(admitted[0].request)
        figures = [row.figures() for row in drawn_rows(engine, admitted, judge, steps * len(admitted))]
    except (SpaceError, CannotStart) as error:
        raise SystemExit(getattr(error, "operator_hint", None) or str(error)) from None
    told = {name: getattr(loaded.info, name) for name in ("model", "revision", "device", "dtype", "runtime")}
    told |= {
        "steps": options.steps,
        "scheduler": SCHEDULER,
        "prompts": len(prompts),
        "seeds": options.seeds,
        "pictures": len(admitted),
    }
    told |= {"score": judge.name, "pictures_per_unet_call": pictures_per_call(engine)}
    save(options.out, told, figures)
    return {**told, "rows": figures, "published": PUBLISHED, "table": "sweep.md", "plot": "sweep.png"}


def make_folder(folder: Path) -> None:
    """Before anything is drawn, which may take hours. Raises InvalidRequest where no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidRequest(
            "out", f"--out {folder} must be a folder that can be written to: {error.strerror}."
        ) from None


def judge_for(options: argparse.Namespace, info: ModelInfo) -> Judge:
    if options.scorer:
        try:
            return ClipJudge(options.scorer, info.device)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InvalidRequest(
                "scorer", f"--scorer {options.scorer} cannot be loaded as a CLIP model: {reason}"
            ) from None
    if info.is_picture_book:
        return PictureBookJudge(options.state)
    raise InvalidRequest(
        "scorer", f"--scorer is needed for {info.model}: a CLIP model's folder or Hub id, openai/clip-vit-base-patch16."
    )


def wanted(options: argparse.Namespace, prompts: Sequence[str]) -> list[dict]:
    """The values of all requests: for each prompt and seed a strip of the guidance scales."""
    every = {"num_inference_steps": options.steps, "scheduler": SCHEDULER}
    return [
        values
        for prompt in prompts
        for seed in range(options.seeds)
        for values in strip({**every, "prompt": prompt, "seed": seed}, "guidance_scale", options.guidance_scales)
    ]


def read_prompts(path: Path) -> list[str]:
    """A prompt from each line that is not empty, in JSON or as it is."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        prompts = [json.loads(line)["prompt"] if line.startswith("{") else line.strip() for line in lines]
    except KeyError:
        raise InvalidRequest("prompts", f'--prompts {path} has a line of JSON without "prompt".') from None
    except (OSError, ValueError) as error:
        raise InvalidRequest("prompts", f"--prompts {path} cannot be read: {error}.") from None
    if not prompts:
        raise InvalidRequest("prompts", f"--prompts {path} has no prompt; write one a line.")
    return prompts


def drawn_rows(engine: "Engine", admitted: Sequence[AdmittedRequest], judge: Judge, steps: int) -> list[Row]:
    """Draws all requests, and shows on standard error how long the rest of all `steps` takes."""
    rows = {each.request.guidance_scale: Row(each.request.guidance_scale) for each in admitted}
    with tqdm(total=steps, desc=f"{len(admitted)} pictures", unit="step", dynamic_ncols=True) as bar:
        for request, image in draw(engine, admitted, lambda: bar.update(steps_done(engine) - bar.n)):
            rows[request.guidance_scale].add(image, request.prompt, judge)
    return list(rows.values())


def steps_done(engine: "Engine") -> int:
    return sum(pictures * calls for pictures, (calls, _) in engine.unet_calls.items())


def pictures_per_call(engine: "Engine") -> float:
    return steps_done(engine) / sum(calls for calls, _ in engine.unet_calls.values())


def save(folder: Path, told: dict, figures: list[dict]) -> None:
    """Prints the table; saves it, and the plot where there is anything to plot."""
    cells = [[_cell(value) for value in row.values()] for row in figures]
    table = "\n".join(f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *cells))
    circumstances = ", ".join(f"{name.replace('_', ' ')}: {_cell(value)}" for name, value in told.items() if value)
    text = f"{table}\n\n{circumstances}.\n\n{PUBLISHED}\n"
    print(text, flush=True)
    (folder / "sweep.md").write_text(f"# Guidance sweep\n\n{text}", encoding="utf-8")
    points = [(row["variety"], row["score"], row["guidance_scale"]) for row in figures]
    points = [point for point in points if None not in point]
    if points:
        pareto_plot({str(told["model"]): points}, VARIETY, str(told["score"])).save(folder / "sweep.png")


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
