import json

import pytest

from sd_space.card import load_card
from sd_space.request import MAX_PROMPT_CHARS
from sd_space.serving.gate import Gate
from sd_space.ui.storage import DRAFT, RUN, TOKEN, Item, recall_js, remember_js

from .test_schema import INFO

ITEMS = (TOKEN, RUN, DRAFT)


def test_what_is_remembered_is_recalled():
    recall = recall_js(*ITEMS)
    for item in ITEMS:
        assert f'get("{item.area}", "sd_space.{item.name}", {item.max_chars})' in recall
        assert f'("{item.area}", "sd_space.{item.name}", value' in remember_js(item)


def test_without_the_acceptance_what_else_was_stored_is_removed():
    recall = recall_js(*ITEMS)
    assert 'remove("localStorage", "sd_space.run")' in recall
    assert 'remove("sessionStorage", "sd_space.draft")' in recall
    assert 'remove("localStorage", "sd_space.token")' not in recall


def test_only_the_draft_belongs_to_its_tab():
    assert [item.area for item in ITEMS] == ["localStorage", "localStorage", "sessionStorage"]


def test_nothing_that_the_page_stores_itself_is_too_long():
    gate = Gate(load_card(), "secret", 3600, now_s=lambda: 9_999_999_999.0)
    assert 2 * len(gate.issue_token(True)) <= TOKEN.max_chars
    assert len(gate.admit(gate.issue_token(True), {"prompt": "a cat"}, INFO).request_id) <= RUN.max_chars
    assert len(("\N{CAT FACE}" * MAX_PROMPT_CHARS).encode("utf-16-le")) // 2 <= DRAFT.max_chars


@pytest.mark.parametrize("name", ["it's", 'a "name"', "a\\b", "a\nb"])
def test_a_name_stays_a_text_whatever_is_in_it(name):
    item = Item("localStorage", name, 9)
    assert json.dumps(f"sd_space.{name}") in remember_js(item)
    assert json.dumps(f"sd_space.{name}") in recall_js(item)
