"""The scripts that keep things in the browser, run on an empty page: no server is needed."""

import pytest

from sd_space.ui.storage import DRAFT, RUN, TOKEN, recall_js, remember_js

ITEMS = (TOKEN, RUN, DRAFT)


@pytest.fixture
def page(browser):
    context = browser.new_context()
    context.route("**/*", lambda route: route.fulfill(body="<p>", content_type="text/html"))
    page = context.new_page()
    page.goto("http://page.test/")
    yield page
    context.close()


def remember(page, *values: str) -> None:
    for item, value in zip(ITEMS, values, strict=True):
        page.evaluate(remember_js(item), value)


def test_what_is_remembered_is_there_after_a_reload(page):
    remember(page, "t", "r", "a cat")
    page.reload()
    assert page.evaluate(recall_js(*ITEMS)) == ["t", "r", "a cat"]


def test_without_an_acceptance_nothing_is_recalled_then_or_later(page):
    """A tab that slept while the acceptance was withdrawn in another one, and is reloaded."""
    remember(page, "", "r", "a secret garden")
    assert page.evaluate(recall_js(*ITEMS)) == ["", "", ""]
    page.evaluate(remember_js(TOKEN), "another's")
    assert page.evaluate(recall_js(*ITEMS)) == ["another's", "", ""]


def test_a_frame_without_storage_recalls_nothing(page):
    page.set_content('<iframe sandbox="allow-scripts" srcdoc="<p>"></iframe>')
    frame = page.frames[1]
    frame.evaluate(remember_js(TOKEN), "t")
    assert frame.evaluate(recall_js(*ITEMS)) == ["", "", ""]
