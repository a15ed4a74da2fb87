"""The scripts that keep things in the browser, run on an empty page: no server is needed."""

import pytest

from sd_space.ui.assets import head, script
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


@pytest.mark.parametrize("index", range(3))
def test_what_is_longer_than_it_can_be_is_dropped(page, index):
    values = ["t", "r", "a cat"]
    too_long = [values[k] if k != index else "x" * (ITEMS[index].max_chars + 1) for k in range(3)]
    remember(page, *too_long)
    left = [value if k != index and index != 0 else "" for k, value in enumerate(values)]  # the token owns the others
    assert page.evaluate(recall_js(*ITEMS)) == left
    assert page.evaluate("(key) => localStorage.getItem(key)", f"sd_space.{ITEMS[index].name}") is None


KEPT = """() => new Promise((resolve) => {
    const opening = indexedDB.open('sd_space', 1)
    opening.onupgradeneeded = () => opening.result.createObjectStore('copies', { keyPath: 'key' })
    opening.onsuccess = () => {
        const copies = opening.result.transaction('copies', 'readwrite').objectStore('copies')
        if (!window.isFilled) copies.put({ key: 'a picture', run: 'r', at: 1 })
        window.isFilled = true
        const counting = copies.count()
        counting.onsuccess = () => { opening.result.close(); resolve(counting.result) }
    }
})"""


@pytest.mark.parametrize(("token", "has_history", "left"), [("t", True, 1), ("t", False, 0), ("", True, 0)])
def test_copies_of_pictures_are_deleted_where_none_are_to_be_kept_any_more(page, token, has_history, left):
    """The setting may have changed since, or the acceptance be withdrawn in another tab."""
    remember(page, token, "r", "")
    assert page.evaluate(KEPT) == 1
    page.evaluate("(head) => document.head.append(document.createRange().createContextualFragment(head))", head())
    page.evaluate(f"({script(has_history)})()")
    page.wait_for_function(f"async (left) => await ({KEPT})() === left", arg=left)


def test_a_frame_without_storage_recalls_nothing(page):
    page.set_content('<iframe sandbox="allow-scripts" srcdoc="<p>"></iframe>')
    frame = page.frames[1]
    frame.evaluate(remember_js(TOKEN), "t")
    assert frame.evaluate(recall_js(*ITEMS)) == ["", "", ""]
