"""Recorded results of the examples: real pictures with their recipes, shown before any model is loaded."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "examples"
CONTACT_SHEET = FOLDER / "recorded" / "contact-sheet.png"
LINK_PREVIEW = FOLDER / "recorded" / "link-preview.png"
ICON = FOLDER / "recorded" / "snowy-disney-cabin.png"


@dataclass(frozen=True, slots=True)
class RecordedExample:
    """One picture that this program made, and how. `recorded_on` is an ISO date; `path` is a PNG file."""

    title: str
    prompt: str
    path: Path
    seed: int
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    model: str
    device: str
    recorded_on: str


@cache
def load_recorded(folder: Path = FOLDER) -> tuple[RecordedExample, ...]:
    """The recordings that `folder`/prompts.jsonl lists, in its order; those not recorded yet are left out."""
    lines = (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    return tuple(
        RecordedExample(example["title"], example["prompt"], folder / recorded.pop("file"), **recorded)
        for example in examples
        if (recorded := example.get("recorded"))
    )
