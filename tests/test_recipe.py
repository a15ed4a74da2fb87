"""What makes the same pictures again: as a link carries it and brings it back, and as the API's result says it."""

import json
import math
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sd_space.fields import SourcePicture
from sd_space.request import REQUEST_FIELDS, GenerationRequest
from sd_space.schema import GenerationResult, Outcome
from sd_space.served_model import SCHEDULERS
from sd_space.serving.recipe import parameters_text, recipe_from_query, recipe_query, recipe_values, result_json
from sd_space.serving.results import SavedPicture

from .test_schema import INFO

REQUEST = GenerationRequest.parse(
    {"prompt": "a cabin, snow", "negative_prompt": "people", "seed": 7, "guidance_scale": 2.5}, INFO, 0
)
SOURCE = SourcePicture(128, 128, 3, b"the picture itself", "5e" * 32, seed=4)
MASK = SourcePicture(128, 128, 1, b"the mask itself", "7a" * 32)
PROPERTY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_a_png_has_a_name_for_each_field_that_draws_one_picture():
    """Both prompts stand before the named values, and how many pictures there were draws none of them."""
    unnamed = {name for name, field in REQUEST_FIELDS.items() if not field.parameter}
    assert unnamed == {"prompt", "negative_prompt", "num_images_per_prompt"}


def test_a_link_brings_the_whole_recipe_back():
    assert recipe_from_query(dict(parse_qsl(recipe_query(REQUEST)))) == recipe_values(REQUEST)


@pytest.mark.parametrize(
    "query",
    [
        {"seed": "x"},
        {"unknown": "1"},
        {"num_inference_steps": "1e9"},
        {"seed": "99999999999999999999"},
        {"seed": "9" * 5000},
        {"seed": str(2**53)},
        {"seed": "1_000"},
        {"seed": " 7"},
        {"seed": "7\n"},
        {"seed": "+7"},
        {"seed": "٧"},
        {"seed": "²"},
        {"seed": ""},
        {"guidance_scale": "nan"},
        {"guidance_scale": "inf"},
        {"guidance_scale": "-Infinity"},
        {"guidance_scale": "1e400"},
        {"guidance_scale": "9" * 400},
        {"guidance_scale": "1_0.0"},
        {"guidance_scale": "٧.٥"},
        {"prompt": "\udce4"},
        {"negative_prompt": "a\ud800b"},
        {"scheduler": "no such"},
    ],
)
def test_what_a_link_holds_that_no_form_can_show_fills_nothing(query):
    assert recipe_from_query(query) == {}


_ODD_NUMBERS = st.one_of(
    st.integers().map(str),
    st.integers(0, 10**40).map(lambda n: str(n) * 3),
    st.floats().map(str),
    st.text(alphabet="0123456789+-._eE nafi٧²", max_size=60),
    st.text(),
)


@PROPERTY
@given(st.dictionaries(st.sampled_from([*GenerationRequest.__annotations__, "other"]), _ODD_NUMBERS))
def test_whatever_a_link_holds_the_form_can_show_what_is_read_from_it(query):
    """Gradio sends it with orjson, which takes 64 bits and no lone surrogate, and JavaScript reads it."""
    values = recipe_from_query(query)
    assert orjson.loads(orjson.dumps(values)) == values
    for name, value in values.items():
        assert type(value) is GenerationRequest.__annotations__[name]
        assert isinstance(value, str) or (math.isfinite(value) and abs(value) < 2**53)


@PROPERTY
@given(
    st.builds(
        GenerationRequest,
        prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        negative_prompt=st.text(st.characters(exclude_categories=["Cs"])),
        num_images_per_prompt=st.integers(1, 4),
        num_inference_steps=st.integers(1, 150),
        guidance_scale=st.floats(1, 20),
        seed=st.integers(0, 2**32 - 1),
        width=st.integers(8, 96).map(lambda side: side * 8),
        height=st.integers(8, 96).map(lambda side: side * 8),
        scheduler=st.sampled_from(SCHEDULERS),
    )
)
def test_every_valid_recipe_comes_back_from_its_link(request_):
    assert recipe_from_query(dict(parse_qsl(recipe_query(request_)))) | {
        "negative_prompt": request_.negative_prompt
    } == recipe_values(request_)


def test_the_result_is_plain_json():
    result = GenerationResult("r", (), {"total": 1.23456}, "tail")
    pictures = [SavedPicture(Path("7.png"), 7, Outcome.OK, "", True, True)]
    pictures += [SavedPicture(Path("8.png"), 8, Outcome.WITHHELD, "")]
    described = json.loads(json.dumps(result_json(REQUEST, INFO, pictures, result)))
    assert described["images"] == [
        {"seed": 7, "outcome": "ok", "watermark": True, "credentials": True},
        {"seed": 8, "outcome": "withheld", "watermark": False, "credentials": False},
    ]
    assert described["elapsed_s"] == {"total": 1.2346} and described["truncated_prompt"] == "tail"


def test_each_picture_names_its_device_where_there_are_several():
    pictures = [SavedPicture(Path(f"{seed}.png"), seed, Outcome.OK, "") for seed in (7, 8)]
    result = GenerationResult("r", (), {}, devices=("cuda:0", "cuda:1"))
    images = result_json(REQUEST, INFO, pictures, result)["images"]
    assert [image["device"] for image in images] == ["cuda:0", "cuda:1"]


def test_the_result_holds_the_whole_recipe():
    result = GenerationResult("r", (), {"total": 1.0})
    assert result_json(REQUEST, INFO, [], result)["recipe"] == recipe_values(REQUEST)


def test_no_time_in_the_result_depends_on_who_has_used_the_prompt_before():
    """An encoded prompt is kept for all visitors: the second one to use it waits a hundredth of the time for it."""

    def seconds(encode_s: float) -> dict:
        elapsed_s = {"queue": 0.5, "encode_prompt": encode_s, "denoise": 2.0, "total": 2.5 + encode_s}
        return result_json(REQUEST, INFO, [], GenerationResult("r", (), elapsed_s))["elapsed_s"]

    assert seconds(0.003) == seconds(0.00002) == {"queue": 0.5, "denoise": 2.0, "total": 2.5}


def test_a_recipe_of_noise_alone_says_nothing_of_pictures_and_variations():
    assert set(recipe_values(REQUEST)) == {
        "prompt", "negative_prompt", "num_images_per_prompt", "num_inference_steps", "scheduler", "guidance_scale",
        "seed", "width", "height",
    }  # fmt: skip


def test_every_recipe_says_where_a_picture_came_from_and_none_holds_it():
    request = replace(REQUEST, init_image=SOURCE, mask=MASK, strength=0.5)
    described = result_json(request, INFO, [], GenerationResult("r", (), {}))["recipe"]
    assert described["init_image"] == f"sha256:{SOURCE.sha256}" and described["init_image_seed"] == 4
    assert (described["mask"], described["strength"]) == (f"sha256:{MASK.sha256}", 0.5)
    text, link = parameters_text(request, 7, INFO), dict(parse_qsl(recipe_query(request)))
    assert "Denoising strength: 0.5" in text and "Init image seed: 4" in text
    assert f'Init image hash: "sha256:{SOURCE.sha256}", Mask hash: "sha256:{MASK.sha256}"' in text
    assert link["init_image"] == described["init_image"] and link["init_image_seed"] == "4"
    assert "itself" not in f"{described} {text} {link}"
    assert recipe_from_query(link) == recipe_values(replace(REQUEST)) | {"strength": 0.5}


def test_a_variation_is_written_as_other_tools_read_it():
    request = replace(REQUEST, variation_seed=9, variation_strength=0.25, num_images_per_prompt=2)
    assert "Variation seed: 10, Variation seed strength: 0.25" in parameters_text(request.of_picture(1), 7, INFO)
    pictures = [SavedPicture(Path("7.png"), 7, Outcome.OK, "")] * 2
    images = result_json(request, INFO, pictures, GenerationResult("r", (), {}))["images"]
    assert [(image["seed"], image["variation_seed"]) for image in images] == [(7, 9), (7, 10)]
    assert recipe_from_query(dict(parse_qsl(recipe_query(request)))) == recipe_values(request)
