"""The first screen on a slow network: the document's own, until Gradio's components take its place."""

import gradio as gr
import pytest
from playwright.sync_api import expect

from .test_page import ACCEPT

BOXES = """(prefix) => [...document.querySelectorAll(
    `#${prefix}masthead :is(h1, p), #${prefix}gate, #${prefix}gate :is(h2, li, summary, input, button)`
)].filter((part) => part.checkVisibility()).map((part) => {
    const { x, y, width, height } = part.getBoundingClientRect()
    return [x, y + scrollY, width, height].map((value) => value.toFixed(1)).join(' ')
})"""
SHIFTS = """window.shifts = 0
new PerformanceObserver((list) => list.getEntries().forEach(({ value, hadRecentInput }) => {
    if (!hadRecentInput) window.shifts += value
})).observe({ type: 'layout-shift', buffered: true })"""
MOST_TIMES_A_BARE_PAGE = 1.15


@pytest.fixture
def bare_url():
    """A Gradio page with a text box and a button."""
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Textbox(label="Prompt")
        gr.Button("Go")
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, enable_monitoring=False)
    yield url
    demo.close()


def fetched(browser, url):
    """The bytes that opening the page transfers, by address."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    urls, sizes = {}, {}
    session.on("Network.requestWillBeSent", lambda sent: urls.update({sent["requestId"]: sent["request"]["url"]}))
    session.on("Network.loadingFinished", lambda end: sizes.update({end["requestId"]: end["encodedDataLength"]}))
    session.send("Network.enable")
    page.goto(url)
    page.locator("gradio-app button:visible").first.wait_for()  # not our first screen's, which is there before Gradio
    page.wait_for_load_state("networkidle")
    context.close()
    return {urls[number]: size for number, size in sizes.items()}


def test_what_is_not_shown_before_the_licence_is_accepted_is_not_fetched(browser, ready_server, bare_url):
    own, bare = fetched(browser, ready_server.url), fetched(browser, bare_url)
    assert any("/assets/HTML-" in url for url in own), "it is seen what is fetched"
    assert [url for url in own if any(name in url for name in ("Gallery", "Video", "hls", "markdown", "prism"))] == []
    assert sum(own.values()) <= MOST_TIMES_A_BARE_PAGE * sum(bare.values())


@pytest.fixture
def slow_page(browser, ready_server):
    """A page to which Gradio's scripts come once `page.let_scripts_in` is called."""
    context = browser.new_context(base_url=ready_server.url, viewport={"width": 390, "height": 844}, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    scripts = "**/assets/*.js"
    page.hold_scripts = lambda: page.route(scripts, lambda route: None)
    page.let_scripts_in = lambda: page.unroute(scripts)  # lets those go on that were held
    page.errors, page.posts = [], []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.posts.append(request.url) if request.method == "POST" else None)
    page.add_init_script(SHIFTS)
    page.hold_scripts()
    page.goto("/", wait_until="commit")
    yield page
    assert page.errors == []
    context.close()


def test_the_gate_stands_before_gradios_scripts_have_come_and_what_is_done_on_it_holds(slow_page):
    page = slow_page
    agree = page.get_by_role("checkbox", name="I have read the licence and accept it")
    accept = page.get_by_role("button", name=ACCEPT)
    expect(agree).to_be_in_viewport()
    expect(accept).to_be_disabled()
    before = page.evaluate(BOXES, "first-")
    page.get_by_text("eleven use restrictions").click()
    agree.press("Space")
    page.let_scripts_in()
    page.locator("#accept").wait_for()
    expect(page.locator("#first-screen")).to_have_count(0)
    expect(agree).to_be_checked()
    expect(agree).to_be_focused()
    expect(accept).to_be_enabled()
    expect(page.get_by_text("Never exploit or harm minors")).to_be_visible()
    page.get_by_text("eleven use restrictions").click()
    assert page.evaluate(BOXES, "") == before, "nothing moves"
    page.locator(".banner").wait_for()
    assert page.evaluate("window.shifts") < 0.05


def test_the_focus_of_its_button_goes_to_the_one_in_its_place_and_a_key_pressed_then_counts(slow_page):
    page = slow_page
    accept = page.get_by_role("button", name=ACCEPT)
    page.get_by_role("checkbox").check()
    accept.focus()
    page.let_scripts_in()
    expect(page.locator("#first-screen")).to_have_count(0)
    expect(accept).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()


def test_a_press_before_gradios_scripts_have_come_reaches_the_server_when_they_are_there(slow_page):
    page = slow_page
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name=ACCEPT).click()
    expect(page.get_by_role("button", name="One moment…")).to_be_disabled()
    assert page.posts == [] and page.evaluate("localStorage.length") == 0, "the server decides"
    page.let_scripts_in()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_be_focused()

    page.wait_for_function("localStorage['sd_space.token']")
    page.hold_scripts()
    page.reload(wait_until="commit")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_role("checkbox")).to_have_count(0)
    page.let_scripts_in()
    expect(prompt).to_be_visible()
