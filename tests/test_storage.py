import json

import pytest

from sd_space.ui.storage import DRAFT, RUN, TOKEN, recall_js, remember_js


def test_what_is_remembered_is_recalled():
    recall = recall_js(TOKEN, RUN, DRAFT)
    for area, name in (TOKEN, RUN, DRAFT):
        assert f'get("{area}", "sd_space.{name}")' in recall
        assert f'window["{area}"].setItem("sd_space.{name}", value' in remember_js((area, name))


def test_without_the_acceptance_what_else_was_stored_is_removed():
    recall = recall_js(TOKEN, RUN, DRAFT)
    assert 'window["localStorage"].removeItem("sd_space.run")' in recall
    assert 'window["sessionStorage"].removeItem("sd_space.draft")' in recall
    assert 'removeItem("sd_space.token")' not in recall


def test_only_the_draft_belongs_to_its_tab():
    assert [area for area, _ in (TOKEN, RUN, DRAFT)] == ["localStorage", "localStorage", "sessionStorage"]


@pytest.mark.parametrize("name", ["it's", 'a "name"', "a\\b", "a\nb"])
def test_a_name_stays_a_text_whatever_is_in_it(name):
    assert json.dumps(f"sd_space.{name}") in remember_js(("localStorage", name))
    assert json.dumps(f"sd_space.{name}") in recall_js(("localStorage", name))
