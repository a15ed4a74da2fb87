"""S: whatever is wrong with the checker or with what it is shown, no unchecked picture comes out."""

import copy
import io
import itertools
import re
import threading
import time
import warnings
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors import SafetensorError
from transformers import PreTrainedModel

from sd_space.engine.engine import run_to_completion
from sd_space.engine.safety import SafetyScreen
from sd_space.errors import ModelUnavailable, SafetyCheckFailed
from sd_space.schema import Inspection, Outcome

from ..generated import sampled
from ..test_safety import checker_of, damage, flag, pictures
from ..tiny_models import admitted, load, make_engine, make_safety_checker, make_screen, save_model_folder
from . import faults, inside
from .scoreboard import Attempt, Attempts, Mutant

OK, WITHHELD, BROKEN = "ok", "withheld", "broken"
S = Attempts()

# --- a checker that does not work is not served: each makes a screen, which must refuse to be made

REFUSED: dict[str, Callable] = {
    "no checker": lambda painter: make_screen(painter, safety_checker=None),
    "no feature extractor": lambda painter: make_screen(painter, feature_extractor=None),
    "a checker of another class": lambda painter: make_screen(painter, safety_checker=_of_another_class()),
    "a file without thresholds": lambda painter: make_screen(painter, missing_tensors=["concept_embeds_weights"]),
    "a weight that is no number": lambda painter: _with("visual_projection.weight", (0, 0), float("nan"), painter),
    "an infinite weight": lambda painter: _with("vision_model.post_layernorm.weight", 0, float("inf"), painter),
    "a projection of zeros": lambda painter: _with("visual_projection.weight", ..., 0.0, painter),
    "thresholds as freshly made": lambda painter: _with("concept_embeds_weights", ..., 1.0, painter),
    "a threshold from stray memory": lambda painter: _with("concept_embeds_weights", 16, 22.4, painter),
    "a threshold of zero": lambda painter: _with("special_care_embeds_weights", 0, 0.0, painter),
    "a concept of zeros": lambda painter: _with("concept_embeds", 3, 0.0, painter),
    "thresholds that flag grey": lambda painter: _with("concept_embeds_weights", ..., 0.001, painter),
    "an extractor that raises": lambda painter: make_screen(painter, feature_extractor=faults.raising(None)),
    "a checker that always says no": lambda painter: _answering_screen(painter, [False] * 17),
    "an engine without a screen": lambda painter: make_engine(painter, screen=None),
}


class _Lookalike(PreTrainedModel):
    """Answers as the checker does, and is none."""

    forward = StableDiffusionSafetyChecker.forward


def _of_another_class() -> _Lookalike:
    checker = make_safety_checker()
    checker.__class__ = _Lookalike
    return checker


def _with(name: str, index: object, value: float, painter) -> SafetyScreen:
    return make_screen(painter, safety_checker=damage(name, index, value))


def _answering_screen(painter, flags: list) -> SafetyScreen:
    """A checker that looks and then always says the same."""
    checker = make_safety_checker()

    def says(clip_input, images):
        checker.visual_projection(torch.ones(len(clip_input), checker.visual_projection.in_features))
        return images, flags[: len(images)]

    checker.forward = says
    return make_screen(painter, safety_checker=checker)


for _number, (_what, _make) in enumerate(REFUSED.items(), start=1):
    S.add(f"S{_number:02d}", _what, lambda painter, patch, make=_make: (make(painter), [])[1])


@S("S16", "a file that ends in the middle of the checker")
def truncated_file(painter, patch, folder):
    model = save_model_folder(folder / "model")
    path = model / "safety_checker" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    make_screen(load(model))


@S("S17", "a model whose index names no checker")
def no_checker_in_index(painter, patch, folder):
    model = save_model_folder(folder / "model")
    (model / "safety_checker").rename(folder / "elsewhere")
    make_screen(load(model))


# --- a checker that stops working while it serves

ANSWERS = {
    "None": None,
    "two Nones": (None, None),
    "no flags": (None, []),
    "too many flags": (None, [False, False]),
    "a zero for a flag": (None, [0]),
    "None for a flag": (None, [None]),
    "numpy's False": (None, [np.False_]),
    "an empty answer": (),
    "False without a look": (None, [False]),
}
for _number, (_what, _answer) in enumerate(ANSWERS.items(), start=21):
    S.add(
        f"S{_number}",
        f"the checker answers {_what}",
        lambda painter, patch, answer=_answer: _answers(painter, patch, answer),
    )


def _answers(painter, patch, answer: object):
    """The checker looks at the picture as it should, and then says this."""
    screen = make_screen(painter)
    checker = checker_of(screen)
    forward, is_blind = checker.forward, answer is ANSWERS["False without a look"]

    def says(**inputs):
        if not is_blind:
            forward(**inputs)
        return answer

    patch.setattr(checker, "forward", says)
    return screen.screen(pictures(), [0]), [WITHHELD]


EMBEDDINGS = {"S31": float("nan"), "S32": 0.0, "S33": float("inf"), "S34": float("-inf")}
for _id, _value in EMBEDDINGS.items():
    S.add(
        _id,
        f"a picture looks to the checker like {_value}",
        lambda painter, patch, value=_value: _embeds(painter, patch, value),
    )


def _embeds(painter, patch, value: float):
    screen = make_screen(painter)
    projection = checker_of(screen).visual_projection
    patch.setattr(projection, "forward", lambda pooled: torch.full((len(pooled), 32), value))
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S35", "the checker raises")
def raises(painter, patch):
    screen = make_screen(painter)
    patch.setattr(checker_of(screen), "forward", faults.raising(None))
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S36", "the checker raises at the second of four")
def raises_at_the_second(painter, patch):
    screen = make_screen(painter)
    forward, calls = checker_of(screen).forward, []

    def second(**inputs):
        calls.append(1)
        if len(calls) == 2:
            raise ValueError
        return forward(**inputs)

    patch.setattr(checker_of(screen), "forward", second)
    return screen.screen(pictures(4), range(4)), [OK, WITHHELD, OK, OK]


@S("S37", "the checker runs out of memory")
def out_of_memory(painter, patch):
    screen = make_screen(painter)
    patch.setattr(checker_of(screen), "forward", faults.raising(None, "OutOfMemoryError"))
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S38", "the checker hangs")
def hangs(painter, patch):
    screen, let_go = make_screen(painter), threading.Event()
    patch.setattr(checker_of(screen), "forward", lambda **_: let_go.wait())
    patch.setattr(screen, "_timeout_s", 0.05)
    began_s = time.monotonic()
    screened = screen.screen(pictures(3), range(3))
    assert time.monotonic() - began_s < 2.0 and not screen.is_healthy
    let_go.set()
    return screened, [WITHHELD] * 3


@S("S39", "the weights turn into no numbers while it serves")
def weights_decay(painter, patch):
    screen = make_screen(painter)
    with torch.no_grad():
        checker_of(screen).visual_projection.weight[0, 0] = float("nan")
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S40", "the extractor fails at a picture")
def extractor_fails(painter, patch):
    screen = make_screen(painter)
    patch.setattr(screen, "_feature_extractor", faults.raising(None))
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S41", "the extractor shows the checker no numbers")
def extractor_without_numbers(painter, patch):
    screen = make_screen(painter)
    stock = screen._feature_extractor

    def empties(views, **kwargs):
        features = stock(views, **kwargs)
        features["pixel_values"] = features.pixel_values * float("nan")
        return features

    patch.setattr(screen, "_feature_extractor", empties)
    return screen.screen(pictures(), [0]), [WITHHELD]


@S("S42", "the extractor loses a view of a wide picture")
def extractor_loses_views(painter, patch):
    screen = make_screen(painter)
    stock = screen._feature_extractor
    patch.setattr(screen, "_feature_extractor", lambda views, **kwargs: stock(views[:1], **kwargs))
    return screen.screen(torch.rand(1, 3, 64, 96), [0]), [WITHHELD]


@S("S43", "a flagged picture among others")
def one_flagged(painter, patch):
    screen, images = make_screen(painter), pictures(4)
    flag(screen, images[1])
    return screen.screen(images, range(4)), [OK, WITHHELD, OK, OK]


@S("S44", "what is flagged at an end, or in the middle, of a wide or tall picture")
def flagged_at_the_end(painter, patch):
    screen, emblem = make_screen(painter), pictures()[0]
    flag(screen, emblem)
    wide, tall = torch.full((4, 3, 64, 192), 0.1), torch.full((4, 3, 192, 64), 0.1)  # the last ones without an emblem
    for number, start in enumerate((0, 64, 128)):
        wide[number, :, :, start : start + 64] = tall[number, :, start : start + 64] = emblem
    screened = [*screen.screen(wide, range(4)), *screen.screen(tall, range(4))]
    return screened, [WITHHELD, WITHHELD, WITHHELD, OK] * 2


@S("S49", "what lies on a seam between the squares that the checker is shown")
def on_a_seam(painter, patch):
    screen, side, width = make_screen(painter), 64, 192
    stock, shown = screen._feature_extractor, []

    def looks(views, **kwargs):
        shown.extend(view.getextrema()[0] for view in views if view.size == (side, side))
        return stock(views, **kwargs)

    patch.setattr(screen, "_feature_extractor", looks)
    columns = torch.arange(width) / 127.5 - 1  # each column's brightness is its number
    screened = screen.screen(columns.expand(1, 3, side, width), [0])
    half = side // 2
    unseen = [x for x in range(width - half) if not any(left <= x and x + half - 1 <= right for left, right in shown)]
    assert not unseen, f"nowhere whole: what is half a side wide from {unseen[0]} to {unseen[-1]}"
    return screened, [OK]


@S("S45", "every picture flagged")
def all_flagged(painter, patch):
    screen = make_screen(painter)
    patch.setattr(screen, "_is_flagged", lambda picture: True)
    return screen.screen(pictures(4), range(4)), [WITHHELD] * 4


@S("S46", "a picture that is no number")
def no_number(painter, patch):
    return make_screen(painter).screen(pictures(2) * float("nan"), range(2)), [BROKEN] * 2


@S("S47", "a picture with one value that is no number")
def one_value(painter, patch):
    images = pictures(2)
    images[1, 0, 0, 0] = float("inf")
    return make_screen(painter).screen(images, range(2)), [OK, BROKEN]


@S("S48", "black is a picture")
def black(painter, patch):
    return make_screen(painter).screen(-torch.ones(1, 3, 64, 64), [0]), [OK]


@S("S74", "the steps of a picture that is flagged")
def steps_of_a_flagged_picture(painter, patch):
    return _inspected(painter, patch, flagged=0), [WITHHELD]


@S("S75", "a step that is flagged, of a picture that is not")
def flagged_step(painter, patch):
    return _inspected(painter, patch, flagged=2), [OK, OK, WITHHELD, OK, OK, OK]


def _inspected(painter, patch, flagged: int):
    """A picture and its five steps, of all of which the checker flags that one."""
    engine, seen = make_engine(painter), itertools.count()
    patch.setattr(engine._screen, "_is_flagged", lambda picture: next(seen) == flagged)
    return run_to_completion(engine, replace(admitted("a"), inspection=Inspection.STEPS)).images


def assert_fails_closed(attempt: Attempt, painter, patch, folder) -> None:
    """Refused, or every picture has the outcome that it must have; and none but a passed one has pixels."""
    needs_folder = "folder" in attempt.make.__code__.co_varnames[: attempt.make.__code__.co_argcount]
    try:
        answer = attempt.make(painter, patch, *([folder] if needs_folder else []))
    except (SafetyCheckFailed, ModelUnavailable, SafetensorError) as error:
        assert "/" not in str(error)
        return
    assert answer, "a checker that does not work was taken"
    screened, expected = answer
    assert [str(image.outcome) for image in screened] == expected
    assert all((image.pixels is None) == (image.outcome is not Outcome.OK) for image in screened)


@pytest.mark.parametrize("attempt", list(S), ids=str)
def test_the_checker_fails_closed(noise_painter, monkeypatch, tmp_path, attempt):
    assert_fails_closed(attempt, noise_painter, monkeypatch, tmp_path)


def test_decisions_do_not_hang_on_the_dtype(noise_painter):
    """200 pictures, and a threshold that about half of them are above: the same verdicts in fp16 and fp32."""
    noise = torch.rand(200, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    contrast = torch.rand(200, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    images = (noise * contrast * 255).round() / 127.5 - 1  # the same bytes in both
    screen, seen = make_screen(noise_painter), []
    checker = checker_of(screen)
    hook = checker.visual_projection.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    screen.screen(images, range(200))
    hook.remove()
    cosines = torch.nn.functional.cosine_similarity(torch.stack(seen), seen[0][None])
    with torch.no_grad():
        checker.concept_embeds[0], checker.concept_embeds_weights[0] = seen[0], cosines.median()
    checker.half()  # as v1-4's file holds it

    def verdicts(dtype: torch.dtype) -> list[Outcome]:
        screen = make_screen(noise_painter, safety_checker=copy.deepcopy(checker).to(dtype))
        return [image.outcome for image in screen.screen(images.to(dtype), range(200))]

    half = verdicts(torch.float16)
    assert half == verdicts(torch.float32)
    assert 50 < half.count(Outcome.WITHHELD) < 150


# --- on the wire and on the disk of a running server

SCREEN = "sd_space.engine.safety:SafetyScreen"
CHECKER = "diffusers.pipelines.stable_diffusion.safety_checker:StableDiffusionSafetyChecker"
FAULTS = {
    "S51": ("it raises", f"{CHECKER}.forward", faults.raising),
    "S52": ("it answers None", f"{CHECKER}.forward", partial(faults.answering, answer=None)),
    "S53": ("it answers nothing", f"{CHECKER}.forward", partial(faults.answering, answer=(None, []))),
    "S54": ("it flags everything", f"{SCREEN}._is_flagged", partial(faults.answering, answer=True)),
    "S55": ("it runs out of memory", f"{CHECKER}.forward", partial(faults.raising, error="OutOfMemoryError")),
    "S56": ("nobody can see a picture", "sd_space.engine.safety:_views", faults.raising),
}  # fmt: skip


def shown(data: bytes) -> list[Image.Image]:
    """Every PNG in some bytes, whole or in base64."""
    whole = [data[match.start() :] for match in re.finditer(rb"\x89PNG\r\n", data)]
    coded = [b64decode(match[1]) for match in re.finditer(rb"base64,(iVBORw0KGgo[\w+/=]+)", data)]
    return [Image.open(io.BytesIO(png)).convert("RGB") for png in [*whole, *coded]]


@pytest.mark.parametrize("id", sampled(list(FAULTS), 1), ids=lambda id: f"{id} while serving, {FAULTS[id][0]}")
def test_no_unchecked_byte_leaves_a_server(rig, visitor, token, id):
    """The page and the API, with previews: nothing larger than a mosaic but placeholders, on the wire or on disk."""
    _, target, factory = FAULTS[id]
    rig.new_files()
    wanted = {"seed": 77, "num_inference_steps": 30, "num_images_per_prompt": 2}
    with rig.patched(target, factory):
        api = visitor.generate(acceptance_token=token, **wanted)
        values = visitor.page_values(token, seed=77)
        values[3:5] = [2, 30]
        page = visitor.join(visitor.fn_index("Prompt", "Steps"), values)
    files = rig.new_files()
    assert [image["outcome"] for image in api.data[1]["images"]] == [WITHHELD] * 2
    assert files and all(path.name.endswith("-withheld.png") for path in files)
    seen = [
        picture for data in (api.body, page.body, *(path.read_bytes() for path in files)) for picture in shown(data)
    ]
    honest = visitor.generate(acceptance_token=token, **wanted)
    unchecked = {Image.open(file["path"]).tobytes() for file in honest.data[0]}
    assert len(unchecked) == 2 and len(seen) >= 4
    assert not unchecked & {picture.tobytes() for picture in seen}
    assert all(max(picture.size) <= 16 or picture.tobytes() in _placeholders(files) for picture in seen)


def _placeholders(files: list) -> set[bytes]:
    return {Image.open(path).convert("RGB").tobytes() for path in files}


TAKEN, OUTCOME = "assert answer,", "== expected"
MUTANTS = (
    Mutant(f"{SCREEN}.__init__", "not isinstance(safety_checker, StableDiffusionSafetyChecker)", "False", "S03", TAKEN),
    Mutant(f"{SCREEN}.__init__", "if missing:", "if False:", "S04", TAKEN),
    Mutant(f"{SCREEN}.__init__", "self.self_test()", "pass", "S08", TAKEN),
    Mutant(f"{SCREEN}.self_test", "(thresholds > 0) & (thresholds < 0.999)", "thresholds > -1", "S10", TAKEN),
    Mutant(f"{SCREEN}.self_test", "is_grey_flagged is not False", "False", "S12", TAKEN),
    Mutant(f"{SCREEN}.self_test", "flags != [True] * len(checker.concept_embeds)", "False", "S14", TAKEN),
    Mutant(f"{SCREEN}._screen_one", "not bool(torch.isfinite(image).all())", "False", "S46", OUTCOME),
    Mutant(f"{SCREEN}._screen_one", "outcome = Outcome.WITHHELD", "outcome = Outcome.OK", "S35", OUTCOME),
    Mutant(f"{SCREEN}._screen_one", "if outcome is Outcome.OK else None", "", "S45", "image.pixels is None"),
    Mutant(f"{SCREEN}._is_any_flagged", "len(norms) != 1 or not", "not len(norms) or False and", "S31", OUTCOME),
    Mutant(f"{SCREEN}._is_any_flagged", "len(flags) != len(views) or", "", "S23", OUTCOME),
    Mutant(f"{SCREEN}._is_any_flagged", "all(isinstance(flag, bool) for flag in flags)", "True", "S25", OUTCOME),
    Mutant("sd_space.engine.safety:_views", "not excess", "True", "S44", OUTCOME),
    Mutant(
        "sd_space.engine.check_thread:CheckThread.run",
        "if not wait_lived(done, timeout_s):",
        "if not wait_lived(done, 2.1):",
        "S38",
        "not screen.is_healthy",
    ),
    Mutant("sd_space.engine.engine:Engine.__init__", "not isinstance(screen, SafetyScreen)", "False", "S15", TAKEN),
    Mutant(
        "sd_space.engine.inspector:Inspector.begin",
        "any(image.outcome is not Outcome.OK for image in active.images.values())",
        "False",
        "S74",
        OUTCOME,
    ),
    Mutant(
        "sd_space.engine.finishing:Finisher._finish",
        "finishing.images = self._screen.screen(",
        "screen = lambda decoded, seeds: [ScreenedImage(seed, Outcome.OK, 1, 1, bytes(3)) for seed in seeds]\n    "
        "finishing.images = (self._screen.screen if finishing.group[0].of_step is None else screen)(",
        "S75",
        OUTCOME,
    ),
)


@pytest.mark.parametrize("mutant", sampled(MUTANTS, 1), ids=str)
def test_without_a_guard_a_picture_gets_out(noise_painter, monkeypatch, tmp_path, mutant):
    attempt = S.named(mutant.caught_by)
    before = len(inside._before)
    inside.patch(mutant.target, partial(inside.rewritten, old=mutant.old, new=mutant.new))
    try:
        with warnings.catch_warnings(action="ignore"), mutant.caught():
            assert_fails_closed(attempt, noise_painter, monkeypatch, tmp_path)
    finally:
        inside.restore(before)
