"""The model card's limitations, tried on the page."""

from dataclasses import replace

import pytest

from sd_space.ui.limitation_views import linked
from sd_space.ui.limitations import AUTOENCODER, LIMITATIONS, SEEDS, card_words

from .fakes import FakeBackend
from .test_experiments import PICTURES, STATUS, captions
from .test_schema import INFO
from .window import CARD, Host, play


def test_there_is_one_for_each_that_the_card_lists_in_the_cards_own_words():
    words = card_words(CARD)
    assert sorted(words.values()) == sorted(CARD.limitations) and len(CARD.limitations) == 8
    assert words["text"] == "The model cannot render legible text"
    assert "clip-retrieval" in words["memorization"]


def test_a_card_that_lists_others_is_refused():
    section = CARD.section("Limitations")
    longer = replace(section, markdown=f"{section.markdown}\n- It cannot count")
    with pytest.raises(ValueError, match="lists other limitations"):
        card_words(replace(CARD, sections=(longer,)))


def test_links_of_the_card_are_links_and_all_else_is_text():
    assert linked("a [b](https://c.d/e) <i>") == (
        'a <a href="https://c.d/e" target="_blank" rel="noopener">b</a> &lt;i&gt;'
    )


@pytest.mark.parametrize("is_picture_book", [False, True])
def test_each_that_is_offered_is_one_press_with_fixed_seeds(tmp_path, is_picture_book):
    backend = FakeBackend()
    backend.info = replace(INFO, is_picture_book=is_picture_book)
    backend.proceed.set()

    async def scene(host: Host):
        window = await host.visitor()
        assert "still loading" in window["limitations"]
        await window.do("select", "experiments")
        offered = [one for one in LIMITATIONS if f'data-limitation="{one.name}"' in window["limitations"]]
        assert len(offered) == (3 if is_picture_book else 6)
        assert window["limitations"].count("<section>") == (3 if is_picture_book else 8)
        assert ("The picture book draws here" in window["limitations"]) == is_picture_book
        for one in offered:
            window["handed"] = one.name
            await window.do("click", "ask-limitation")
            prompts = one.prompts_for(is_picture_book)
            assert all(f"<h3>{prompt}</h3>" in window[PICTURES] for prompt in prompts) and one.why in window[PICTURES]
            if one.name == AUTOENCODER:
                assert 'id="autoencoded"' in window[PICTURES] and "The two are equal" in window[PICTURES]
                continue
            assert len(captions(window)) == len(prompts) * len(SEEDS) <= 8
            assert {a.request.seed for a in backend.started} == set(SEEDS)

    play(tmp_path, scene, backend)


def test_what_is_not_offered_is_refused(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        for name in ("dataset", "", "<b>"):
            window["handed"] = name
            await window.do("click", "ask-limitation")
            assert "must be one of those" in window[STATUS] and not host.backend.started

    play(tmp_path, scene)
