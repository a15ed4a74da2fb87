"""The bias grid on the page, and its harmless twin."""

from collections import Counter
from dataclasses import replace

import pytest

from sd_space.schema import Outcome
from sd_space.tools.train_tiny.renderer import NATURAL
from sd_space.ui.bias import PICTURE_BOOK, SEEDS, WORDS, prompt_of, words_in

from .fakes import FakeBackend
from .test_experiments import PICTURES, STATUS, captions
from .test_schema import INFO
from .window import Host, play


def backend_of(is_picture_book: bool, **script) -> FakeBackend:
    backend = FakeBackend(**script)
    backend.info = replace(INFO, is_picture_book=is_picture_book)
    backend.proceed.set()
    return backend


def test_the_twins_frequencies_are_those_of_its_training_world():
    assert {subject: list(colours) for subject, colours in PICTURE_BOOK.items()} == {
        subject: NATURAL[subject] for subject in PICTURE_BOOK
    }


def test_the_words_stand_in_a_fixed_template():
    assert prompt_of("nurse", False) == "a photo of the face of a nurse"
    assert prompt_of("attractive person", False) == "a photo of the face of an attractive person"
    assert prompt_of("insect", True) == "an insect" and len(WORDS) == 20
    assert words_in(["a robot", "a cat", "a robot"], True) == ["robot", "cat"] and words_in(["a robot"], True) == []


@pytest.mark.parametrize(("is_picture_book", "words"), [(False, list(WORDS[:8])), (True, ["robot", "cat"])])
def test_each_word_has_the_same_four_seeds_in_strips_one_after_the_other(tmp_path, is_picture_book, words):
    async def scene(host: Host):
        window = await host.visitor()
        await window.do("select", "experiments")
        assert ("what colour is a robot" in window["bias-introduction"]) == is_picture_book
        assert ("2211.03759" in window["bias-introduction"]) != is_picture_book
        assert len(window["bias-words"]) == 2
        window["bias-words"] = ", ".join(words)  # as the page's script sends them
        await window.do("select", "experiments")
        assert window["bias-words"] == words, "a choice stays"
        window["bias-words"] = ", ".join(words)
        places = []
        async for _ in window.follow("click", "draw-words"):
            places.append(len(host.capacity))
        assert max(places) <= 1, "a strip at a time"
        drawn = Counter(admitted.request.prompt for admitted in host.backend.started)
        assert set(drawn.values()) == {4} and len(drawn) == len(words)
        assert {admitted.priority for admitted in host.backend.started} == {1}, "after everybody else's"
        assert [admitted.request.seed for admitted in host.backend.started] == sorted(SEEDS * len(words))
        assert captions(window) == [f"Seed {seed}" for seed in SEEDS] * len(words)
        assert window[PICTURES].count("<h3>") == len(words) and "What to count" in window[PICTURES]
        assert ("robot: red 25%, blue 25%, white 25%, orange 25%" in window[PICTURES]) == is_picture_book

    play(tmp_path, scene, backend_of(is_picture_book))


def test_withheld_pictures_are_counted(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["bias-words"] = "CEO, nurse"
        await window.do("click", "draw-words")
        assert "The safety checker held back 8 of 8" in window[STATUS]

    play(tmp_path, scene, backend_of(False, outcomes=(Outcome.WITHHELD,)))


@pytest.mark.parametrize(
    "words", ["nurse", "nurse, nurse", "nurse, Jane Doe", ", ".join(WORDS[:9]), ["CEO", "nurse"], None]
)
def test_other_words_and_too_few_or_too_many_are_refused(tmp_path, words):
    async def scene(host: Host):
        window = await host.visitor()
        window["bias-words"] = words
        await window.do("click", "draw-words")
        assert "words must be 2 to 8 of those on the list" in window[STATUS] and not host.backend.started

    play(tmp_path, scene, backend_of(False))


def test_a_grid_that_is_stopped_draws_no_further_seed(tmp_path):
    backend = backend_of(False)
    backend.proceed.clear()

    async def scene(host: Host):
        window = await host.visitor()
        window["bias-words"] = "CEO, nurse"
        async for _ in window.follow("click", "draw-words"):
            if "data-drawing" in window[PICTURES]:
                await window.do("click", "stop-experiment")
        assert {admitted.request.seed for admitted in backend.started} == {1} and len(host.capacity) == 0

    play(tmp_path, scene, backend)
