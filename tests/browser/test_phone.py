"""A visitor's whole story on a phone, by eye, finger and ear: each state is looked at by axe-core."""

import re

from playwright.sync_api import Page, expect

from ..generated import taking_turns
from .axe import violations
from .test_earlier import NUM_COPIES
from .test_page import ACCEPT, finished_pictures, generate, open_options, reload

# What is spoken, and how many tones are played.
LISTEN = """window.spoken = []
window.tones = 0
new MutationObserver(() => {
    const words = document.getElementById('announcer')?.textContent
    if (words && words !== window.spoken.at(-1)) window.spoken.push(words)
}).observe(document, { childList: true, subtree: true, characterData: true })
const start = AudioScheduledSourceNode.prototype.start
AudioScheduledSourceNode.prototype.start = function (...when) { window.tones += 1; start.apply(this, when) }"""


def swipe(page: Page, selector: str, by: int) -> None:
    """One finger, sideways over the middle of an element."""
    box = page.locator(selector).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)
    for kind, points in (("touchStart", [(x, y)]), ("touchMove", [(x + by, y)]), ("touchEnd", [])):
        touched = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})


def clipboard(page: Page) -> str:
    expect(page.locator("#announcer")).to_have_text("Copied.")
    expect(page.locator("#toast")).to_be_visible()
    return page.evaluate("navigator.clipboard.readText()")


@taking_turns(0)
def test_a_whole_visit_on_a_phone(browser, ready_server):
    context = browser.new_context(
        base_url=ready_server.url,
        viewport={"width": 390, "height": 844},
        is_mobile=True,
        has_touch=True,
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(LISTEN)
    page.goto("/")
    status, prompt = page.locator("#status"), page.get_by_label("Prompt", exact=True)
    wrong: dict[str, list[str]] = {}

    def look(state: str) -> None:
        wrong[state] = violations(page)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{state} scrolls sideways"

    page.get_by_role("heading", name="What is screened").wait_for()
    look("the gate")
    page.get_by_role("checkbox", name="I have read the licence and accept it").check()
    page.get_by_role("button", name=ACCEPT).tap()
    prompt.wait_for()
    look("the workspace")
    page.get_by_role("button", name="Generate").tap()
    expect(page.get_by_role("alert")).to_contain_text("Prompt must not be empty")
    expect(prompt).to_be_focused()
    look("a refusal")

    steps = open_options(page)
    look("the options")
    page.get_by_label("Play a sound").check()
    steps.fill("40")
    page.wait_for_function("window.tones === 2")
    page.evaluate("window.spoken.length = 0")
    generate(page, "a small cabin")
    page.locator("#waiting .mosaic").first.wait_for()
    look("a run")
    expect(finished_pictures(page)).to_have_count(4)
    expect(status).to_contain_text("4 pictures in")
    page.wait_for_function("document.title.startsWith('✓ 4 pictures') && window.tones === 4")
    spoken = page.evaluate("window.spoken")
    assert 5 <= len(spoken) <= 15 and "on their way" in spoken[0] and "4 pictures in" in spoken[-1], spoken
    look("pictures")

    finished_pictures(page).nth(1).tap()
    opened = page.locator("#gallery .preview")
    selected = opened.locator(".thumbnail-item.selected")
    expect(selected).to_have_attribute("aria-label", "Thumbnail 2 of 4")
    buttons = page.locator("#picture-actions > *:visible, #gallery .preview .icon-button:visible").all()
    boxes = [button.bounding_box() for button in buttons]
    assert len(boxes) > 4 and all(min(box["width"], box["height"]) >= 44 for box in boxes)
    look("an opened picture")
    swipe(page, "#gallery .preview .media-button", -120)
    expect(selected).to_have_attribute("aria-label", "Thumbnail 3 of 4")
    seed = opened.locator(".caption").inner_text().split()[-1]
    page.get_by_role("button", name="Copy seed").tap()
    assert clipboard(page) == seed
    page.evaluate("document.getElementById('announcer').textContent = ''")
    page.get_by_role("button", name="Copy link").tap()
    link = clipboard(page)
    assert link.startswith(f"{ready_server.url}/#prompt=a+small+cabin") and f"seed={seed}" in link
    opened.get_by_role("button", name="Close").tap()

    steps.fill("150")
    generate(page, "something else")
    page.locator("#waiting progress").wait_for()
    page.get_by_role("button", name="Cancel").tap()
    expect(status).to_contain_text("Your earlier pictures are still here.")
    expect(finished_pictures(page)).to_have_count(4)
    look("a cancelled run")
    reload(page, run=None)
    expect(finished_pictures(page)).to_have_count(4)

    prompt.fill("nothing yet")
    page.locator("#history li button").last.tap()
    expect(prompt).to_have_value("a small cabin")
    file = context.request.get(finished_pictures(page).last.evaluate("image => image.src")).body()
    prompt.fill("nothing yet")
    open_options(page)
    page.locator("#chooser input").set_input_files({"name": "ours.png", "mimeType": "image/png", "buffer": file})
    expect(prompt).to_have_value("a small cabin")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(re.compile(r"\d+"))

    page.get_by_role("tab", name="About the model").tap()
    page.get_by_role("button", name="Limitations and bias").tap()
    expect(page.get_by_text("The model cannot render legible text")).to_be_visible()
    page.get_by_role("button", name="Withdraw my acceptance").tap()
    page.get_by_role("button", name="Withdraw and clear this page").wait_for()
    look("the card")
    page.get_by_role("button", name="Withdraw and clear this page").tap()
    page.get_by_role("button", name=ACCEPT).wait_for()
    expect(page.get_by_role("tab")).to_have_text(["About the model"])
    page.wait_for_function(f"async () => await ({NUM_COPIES})() === 0")
    assert [fault for faults in wrong.values() for fault in faults] == [] and errors == []
    context.close()
