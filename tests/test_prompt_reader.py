"""How much of a prompt is read, said without the model and as the model's own side says it."""

import pytest

from sd_space.engine.denoiser import Denoiser
from sd_space.serving.prompt_reader import PromptReader, is_mostly_latin

from .tiny_models import make_request

LONG = "a small cabin on top of a snowy mountain, artstation, " * 9


@pytest.fixture
def reader(loaded):
    served = loaded.prompt_tokenizer()
    return PromptReader(lambda: served)


def test_a_prompt_that_is_read_whole_ignores_nothing(reader):
    reading = reader.read("  a cat\n on a   hill ")
    assert reading.num_tokens <= reading.max_tokens == 75 and reading.ignored == ""


@pytest.mark.parametrize(
    "prompt", [LONG, "Ünïcode Café, " * 30, "猫在海滩上" * 30, "1234567890 !?. " * 20, "\U0001f3d4\ud800 " * 90]
)
def test_the_words_that_are_ignored_are_those_that_the_model_does_not_see(loaded, reader, prompt):
    reading = reader.read(prompt)
    prompt = prompt.encode("utf-8", "replace").decode()
    truncated = Denoiser(loaded.pipeline).encode_prompt(make_request(prompt=" ".join(prompt.split()))).truncated
    assert reading.num_tokens > reading.max_tokens
    ignored, unseen = ("".join(text.lower().split()) for text in (reading.ignored, truncated))
    whole = unseen.lstrip("\ufffd")  # without the rest of a letter of several tokens
    assert whole and ignored.endswith(whole) and len(ignored) - len(whole) <= 1


def test_before_a_model_is_ready_nothing_is_said():
    assert PromptReader(lambda: None).read(LONG) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a cat", True), ("", True), ("123 !", True), ("Ein Würfel über Zürich", True), ("猫 在 海滩 上", False),
     ("кот на пляже, photo", False), ("a poster that says 猫", True)],
)  # fmt: skip
def test_what_is_mostly_written_in_other_letters_is_noticed(text, expected):
    assert is_mostly_latin(text) is expected
