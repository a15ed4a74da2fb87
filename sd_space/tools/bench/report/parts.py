"""What a report measures, by the kind of device, the most important first: plain data, and what it leaves out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

V1_4_RANDOM, TINY = "v1-4-random", "tiny"


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark with its arguments, run in a process of its own.

    It is begun only when `needs_s` seconds are left, and ended after `most_s`; then the rows that it had are kept.
    Where a report has no time for all parts, `brief` are added to the arguments, and `brief_s` are needed.
    """

    name: str
    arguments: tuple[str, ...]
    needs_s: float
    most_s: float
    shows: str
    benchmark: str = ""  # the name's, unless a benchmark is run in several ways
    takes: tuple[str, ...] = ("model", "device", "seed", "size", "steps")  # of the report's own options
    brief: tuple[str, ...] = ()
    brief_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "benchmark", self.benchmark or self.name)

    @property
    def shortened(self) -> "Part":
        return replace(self, arguments=(*self.arguments, *self.brief), needs_s=self.brief_s or self.needs_s)


NO_STEPS = ("model", "device", "seed", "size")

MACHINE = Part(
    "machine", (), 5, 90, "the device, its driver and versions; a matrix product and a copy", takes=("device",)
)

CUDA = (
    Part(
        "recipe",
        ("--repeats", "3"),
        45,
        150,
        "seconds a picture by the card's recipe, by this Space and with TURBO, beside the limit of the arithmetic",
    ),
    Part(
        "exactness",
        ("--steps", "5"),
        30,
        90,
        "pixels beside the plain pipeline: 8 schedulers, alone, in pairs and in a crowd",
        takes=NO_STEPS,
    ),
    Part(
        "batch",
        ("--pictures", "1", "2", "4", "8", "16", "32"),
        40,
        90,
        "a step by the pictures in it, recorded and not; the host's share; memory",
        takes=NO_STEPS,
    ),
    Part(
        "engine",
        ("--visitors", "1", "8", "4", "16", "--repeats", "1", "--stagger", "0"),
        75,
        150,
        "pictures a second and waits, 1 to 16 visitors at once, beside a queue",
    ),
    Part("gpu_tests", (), 100, 300, "the tests that need a GPU", takes=()),
    Part(
        "ladder", (), 50, 120, "each memory limit: the profile, seconds, memory that was really taken", takes=NO_STEPS
    ),
    Part("clock", (), 25, 60, "whether step times and the time left are right, with previews and without"),
    Part(
        "size",
        ("--repeats", "5"),
        25,
        60,
        "step, decode, safety check, preview and text by size",
        takes=("model", "device", "seed"),
    ),
    Part("faults", (), 28, 60, "memory taken by others in a run, and an overflowing decode", takes=NO_STEPS),
    Part("schedulers", (), 40, 90, "a step by noise scheduler, and how often the host waits in it", takes=NO_STEPS),
    Part(
        "startup",
        ("--variant", "fp16", "--no-page", "--repeats", "2"),
        60,
        150,
        "from the command to the first picture, beside the recipe",
        takes=("model", "device", "seed", "steps"),
    ),
    Part("attention", (), 15, 60, "attention's kernels by shape, and their first calls", takes=()),
    Part(
        "levers",
        (),
        40,
        240,
        "Pillow's resizing, cuDNN's attention, convolutions by trial, TF32, torch.compile: each alone",
        takes=NO_STEPS,
    ),
    Part(
        "recordings",
        (),
        25,
        60,
        "more shapes than are kept recorded, and whether they still compute right",
        takes=NO_STEPS,
    ),
)

CPU = (
    Part(
        "recipe",
        ("--repeats", "3"),
        30,
        180,
        "seconds a picture by the recipe, by this Space, with TURBO and with OpenVINO, beside the arithmetic's limit",
        brief=(
            "--steps",
            "4",
            "--repeats",
            "1",
        ),
        brief_s=22,
    ),
    Part(
        "exactness",
        ("--steps", "5"),
        20,
        180,
        "pixels beside the plain pipeline: 8 schedulers, alone, in pairs and in a crowd",
        takes=NO_STEPS,
        brief=(
            "--steps",
            "2",
        ),
        brief_s=14,
    ),
    Part(
        "engine",
        ("--visitors", "1", "4", "16", "--repeats", "1"),
        25,
        150,
        "pictures a second and waits of 1, 4 and 16 visitors, beside a queue",
        brief=(
            "--visitors",
            "1",
            "4",
            "--steps",
            "4",
            "--stagger",
            "0",
        ),
        brief_s=14,
    ),
    Part(
        "batch",
        ("--pictures", "1", "2", "4", "8"),
        12,
        90,
        "a step by the pictures in it, and memory",
        takes=NO_STEPS,
        brief=(
            "--pictures",
            "1",
            "4",
            "--repeats",
            "3",
        ),
        brief_s=11,
    ),
    Part(
        "clock",
        (),
        15,
        90,
        "whether step times and the time left are right, with previews and without",
        brief=(
            "--steps",
            "8",
            "--repeats",
            "1",
        ),
        brief_s=11,
    ),
    Part(
        "size",
        ("--repeats", "3"),
        12,
        90,
        "step, decode, safety check, preview and text by size",
        takes=("model", "device", "seed"),
        brief=(
            "--sizes",
            "128",
            "--repeats",
            "1",
        ),
        brief_s=9,
    ),
    Part(
        "schedulers",
        ("--pictures", "1", "4", "--repeats", "4"),
        15,
        120,
        "a step by noise scheduler",
        takes=NO_STEPS,
        brief=(
            "--pictures",
            "1",
            "--repeats",
            "2",
        ),
        brief_s=11,
    ),
    Part(
        "overhead",
        ("--visitors", "1", "8", "--repeats", "1"),
        12,
        90,
        "what the engine adds to a step",
        brief=(
            "--visitors",
            "1",
            "--steps",
            "4",
        ),
        brief_s=11,
    ),
    Part(
        "startup",
        ("--no-page", "--repeats", "2"),
        40,
        150,
        "from the command to the first picture, beside the recipe",
        takes=("model", "device", "seed", "steps"),
        brief=(
            "--steps",
            "2",
            "--repeats",
            "1",
        ),
        brief_s=26,
    ),
    Part(
        "v1-4-recipe",
        ("--model", V1_4_RANDOM, "--size", "256", "--steps", "5", "--scheduler", "Euler", "--repeats", "1"),
        120,
        400,
        "seconds a picture of v1-4's architecture, 256 x 256, by the same ways",
        "recipe",
        ("device", "seed"),
    ),
)

NEEDS_CUDA = "needs a CUDA device"


def parts_for(kind: str) -> tuple[Part, ...]:
    """After the machine itself, for `cuda`, or for any other device."""
    return CUDA if kind == "cuda" else CPU


def left_out(kind: str) -> dict[str, str]:
    """What the other kind of device would show, and why this one does not. Parts of the same benchmark are no loss."""
    measured = {part.benchmark for part in parts_for(kind)}
    if kind == "cuda":
        return {
            part.name: "is for a CPU: it looks into calls that CUDA replays whole"
            for part in CPU
            if part.benchmark not in measured
        }
    return {part.name: NEEDS_CUDA for part in CUDA if part.benchmark not in measured}


def command_of(part: Part, options: Mapping[str, object], kind: str) -> list[str]:
    """The part's arguments, with those of the report that it takes; what the report was asked for wins."""
    model = options.get("model") or (V1_4_RANDOM if kind == "cuda" else TINY)
    given = dict(options) | {"model": model, "device": kind}
    asked = [name for name in part.takes if given.get(name) is not None]
    return [*part.arguments, *(word for name in asked for word in (f"--{name}", str(given[name])))]
