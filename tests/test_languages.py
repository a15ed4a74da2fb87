"""The languages of the page: each text of ours in each table, and nothing in them that would not be text."""

import ast
import copy
import pickle
import re
import string
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from sd_space.card import load_card
from sd_space.errors import InvalidRequest
from sd_space.languages import ENGLISH, Phrase, language_for, said, speaking, tables, translate
from sd_space.request import labelled
from sd_space.serving.callers import PAGE_USER, USER_HEADER, language_of
from sd_space.serving.gate import licence_digest
from sd_space.ui.assets import script_texts
from sd_space.ui.limitations import LIMITATIONS

PACKAGE = Path(__file__).parent.parent / "sd_space"
_CALLS = {"Phrase", "translate"}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def is_text(template: str) -> bool:
    """Whether it has letters outside of its placeholders."""
    return any(c.isalpha() for words, *_ in string.Formatter().parse(template) for c in words)


def asked_for() -> set[str]:
    """Every text that the code gives to `translate` or makes a `Phrase` of, in Python and in the page's scripts."""
    texts = {text for one in LIMITATIONS for text in (one.title, one.look_at, one.why)} | script_texts()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _CALLS and node.args:
                texts |= {text for text in constants(node.args[0]) if is_text(text)}
    return texts


def constants(given: ast.expr) -> list[str]:
    if isinstance(given, ast.IfExp):
        return constants(given.body) + constants(given.orelse)
    return [given.value] if isinstance(given, ast.Constant) else []


@pytest.mark.parametrize("language", tables())
def test_a_table_has_each_text_of_ours_and_no_other(language):
    assert tables()[language].keys() == asked_for()


@pytest.mark.parametrize("language", tables())
def test_a_translation_has_the_placeholders_of_its_text_and_no_markup(language):
    for text, words in tables()[language].items():
        assert words.strip() and placeholders(words) == placeholders(text), text
        assert words[0].isspace() == text[0].isspace() and not set(words) & set('"&\\'), text
        assert "<" not in words or "<" in text, text


@pytest.mark.parametrize("language", tables())
def test_the_scripts_can_tell_a_variation_from_a_seed_that_a_picture_started_from(language):
    variation = re.compile(r", \w+ \{seed\}")  # as in viewer.js
    assert variation.fullmatch(tables()[language][", variation {seed}"])
    assert not variation.fullmatch(tables()[language][", from seed {seed}"])


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr-FR, es-MX;q=0.5, en;q=0.4", "es"),
        ("en;q=0.5, ES", "es"),
        ("en-GB,de;q=0.9", "en"),
        ("de;q=0, fr", "en"),
        ("*", "en"),
        ("de;q=nonsense;", "en"),
        ("en;q=0.3, de ; q=0.8", "de"),
        ("en;Q=0.3,\tes;Q=0.8", "es"),
        ("de;q=0.5,fr;q=nan,en;q=0.9,xx;q=nan,es;q=1.0", "es"),
        ("en, de;q=inf, es;q=9", "en"),
        ("", "en"),
    ],
)
def test_the_language_is_that_which_the_browser_likes_best(accepted, language):
    assert language_for({"accept-language": accepted}) == language
    assert language_for({}) == ENGLISH


def test_programs_are_answered_in_english_whatever_they_accept():
    accepted = {"accept-language": "de"}
    assert language_of(Headers(accepted)) == ENGLISH
    assert language_of(Headers(accepted | {USER_HEADER: "api"})) == ENGLISH
    assert language_of(Headers(accepted | {USER_HEADER: PAGE_USER})) == "de"


def test_a_phrase_is_english_until_it_is_translated_wherever_it_has_been():
    phrase = Phrase("{name} must be text, not {value}.", name=Phrase("Mask"), value=Phrase("nothing"))
    for same in (phrase, pickle.loads(pickle.dumps(phrase)), copy.deepcopy(phrase)):
        assert same == "Mask must be text, not nothing."
        with speaking("de"):
            assert translate(same) == "Maske muss Text sein, nicht nichts."
    assert translate(phrase) == phrase


def test_nobodys_own_words_are_translated_or_read_as_a_template():
    with speaking("de"):
        assert said("Steps") == "Steps" and said(Phrase("Steps")) == "Schritte"
        assert translate("Copy the lines for {name}", name="Steps {seed}") == "Die Zeilen für Steps {seed} kopieren"


def test_an_error_that_has_travelled_is_read_in_the_visitors_language_with_the_fields_label():
    sentence = Phrase("{name} must be text, not {value}.", name="mask", value=Phrase("nothing"))
    error = pickle.loads(pickle.dumps(InvalidRequest("mask", sentence)))
    assert str(error) == "mask must be text, not nothing." and labelled(error) == "Mask must be text, not nothing."
    with speaking("es"):
        assert translate(labelled(error)) == "Máscara: debe ser texto, no nada."


def test_what_is_accepted_is_the_same_in_every_language():
    digests = set()
    for language in (ENGLISH, *tables()):
        with speaking(language):
            digests.add(licence_digest(load_card()))
    assert len(digests) == 1


@pytest.mark.served
def test_the_document_is_in_the_visitors_language_and_the_api_in_english(ready_server):
    for language, words in {
        "de": "Zustimmen und weiter",
        "es": "Aceptar y continuar",
        "fr": "Accept and continue",
    }.items():
        answer = ready_server.get("/", headers={"Accept-Language": language})
        assert words in answer.text and "Accept-Language" in answer.headers["vary"]
        assert f'lang="{language if language in tables() else ENGLISH}"' in answer.text
    call = f"{ready_server.url}/gradio_api/call/accept_license"
    german = {"Accept-Language": "de"}
    event = httpx.post(call, json={"data": [False]}, headers=german).json()["event_id"]
    assert "agree must be true" in httpx.get(f"{call}/{event}", headers=german).text
    assert "Accept and continue" in ready_server.get("/config", headers=german).text
