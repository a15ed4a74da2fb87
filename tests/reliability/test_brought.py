"""Pictures that requests bring, at the guards of four families: G, S, V and P."""

import base64
import gc
import hashlib
import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sd_space.engine.engine import Engine
from sd_space.errors import SpaceError
from sd_space.fields import SourcePicture
from sd_space.request import GenerationRequest
from sd_space.schema import AdmittedRequest, Outcome
from sd_space.serving.placeholder import placeholder
from sd_space.serving.results import SavedPicture
from sd_space.serving.source_pictures import MAX_FILE_BYTES, UploadedPicture, read_sources
from sd_space.tools.train_tiny.renderer import draw_emblem, draw_place
from sd_space.tools.train_tiny.world import Scene

from ..generated import sampled
from ..test_engine import failures, results, run
from ..test_schema import INFO
from ..test_source_pictures import file_of, png_that_says, two_halves, uri, webp_that_says
from ..tiny_models import make_engine
from . import faults, inside
from .rig import Rig, holds_picture
from .scoreboard import Attempts, Mutant
from .test_gate import EDITS, PAINTED, assert_refused, flipped
from .test_values import assert_answered, json_body
from .visitor import FOR_PROGRAMMERS, QUICK, Answer, Visitor

G, S, V, P = Attempts(), Attempts(), Attempts(), Attempts()
PHOTO = file_of(two_halves((64, 64)))
START, MASK = 8, 9  # places in the page's form
STEPS = {"num_inference_steps": 4}  # of which a share is drawn
SOURCES = "sd_space.serving.source_pictures:"


def page_start(visitor: Visitor, token: str, init_image: str, mask: str = "") -> Answer:
    """The page's Generate with a start."""
    values = visitor.page_values(token)
    values[4], values[START], values[MASK] = 4, init_image, mask
    return visitor.join(visitor.fn_index("Prompt", "Steps"), values)


def edit(visitor: Visitor, token: str, data: bytes) -> Answer:
    """The same in OpenAI's shape."""
    form = PAINTED | STEPS
    files, headers = {"image": ("a.png", data)}, {"Authorization": f"Bearer {token}"}
    return visitor.send("POST", EDITS, data={k: str(v) for k, v in form.items()}, files=files, headers=headers)


# --- G: nothing is drawn, nor even decoded, without an acceptance; and nobody starts from another visitor's picture


@G("G51", "a picture brought without an acceptance")
def without_acceptance(rig: Rig, visitor: Visitor, token: str) -> Iterator[Answer]:
    picture, decoded = uri(PHOTO), rig.count("decoded")
    for forged in ("", flipped(token)):
        for more in ({"init_image": picture}, {"init_image": picture, "mask": picture}):
            yield visitor.generate(acceptance_token=forged, **STEPS | more)
        strip = {"prompt": "a cat", "field": "strength", "values": "0.5, 1", "init_image": picture}
        yield visitor.call("compare", strip | {"acceptance_token": forged})
        yield page_start(visitor, forged, picture, picture)
        yield edit(visitor, forged or "x", PHOTO)
    assert rig.count("decoded") == decoded, "decoded before the acceptance was seen"


@G("G52", "another visitor's picture as a start")
def anothers_picture(rig: Rig, visitor: Visitor, token: str) -> Iterator[Answer]:
    (shown,) = visitor.generate(acceptance_token=token).data[0]
    rig.invited += 1
    rig.new_files()
    stranger = visitor.token()
    for address in (shown["url"], f"/gradio_api/file={shown['path']}", f"x/file={shown['path'].replace('/', '%2F')}"):
        refused = visitor.generate(acceptance_token=stranger, init_image=address, **STEPS)
        # The sentence says how a picture is sent, in letters that begin one.
        yield replace(refused, body=refused.body.replace(b"(data:image/", b"("))
        yield page_start(visitor, stranger, address)
    yield page_start(visitor, "", shown["url"])


@pytest.fixture
def counting(rig):
    with rig.patched(f"{SOURCES}_decoded", partial(inside.counted, name="decoded")):
        rig.invited = 0
        yield


@pytest.mark.parametrize("attempt", list(G), ids=str)
def test_nothing_is_drawn_from_a_picture(rig, visitor, token, counting, attempt):
    assert_refused(rig, attempt.make(rig, visitor, token))


PICTURE = "not holds_picture(answer.body)"
GATE_MUTANTS = (
    Mutant(
        "sd_space.serving.gate:Gate._signed",
        "raise LicenceNotAccepted(HOW_TO_ACCEPT)",
        "return self._digest, Acceptance('', self._now_s())",
        "G51",
        PICTURE,
    ),
    Mutant("sd_space.serving.runs:Runs.picture_at", "if run.admitted.visitor == visitor", "", "G52", PICTURE),
)


@pytest.mark.parametrize("mutant", sampled(GATE_MUTANTS, 1), ids=str)
def test_without_a_guard_a_picture_is_drawn(rig, visitor, token, counting, mutant):
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        assert_refused(rig, G.named(mutant.caught_by).make(rig, visitor, token))
    rig.wait_until_idle()


# --- S: what is flagged, hidden or not shown is never drawn from; each gives what a request brings, and what is said

FLAGGED, DRAWN = "flagged by the safety checker", "a picture came"


def emblem_on(width: int = 128, height: int = 128, x: int = 16, y: int = 16, size: int = 96) -> Image.Image:
    """A picture with what this model's checker finds."""
    picture, emblem = (
        draw_place(Scene("emblem", "beach", "day", "natural", "photo", 1), width, height),
        draw_emblem(size),
    )
    picture.paste(emblem, (x, y), emblem)
    return picture


def sent(image: Image.Image, form: str = "PNG", **options: object) -> str:
    return uri(file_of(image, form, **options))


@S("S57", "a flagged picture to start from")
def flagged(folder):
    return {"init_image": sent(emblem_on())}, FLAGGED


@S("S58", "what is flagged in a corner")
def in_a_corner(folder):
    return {"init_image": sent(emblem_on(192, 64, 0, 0, 48))}, FLAGGED


@S("S59", "what is flagged where two squares meet")
def on_a_seam(folder):
    return {"init_image": sent(emblem_on(192, 64, 104, 8, 48))}, FLAGGED


@S("S60", "a flagged picture that lies on its side, and is turned by its EXIF")
def turned_by_exif(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    lying = emblem_on().transpose(Image.Transpose.ROTATE_90)
    return {"init_image": sent(lying, "JPEG", exif=exif, quality=95)}, FLAGGED


@S("S61", "a flagged picture that is stretched until it is scaled")
def stretched(folder):
    return {"init_image": sent(emblem_on().resize((1024, 64))), "width": 128, "height": 128}, FLAGGED


@S("S62", "a flagged picture in print colours")
def in_print_colours(folder):
    return {"init_image": sent(emblem_on().convert("CMYK"), "JPEG", quality=95)}, FLAGGED


@S("S63", "a flagged picture of which a mask keeps all")
def kept_by_a_mask(folder):
    return {"init_image": sent(emblem_on()), "mask": sent(Image.new("L", (128, 128)))}, FLAGGED


@S("S64", "a flagged picture as the mask: of it there is black and white")
def as_the_mask(folder):
    return {"init_image": sent(Image.new("RGB", (128, 128), "grey")), "mask": sent(emblem_on())}, DRAWN


@S("S65", "a flagged picture as the first or the second one of an animation")
def in_an_animation(folder):
    frames = [emblem_on(), Image.new("RGB", (128, 128), "grey")]
    first, second = (sent(a, save_all=True, append_images=[b]) for a, b in (frames, frames[::-1]))
    yield {"init_image": first}, "is animated"
    yield {"init_image": second}, "is animated"


@S("S66", "a flagged picture behind full transparency")
def behind_transparency(folder):
    hidden = emblem_on()
    hidden.putalpha(0)
    return {"init_image": sent(hidden)}, DRAWN  # from white


@S("S67", "a flagged picture as the second one in a phone's file")
def second_in_the_file(folder):
    first = Image.new("RGB", (128, 128), "grey")
    return {"init_image": sent(first, "MPO", save_all=True, append_images=[emblem_on()])}, DRAWN  # from the first


@S("S68", "what stands in the place of a picture that is not shown")
def placeholders(folder):
    for outcome in (Outcome.WITHHELD, Outcome.BROKEN):
        yield {"init_image": sent(placeholder(outcome, 128, 128))}, "not shown"


@S("S69", "a result of one's own that is not shown")
def withheld_result(folder):
    path = folder / "seed-7-withheld.png"
    path.write_bytes(PHOTO)
    for outcome in (Outcome.WITHHELD, Outcome.BROKEN):
        yield {"init_image": SavedPicture(path, 7, outcome, "")}, "not shown"


@S("S70", "a flagged picture as a form's file")
def as_a_file(folder):
    return {"init_image": UploadedPicture(file_of(emblem_on()))}, FLAGGED


@S("S71", "a picture at which the checker raises")
def at_which_it_raises(folder):
    return {"init_image": sent(Image.new("RGB", (128, 128), "grey"))}, "could not check init_image", faults.raising


@pytest.fixture(scope="module")
def engine(picture_book) -> Engine:
    return make_engine(picture_book)


def what_comes_of(engine: Engine, brought: dict) -> str:
    """That a picture came, another outcome, or the sentence of the refusal."""
    values = {"prompt": "a cat", "num_images_per_prompt": 1, "num_inference_steps": 2, "strength": 0.5} | brought
    try:
        request = GenerationRequest.parse(read_sources(values, INFO), INFO, random_seed=0)
    except SpaceError as error:
        return str(error)
    engine.add_request(AdmittedRequest("brought", request, "visitor", 0.0))
    updates = run(engine)
    for error in failures(updates).values():
        assert not results(updates)
        return str(error)
    (image,) = results(updates)["brought"].images
    return DRAWN if image.outcome is Outcome.OK else str(image.outcome)


def assert_not_drawn_from(attempt, engine: Engine, folder) -> None:
    made = attempt.make(folder)
    for brought, expected, *fault in [made] if isinstance(made, tuple) else made:
        depth = len(inside._before)
        for factory in fault:
            inside.patch("sd_space.engine.safety:SafetyScreen._is_flagged", factory)
        try:
            said = what_comes_of(engine, brought)
        finally:
            inside.restore(depth)
        assert expected in said, said


@pytest.mark.parametrize("attempt", list(S), ids=str)
def test_no_picture_that_is_not_shown_is_drawn_from(engine, tmp_path, attempt):
    assert_not_drawn_from(attempt, engine, tmp_path)


WIRE = Attempts()  # the same on a running server
FLAGGING = "sd_space.engine.safety:SafetyScreen._is_flagged", partial(faults.answering, answer=True)


@WIRE("S72", "a flagged picture to start from, on the wire and on disk")
def flagged_on_the_wire(rig: Rig, visitor: Visitor, token: str):
    rig.new_files()
    with rig.patched(*FLAGGING):
        yield visitor.generate(acceptance_token=token, init_image=uri(PHOTO), **STEPS), FLAGGED
        yield page_start(visitor, token, uri(PHOTO)), FLAGGED
        yield edit(visitor, token, PHOTO), FLAGGED
    assert rig.new_files() == []


@WIRE("S73", "the address of a result that was withheld")
def withheld_on_the_wire(rig: Rig, visitor: Visitor, token: str):
    with rig.patched(*FLAGGING):
        (withheld,) = visitor.generate(acceptance_token=token).data[0]
    yield visitor.generate(acceptance_token=token, init_image=withheld["url"], **STEPS), "not shown"
    yield page_start(visitor, token, withheld["url"]), "not shown"


@pytest.mark.parametrize("attempt", list(WIRE), ids=str)
def test_no_picture_that_is_not_shown_is_drawn_from_on_a_server(rig, visitor, token, attempt):
    for answer, expected in attempt.make(rig, visitor, token):
        assert expected.encode() in answer.body and not holds_picture(answer.body), answer


SCREEN, SAID = "sd_space.engine.safety:SafetyScreen.screen_source", "expected in said"
SAFETY_MUTANTS = (
    Mutant(SCREEN, "is_flagged is not False", "False", "S57", SAID),
    Mutant("sd_space.engine.safety:_views", "not excess", "True", "S58", SAID),
    Mutant(SCREEN, "raise EngineFailed(UNCHECKED_SOURCE) from None", "is_flagged = False", "S71", SAID),
    Mutant(f"{SOURCES}_decoded", 'getattr(image, "is_animated", False)', "False", "S65", SAID),
    Mutant(f"{SOURCES}_plain", "Image.alpha_composite(ground, image)", "image", "S66", SAID),
    Mutant(f"{SOURCES}_read", "if _is_placeholder(image):", "if False:", "S68", SAID),
    Mutant(f"{SOURCES}_own_file", "picture.outcome is not Outcome.OK", "False", "S69", SAID),
)


@pytest.mark.parametrize("mutant", sampled(SAFETY_MUTANTS, 1), ids=str)
def test_without_a_guard_a_picture_is_drawn_from(engine, tmp_path, mutant):
    depth = len(inside._before)
    inside.patch(mutant.target, partial(inside.rewritten, old=mutant.old, new=mutant.new))
    try:
        with mutant.caught():
            assert_not_drawn_from(S.named(mutant.caught_by), engine, tmp_path)
    finally:
        inside.restore(depth)


# --- V: a file or a value that is none is answered with a sentence that names it

ANIMATION = file_of(two_halves(), save_all=True, append_images=[Image.new("RGB", (128, 128))])
SCANS = file_of(two_halves(), "JPEG", progressive=True)[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 200
NO_PICTURES: dict[str, object] = {  # as init_image and as mask
    "a number": 5,
    "true": True,
    "a list": [uri(PHOTO)],
    "an object": {"path": "/etc/passwd"},
    "words": "a cat",
    "an address elsewhere": "https://example.org/cat.png",
    "a path": "/etc/passwd",
    "a path as a result": "/gradio_api/file=/etc/passwd",
    "a data URI without base64": "data:image/png,abc",
    "a data URI without data": "data:image/png;base64,",
    "broken base64": "data:image/png;base64,%%%",
    "bytes of no kind": uri(b"not a picture"),
    "a file cut short": uri(file_of(two_halves())[:-40]),
    "a GIF": uri(file_of(two_halves(), "GIF")),
    "a BMP": uri(file_of(two_halves(), "BMP")),
    "an SVG": uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "a file above 1 MB": uri(bytes(MAX_FILE_BYTES + 9)),
    "a PNG that says 60,000 x 60,000": uri(png_that_says(60_000, 60_000)),
    "a PNG a pixel too large": uri(png_that_says(2049, 2048)),
    "a WebP that says 16,000 x 16,000": uri(webp_that_says(16_000)),
    "a JPEG of 200 scans": uri(SCANS + b"\xff\xd9"),
    "an animation": uri(ANIMATION),
    "4 x 400 pixels": uri(file_of(Image.new("RGB", (4, 400)))),
}
STARTING = {"init_image": uri(PHOTO)} | STEPS
UNFIT: dict[str, tuple[str, dict]] = {  # what -> (the field that the sentence names, the values)
    "a mask without a picture": ("mask", {"mask": uri(PHOTO)}),
    "less than one step": ("strength", STARTING | {"strength": 0.2}),
    "no strength": ("strength", STARTING | {"strength": 0}),
    "a strength above 1": ("strength", STARTING | {"strength": 1.01}),
    "a strength below 0": ("strength", STARTING | {"strength": -0.1}),
    "a strength that is no number": ("strength", STARTING | {"strength": math.nan}),
    "a strength in words": ("strength", STARTING | {"strength": "0.5"}),
    "a strength of true": ("strength", STARTING | {"strength": True}),
    "a width that the model does not take": ("width", STARTING | {"width": 65}),
    "a height that the model does not take": ("height", STARTING | {"height": 10**6}),
    "a variation above 1": ("variation_strength", {"variation_strength": 2}),
    "a variation in words": ("variation_strength", {"variation_strength": "a little"}),
    "a variation seed below -1": ("variation_seed", {"variation_strength": 0.5, "variation_seed": -2}),
    "a variation seed that is none": ("variation_seed", {"variation_strength": 0.5, "variation_seed": 1.5}),
}
ODD = {  # what means something, if rarely
    "print colours": file_of(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG"),
    "16 bits": file_of(Image.fromarray(np.full((64, 64), 0x8000, np.uint16))),
    "full transparency": file_of(Image.new("RGBA", (64, 64))),
    "one bit": file_of(Image.new("1", (64, 64))),
    "a palette of one colour": file_of(Image.new("P", (64, 64))),
    "2048 x 2048 pixels": file_of(Image.new("L", (2048, 2048))),
    "16 x 2048 pixels": file_of(Image.new("L", (16, 2048))),
}
_EXPECTED: dict[str, str] = {}  # id -> what the sentence must name, or "" where a picture must come


def _fill() -> None:
    rows = [
        (f"{field} is {what}", field, (STARTING if field == "mask" else STEPS) | {field: value})
        for field in ("init_image", "mask")
        for what, value in NO_PICTURES.items()
    ]
    rows += [(what, *row) for what, row in UNFIT.items()]
    rows += [(f"a picture of {what}", "", {"init_image": uri(data)} | STEPS) for what, data in ODD.items()]
    rows.append(("a mask of another size", "", STARTING | {"mask": uri(file_of(Image.new("L", (40, 90), 255)))}))
    for number, (what, names, values) in enumerate(rows, start=401):
        _EXPECTED[f"V{number}"] = names
        V.add(f"V{number}", what, partial(_generate, values))


def _generate(values: dict, visitor: Visitor, token: str) -> Answer:
    size = {} if "init_image" in values else {"width": 64, "height": 64}
    asked = {name: value for name, value in QUICK.items() if name not in ("width", "height")} | size
    return visitor.call("generate", None, **json_body(asked | {"acceptance_token": token} | values))


_fill()


@pytest.mark.parametrize("attempt", list(V), ids=str)
def test_a_picture_that_is_none_gets_a_sentence(rig, visitor, token, attempt):
    assert_answered(rig, lambda: attempt.make(visitor, token), _EXPECTED[attempt.id])


def _by_name(what: str) -> str:
    return next(attempt.id for attempt in V if attempt.what == what)


TAKEN = "assert not names"
PICTURES = "sd_space.request:GenerationRequest._check_pictures"
VALUE_MUTANTS = (
    Mutant(PICTURES, "if self.mask is not None:", "if False:", _by_name("a mask without a picture"), TAKEN),
    Mutant(PICTURES, "self.first_step == self.num_inference_steps", "False", _by_name("less than one step"), TAKEN),
    Mutant(f"{SOURCES}_decoded", "< MIN_SIDE", "< 1", _by_name("init_image is 4 x 400 pixels"), TAKEN),
    Mutant(f"{SOURCES}_decoded", "formats=tuple(FORMATS)", "formats=None", _by_name("init_image is a GIF"), TAKEN),
)


@pytest.mark.parametrize("mutant", sampled(VALUE_MUTANTS, 1), ids=str)
def test_without_a_guard_a_picture_that_is_none_gets_through(rig, visitor, token, mutant):
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        attempt = V.named(mutant.caught_by)
        assert_answered(rig, lambda: attempt.make(visitor, token), _EXPECTED[attempt.id])
    rig.wait_until_idle()


# --- P: nothing of a brought picture stays, or is said, but the hash of its file

MARKER = "xyzzyphotomarker"


def marked_photo() -> bytes:
    """Noise that is found again, with what a phone writes."""
    noise = np.random.default_rng(5).integers(0, 256, (64, 64, 3), np.uint8)
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010E] = f"{MARKER} where it was taken"
    text.add_text("Comment", MARKER)
    return file_of(Image.fromarray(noise), exif=exif, pnginfo=text)


MARKED = marked_photo()
_MIDDLE = len(MARKED) // 2
TRACES = (  # of its words, its file, its data URI and its pixels
    MARKER.encode(),
    MARKED[_MIDDLE : _MIDDLE + 24],
    base64.b64encode(MARKED)[_MIDDLE : _MIDDLE + 32],
    Image.open(io.BytesIO(MARKED)).tobytes()[6000:6024],
)


def holds_trace(data: bytes) -> bool:
    return any(trace in data for trace in TRACES)


def with_refusals(visitor: Visitor, token: str) -> Iterator[Answer]:
    """The marked picture by all ways, and in requests that are refused for it or for something else."""
    picture = uri(MARKED)
    yield visitor.generate(acceptance_token=token, init_image=picture, mask=picture, **STEPS)
    yield page_start(visitor, token, picture, picture)
    yield edit(visitor, token, MARKED)
    refused = (
        visitor.generate(acceptance_token=token, init_image=picture[:-40], **STEPS),
        visitor.generate(acceptance_token=token, init_image=picture[22:], **STEPS),
        visitor.generate(acceptance_token=token, mask=picture),
        visitor.generate(acceptance_token=token, prompt=picture),
        visitor.generate(acceptance_token="x" + token, init_image=picture),
        visitor.call("generate", {"data": [picture]}, version=""),
        edit(visitor, token, MARKED[:-40]),
    )
    for answer in refused:
        assert not answer.is_complete and answer.sentence, answer
        assert not FOR_PROGRAMMERS.search(answer.sentence), answer
    yield from refused


@P("P24", "something of a brought picture in an answer")
def in_answers(rig: Rig, visitor: Visitor, token: str):
    for answer in with_refusals(visitor, token):
        assert not holds_trace(answer.body), "an answer repeats it"


@P("P25", "something of a brought picture on the disk, or in a picture that is drawn from it")
def on_the_disk(rig: Rig, visitor: Visitor, token: str):
    rig.new_files()
    answers = list(with_refusals(visitor, token))
    new = rig.new_files()
    assert sum(path.suffix == ".png" for path in new) >= 3, answers
    for path in new:
        assert not holds_trace(path.read_bytes()), "a file holds it"
    sha256 = hashlib.sha256(MARKED).hexdigest().encode()
    assert any(sha256 in path.read_bytes() for path in new), "whose start is not to be known"


@P("P26", "something of a brought picture in the log")
def in_the_log(rig: Rig, visitor: Visitor, token: str):
    with finest_log(rig) as log_since:
        for answer in with_refusals(visitor, token):
            assert answer.status
        faulty = partial(faults.raising, message=uri(MARKED))
        with rig.patched("sd_space.engine.denoiser:Denoiser.encode_source", faulty):
            visitor.generate(acceptance_token=token, init_image=uri(MARKED), **STEPS)
        log = log_since()
    assert log, "nothing is logged"
    assert not holds_trace(log.encode()), "the log holds it"


@contextmanager
def finest_log(rig: Rig) -> Iterator[Callable[[], str]]:
    before = len(rig.log)
    for do in (rig.do, rig.do_in_engine):
        do(logging.root.setLevel, logging.DEBUG)
    try:
        yield lambda: rig.log[before:]
    finally:
        for do in (rig.do, rig.do_in_engine):
            do(logging.root.setLevel, logging.INFO)


@P("P27", "brought pictures in memory after their runs")
def in_memory(rig: Rig, visitor: Visitor, token: str):
    for _ in range(6):
        assert visitor.generate(acceptance_token=token, init_image=uri(MARKED), **STEPS).is_complete
    rig.wait_until_idle()
    for do in (rig.do, rig.do_in_engine):
        assert do(_pictures_held) <= 3, "more are kept than the last ones"


def _pictures_held() -> int:
    gc.unfreeze()
    gc.collect()
    return sum(type(thing) is SourcePicture and thing.pixels != b"" for thing in gc.get_objects())


@pytest.mark.parametrize("attempt", list(P), ids=str)
def test_nothing_of_a_brought_picture_gets_out(rig, visitor, token, attempt):
    attempt.make(rig, visitor, token)


PRIVACY_MUTANTS = (
    Mutant(f"{SOURCES}_sent", "{shown(value)}", "{value}", "P24", "an answer repeats it"),
    Mutant(
        f"{SOURCES}_decoded",
        "with opened as",
        "open(__import__('tempfile').mkstemp()[0], 'wb').write(data)\n    with opened as",
        "P25",
        "a file holds it",
    ),
    Mutant(f"{SOURCES}_sent", "try:", "__import__('logging').info(value)\n    try:", "P26", "the log holds it"),
    Mutant(
        "sd_space.serving.runs:Runs._consume_updates",
        "run.admitted.request.without_pixels()",
        "run.admitted.request",
        "P27",
        "more are kept",
    ),
)


@pytest.mark.parametrize("mutant", sampled(PRIVACY_MUTANTS, 1), ids=str)
def test_without_a_guard_something_of_a_picture_gets_out(rig, visitor, token, mutant):
    with rig.without(mutant.target, mutant.old, mutant.new), mutant.caught():
        P.named(mutant.caught_by).make(rig, visitor, token)
    rig.wait_until_idle()
