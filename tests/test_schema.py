import math
import pickle
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sd_space.errors import InvalidRequest, ModelUnavailable, QueueFull
from sd_space.fields import SourcePicture
from sd_space.request import MAX_SEED, GenerationRequest
from sd_space.schema import BackendStatus, Stage
from sd_space.served_model import Defaults, Limits, ModelInfo

INFO = ModelInfo(
    model="picture-book",
    title="Picture book",
    revision=None,
    device="cpu",
    dtype="float32",
    memory_profile="none",
    limits=Limits(min_size=64, max_size=192),
    defaults=Defaults(num_inference_steps=20, guidance_scale=3.0, width=128, height=128),
)


def parse(**values):
    return GenerationRequest.parse({"prompt": "a cabin"} | values, INFO, random_seed=77)


def test_what_is_left_out_takes_the_models_own_defaults():
    request = parse(width=None)
    assert (request.num_inference_steps, request.guidance_scale, request.scheduler) == (20, 3.0, "PNDM")
    assert (request.width, request.height, request.num_images_per_prompt) == (128, 128, 4)
    assert request.seed == 77, "-1 is the default seed and means a random one"


def test_picture_k_has_seed_plus_k_and_wraps_round():
    assert parse(seed=5).seeds == (5, 6, 7, 8)
    assert parse(seed=MAX_SEED, num_images_per_prompt=2).seeds == (MAX_SEED, 0)


def test_a_whole_number_may_come_as_a_json_float():
    assert parse(num_inference_steps=30.0).num_inference_steps == 30


@pytest.mark.parametrize("prompt", ["", "   ", "\u200b\u200b", None, 5, True, ["a"], {"a": 1}, 1.5])
def test_a_prompt_must_be_text_that_says_something(prompt):
    with pytest.raises(InvalidRequest, match="prompt must"):
        GenerationRequest.parse({"prompt": prompt}, INFO, 0)


@pytest.mark.parametrize("prompt", ["a\x00b", "\ud800", "a\x1b[31m", "x" * 10_000])
def test_a_prompt_that_no_tokenizer_can_hold_is_refused(prompt):
    with pytest.raises(InvalidRequest) as refusal:
        parse(prompt=prompt)
    assert refusal.value.field == "prompt"
    assert "xxx" not in str(refusal.value)


def test_lines_and_emoji_are_welcome():
    assert parse(prompt="a cat\r\n\tand 👩‍🚀 שלום").prompt == "a cat and 👩‍🚀 שלום"


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("num_inference_steps", 0, "num_inference_steps must be a whole number from 1 to 150, not 0."),
        ("num_inference_steps", 151, "not 151."),
        ("num_inference_steps", 1.5, "not 1.5."),
        ("num_inference_steps", "20", "not '20'."),
        ("num_inference_steps", math.nan, "not NaN."),
        ("num_inference_steps", 1e308, "a whole number from 1 to 150"),
        ("num_inference_steps", True, "not true."),
        ("guidance_scale", 0, "guidance_scale must be a number from 1 to 20, not 0."),
        ("guidance_scale", math.inf, "not Infinity."),
        ("guidance_scale", [7.5], "not a list."),
        ("width", 1e308, "not a number of 309 digits."),
        ("seed", 10**4000, "not a number of 4001 digits."),
        ("scheduler", "x" * 100, "not a text of 100 characters."),
        ("guidance_scale", False, "not false."),
        ("seed", -5, "seed must be a whole number from -1 to 4294967295"),
        ("seed", 2**32, "not 4294967296."),
        ("seed", "abc", "not 'abc'."),
        ("width", 130, "width must be a multiple of 8, not 130."),
        ("width", 100_000, "width must be a whole number from 64 to 192 pixels"),
        ("height", -512, "height must be"),
        ("num_images_per_prompt", 5, "num_images_per_prompt must be a whole number from 1 to 4, not 5."),
        ("scheduler", "pndm", "scheduler must be one of PNDM, DDIM"),
        ("scheduler", "../x", "not '..?x'."),
        ("scheduler", ["PNDM"], "not a list."),
        ("negative_prompt", 5, "negative_prompt must be text, not 5."),
        ("colour", "red", "'colour' is not a field"),
    ],
)
def test_a_refusal_names_the_field_the_value_and_the_range(field, value, says):
    with pytest.raises(InvalidRequest) as refusal:
        parse(**{field: value})
    assert refusal.value.field == field
    assert says in str(refusal.value)


def test_an_error_never_repeats_markup():
    with pytest.raises(InvalidRequest) as refusal:
        parse(scheduler="<img src=x>")
    assert "<" not in str(refusal.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=2)
)


@settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.fixed_dictionaries({}, optional={name: JSON for name in GenerationRequest.__dataclass_fields__}))
def test_any_json_gives_a_valid_request_or_a_sentence(values):
    try:
        request = GenerationRequest.parse(values, INFO, random_seed=1)
    except InvalidRequest as refusal:
        assert str(refusal).endswith((".", "?")) and len(str(refusal)) < 300
    else:
        assert 1 <= request.num_inference_steps <= 150 and 64 <= request.width <= 192
        assert request.prompt.strip() and math.isfinite(request.guidance_scale)


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("seed", "seed must be whole."), QueueFull("Full."), ModelUnavailable("No.", "hint")],
)
def test_errors_survive_pickling(error):
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) and vars(copy) == vars(error)


def test_requests_and_model_infos_survive_pickling_and_cannot_be_changed():
    request = parse()
    assert pickle.loads(pickle.dumps(request)) == request
    assert pickle.loads(pickle.dumps(INFO)) == INFO
    with pytest.raises(AttributeError):
        request.seed = 5


def test_a_ready_backend_names_its_model_and_another_says_why_it_cannot():
    assert BackendStatus(Stage.READY, INFO).ready_info is INFO
    with pytest.raises(ModelUnavailable, match="still loading"):
        _ = BackendStatus(Stage.LOADING).ready_info
    with pytest.raises(ModelUnavailable, match="disk"):
        _ = BackendStatus(Stage.FAILED, reason="The disk is full.").ready_info


SOURCE = SourcePicture(128, 128, 3, bytes(128 * 128 * 3), "5e" * 32)


@pytest.mark.parametrize(("steps", "strength"), [(4, 0.1), (1, 0.99), (150, 0.0), (20, 0.049)])
def test_a_start_that_leaves_no_step_is_refused_by_both_names(steps, strength):
    with pytest.raises(InvalidRequest) as refusal:
        parse(init_image=SOURCE, num_inference_steps=steps, strength=strength)
    assert str(refusal.value) == (
        f"num_inference_steps x strength must be at least 1, not {steps} x {strength:g}; raise one of them."
    )
    assert parse(num_inference_steps=steps, strength=strength).first_step == 0, "it means nothing without a picture"


def test_a_source_must_fit_the_picture_that_is_asked_for():
    assert parse(init_image=SOURCE, mask=replace(SOURCE, channels=1), strength=0.5).first_step == 10
    refused = (
        ({"mask": replace(SOURCE, channels=1)}, "send init_image as well"),
        ({"init_image": replace(SOURCE, width=64)}, "init_image must be 128 x 128 pixels"),
        ({"init_image": SOURCE, "mask": SOURCE}, "mask must be a picture"),
        ({"init_image": "data:image/png;base64,AAAA"}, "init_image must be a picture"),
        ({"init_image": 5}, "init_image must be a picture"),
    )
    for values, words in refused:
        with pytest.raises(InvalidRequest, match=words):
            parse(**values)


def mask_with(left: int, top: int, width: int, height: int, white: int = 255) -> SourcePicture:
    """128 x 128, black but for one rectangle."""
    picture = Image.new("L", (128, 128))
    picture.paste(white, (left, top, left + width, top + height))
    return replace(SOURCE, channels=1, pixels=picture.tobytes())


def test_a_mask_whose_white_would_open_nothing_is_refused():
    """The model draws squares of 8 x 8 pixels anew, each as the pixel in its upper left corner says."""
    for lost in (mask_with(1, 1, 7, 7), mask_with(1, 0, 7, 128), mask_with(17, 0, 1, 128), mask_with(1, 1, 7, 7, 128)):
        with pytest.raises(InvalidRequest, match="mask must be white over at least 8 x 8 pixels in one place"):
            parse(init_image=SOURCE, mask=lost, strength=0.5)
    for kept in (mask_with(1, 1, 8, 8), mask_with(3, 5, 8, 8), mask_with(0, 0, 1, 1), mask_with(0, 0, 0, 0)):
        assert parse(init_image=SOURCE, mask=kept, strength=0.5).mask == kept
    assert parse(init_image=SOURCE, mask=mask_with(1, 1, 7, 7, 127), strength=0.5).mask, "nothing of it is white"


def test_a_random_variation_is_drawn_only_where_there_is_one():
    assert parse(variation_strength=0.5).variation_seed == 81
    assert parse(variation_strength=0.5, seed=3).variation_seed == 77
    assert parse().variation_seed == -1
