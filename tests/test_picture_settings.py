"""Settings out of a picture's text: ours come back whole, other tools' as far as the model can follow."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sd_space.request import REQUEST_FIELDS, GenerationRequest
from sd_space.served_model import Limits
from sd_space.serving.picture_settings import MAX_CHARS, read_settings
from sd_space.serving.recipe import parameters_text

from .test_schema import INFO

V1_4_LIMITS = Limits(min_size=256, max_size=768)
A1111 = """a red cube,
on a blue sphere
Negative prompt: blurry,
low quality
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 4294967295, Size: 512x640, \
Model hash: fe4efff1e1, Model: sd-v1-4, Version: v1.10.1"""


def remarks_of(text: str) -> str:
    read = read_settings(text, V1_4_LIMITS, INFO)
    return " ".join(read.remarks)


@pytest.mark.parametrize("scheduler", INFO.limits.schedulers)
def test_what_our_pictures_carry_comes_back_without_a_remark(scheduler):
    values = {"prompt": "Steps: 9, a cat\n and a hill", "negative_prompt": 'a "dog", Seed: 1', "scheduler": scheduler}
    request = GenerationRequest.parse(values | {"num_images_per_prompt": 2, "guidance_scale": 2.5}, INFO, 7)
    read = read_settings(parameters_text(request, request.seeds[1], INFO), INFO.limits, INFO)
    assert read.remarks == ()
    asked = GenerationRequest.parse(read.values | {"num_images_per_prompt": 2}, INFO, 0)
    assert asked == replace(request, seed=8)


def test_a_picture_of_other_weights_of_the_same_model_will_look_different():
    old, new = (replace(INFO, revision=letter * 40) for letter in "ab")
    request = GenerationRequest.parse({"prompt": "a cat"}, INFO, 7)
    for made_with in (old, replace(INFO, revision=None)):
        (remark,) = read_settings(parameters_text(request, 7, made_with), INFO.limits, new).remarks
        assert str(remark) == "The picture was made with another version of Picture book, so yours will look different."
    assert not read_settings(parameters_text(request, 7, new), INFO.limits, new).remarks
    assert not read_settings(parameters_text(request, 7, new), INFO.limits, INFO).remarks, "its version is not known"


def test_another_tools_text_on_several_lines_fills_the_form():
    read = read_settings(A1111 + "\nTemplate: __colour__ cube", V1_4_LIMITS, None)
    assert read.remarks == ()
    assert read.values == {
        "prompt": "a red cube, on a blue sphere", "negative_prompt": "blurry, low quality", "num_inference_steps": 20,
        "scheduler": "DPM++ 2M Karras", "guidance_scale": 7.0, "seed": 4294967295, "width": 512, "height": 640,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "field", "remark"),
    [
        ("Steps: 20", "Steps: 900", "num_inference_steps", "Steps must be a whole number from 1 to 150, not 900."),
        ("DPM++ 2M", "DPM++ SDE", "scheduler", "Noise scheduler must be one of PNDM,"),
        ("scale: 7", "scale: 70.5", "guidance_scale", "Guidance scale must be a number from 1 to 20, not 70.5."),
        ("512x640", "512x2048", "width", "Height must be a whole number from 256 to 768 pixels, not 2048."),
        ("Seed: 4", "Seed: x4", "seed", "Seed must be"),
        ("a red cube", "a" * 1001, "prompt", "Prompt must be at most 1000 characters long"),
        ("Version", "Clip skip: 2, Hires upscale: 2, Version", None, "has no setting for: Clip skip, Hires upscale."),
        ("Version", "Denoising strength: 0.5, Version", None, "has no setting for: Denoising strength."),
        ("Version", "Init image hash: sha256:ab, Version", None, "not inside; choose that as well"),
        ("a red cube", "a <lora:x:1> cube", None, "not loaded here"),
        ("a red cube", "a (red:1.3) cube", None, "(word:1.3)"),
        ("Model: sd-v1-4", "Model: dreamer", None, "made with dreamer"),
    ],
)
def test_what_the_model_cannot_do_is_said_and_the_form_keeps_its_own(before, after, field, remark):
    assert A1111.count(before) == 1
    text = A1111.replace(before, after)
    assert remark in remarks_of(text)
    values = read_settings(text, V1_4_LIMITS, INFO).values
    assert field not in values and "negative_prompt" in values


def test_what_only_changed_pictures_and_variations_have_is_read_of_those():
    pairs = "Init image hash: ab, Denoising strength: 0.4, Variation seed: 9, Variation seed strength: 0.15, Version"
    values = read_settings(A1111.replace("Version", pairs), V1_4_LIMITS, INFO).values
    assert {name: values[name] for name in values if REQUEST_FIELDS[name].used_with} == {
        "strength": 0.4, "variation_seed": 9, "variation_strength": 0.15,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "a cat", "Steps: many, Seed: 3", "a cat\nSteps: 3" + " " * MAX_CHARS])
def test_words_are_not_taken_for_settings(text):
    assert read_settings(text, V1_4_LIMITS, INFO) is None


@settings(derandomize=True, database=None, deadline=1000)
@given(st.text(st.sampled_from('aS:,"\\\n 1x(<é\ud800')), st.text())
def test_no_text_makes_reading_fail(head, tail):
    read_settings(f"{head}\nSteps: 2, Sampler: {tail}, Seed: {head}, Size: {tail}", V1_4_LIMITS, INFO)
