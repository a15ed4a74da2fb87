"""A picture's recipe in its PNG, as we read it back and as other tools do."""

import io
import json
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sd_space.request import GenerationRequest
from sd_space.serving import infotext
from sd_space.serving.png_text import png_chunks
from sd_space.serving.recipe import parameters_text

from .test_schema import INFO

REQUEST = GenerationRequest.parse(
    {"prompt": "a cabin, snow", "negative_prompt": "people", "seed": 7, "guidance_scale": 2.5}, INFO, 0
)
PROPERTY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def as_other_tools_read(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and pairs, the way most tools go: by lines, and by the names at their beginnings."""
    *lines, last = text.strip().split("\n")
    prompt, negative_prompt, is_negative = [], [], False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            line, is_negative = line[16:].strip(), True
        (negative_prompt if is_negative else prompt).append(line)
    pairs = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    values = {name: json.loads(value) if value[:1] == value[-1:] == '"' else value for name, value in pairs}
    return "\n".join(prompt), "\n".join(negative_prompt), values


def as_the_tokenizer_reads(text: str) -> list[str]:
    """CLIP's way to take a text apart before its pieces are looked up: words, digits, other signs."""
    return re.findall(r"[^\W\d_]+|\d|[^\s\w]+|_+", text)


def test_a_plain_recipe_is_written_plainly():
    assert parameters_text(REQUEST, 7, INFO) == (
        "a cabin, snow\nNegative prompt: people\n"
        "Steps: 20, Sampler: PLMS, CFG scale: 2.5, Seed: 7, Size: 128x128, Model: picture-book"
    )


def test_revision_and_turbo_are_part_of_the_recipe():
    assert "Model hash: 133a221b8a" in parameters_text(REQUEST, 7, replace(INFO, revision="133a221b8aa7292a"))
    assert parameters_text(REQUEST, 7, replace(INFO, turbo=True)).endswith(", Turbo: on")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("plain v1.4", "plain v1.4"),
        ("one, two", '"one, two"'),
        ("c:/models/sd", '"c:/models/sd"'),
        ('the "best"', r'"the \"best\""'),
        ("two\nlines", r'"two\nlines"'),
        (" blank", '" blank"'),
        ("größer", "größer"),
    ],
)
def test_values_are_quoted_as_other_tools_quote_them(name, written):
    text = parameters_text(REQUEST, 7, replace(INFO, model=name))
    assert f", Model: {written}" in text and text.endswith(written)
    assert as_other_tools_read(text)[2]["Model"] == name
    assert infotext.read(text)[2]["Model"] == name


@pytest.mark.parametrize(
    "prompt",
    [
        "Negative prompt: a cat",
        "a dog, Negative prompt: a cat, Steps: 3, Seed: 1",
        "Steps: 20, Sampler: Euler, Seed: 9, Size: 64x64",
        "negative prompt:, STEPS:",
    ],
)
def test_a_prompt_that_looks_like_the_rest_is_distinguished_from_it(prompt):
    text = parameters_text(replace(REQUEST, prompt=prompt, negative_prompt=prompt), 7, INFO)
    assert len(re.findall(r"(?i)negative prompt:", text)) == len(re.findall(r"(?i)steps:", text)) == 1
    read, negative, values = as_other_tools_read(text)
    assert as_the_tokenizer_reads(read) == as_the_tokenizer_reads(negative) == as_the_tokenizer_reads(prompt)
    assert (values["Steps"], values["Seed"]) == ("20", "7")
    assert infotext.read(text)[:2] == (prompt, prompt)


@PROPERTY
@given(st.text(), st.text(), st.dictionaries(st.sampled_from(["Model", "Model hash", "Sampler"]), st.text()))
def test_whatever_is_written_is_read_back_exactly(prompt, negative_prompt, values):
    text = infotext.write(prompt, negative_prompt, {"Steps": 20} | values)
    assert infotext.read(text) == (prompt, negative_prompt, {"Steps": "20"} | values)
    text.encode("utf-8")


_VALID = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(lambda text: " ".join(text.split()))


@PROPERTY
@given(_VALID, _VALID, st.text(min_size=1))
def test_other_tools_read_words_and_values_back(prompt, negative_prompt, model):
    request = replace(REQUEST, prompt=prompt, negative_prompt=negative_prompt)
    read, negative, values = as_other_tools_read(parameters_text(request, 7, replace(INFO, model=model)))
    assert as_the_tokenizer_reads(read) == as_the_tokenizer_reads(prompt)
    assert as_the_tokenizer_reads(negative) == as_the_tokenizer_reads(negative_prompt)
    assert values["Model"] == model and values["Seed"] == "7"


@pytest.mark.parametrize("title", ["Bücherei", "bad \udcff name", "日本"])
def test_whatever_a_models_folder_is_called_a_png_can_say_it(title):
    info = replace(INFO, title=title, model=title)
    chunks = png_chunks(info, parameters_text(REQUEST, 7, info))
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=chunks)
    with Image.open(file) as image:
        assert image.text["Source"].startswith("AI-generated with ")
        assert infotext.read(image.text["parameters"])[2]["Model"] == title
