"""A visitor's earlier pictures, a picture's settings and the length of a prompt, on a phone in the dark."""

import re

from playwright.sync_api import expect

from ..generated import taking_turns
from .test_page import finished_pictures, generate, reload, withdraw

SETTINGS = "a castle\nNegative prompt: snow\nSteps: 7, Sampler: DPM++ SDE, CFG scale: 3, Seed: 99, Size: 96x128"
NUM_COPIES = """() => new Promise((resolve) => {
    const opening = indexedDB.open('sd_space', 1)
    opening.onsuccess = () => {
        const counting = opening.result.transaction('copies').objectStore('copies').count()
        counting.onsuccess = () => { opening.result.close(); resolve(counting.result) }
    }
})"""


def paste(page, text: str) -> None:
    page.locator("#prompt textarea").evaluate(
        """(prompt, text) => {
            const clipboardData = new DataTransfer()
            clipboardData.setData('text/plain', text)
            prompt.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }))
        }""",
        text,
    )


@taking_turns(0)
def test_what_was_drawn_is_found_again_until_it_is_forgotten(workspace):
    page = workspace(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, color_scheme="dark")
    prompt, earlier = page.get_by_label("Prompt", exact=True), page.locator("#history li button")
    expect(page.locator("#outlook")).to_contain_text("waiting")

    long = "a small cabin on top of a snowy mountain, " * 8
    prompt.fill(long)
    expect(page.locator("#reading")).to_contain_text(re.compile(r"reads 75 .* this has \d+.*ignore the last \d+ words"))
    expect(prompt).to_have_accessible_description(re.compile("Too long"))
    prompt.fill("a cat")
    expect(page.locator("#reading p")).to_have_count(0)

    generate(page, "a small cabin", steps=2)
    expect(earlier).to_have_count(4)
    first_seed = page.get_by_label("Seed", exact=True).input_value()
    file = page.context.request.get(finished_pictures(page).first.evaluate("image => image.src")).body()
    generate(page, "a robot")
    expect(earlier).to_have_count(8)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    earlier.last.click()
    expect(prompt).to_have_value("a small cabin")
    expect(page.get_by_role("button", name=re.compile(f"seed {first_seed}$", re.IGNORECASE))).to_be_visible()

    paste(page, SETTINGS)
    page.get_by_role("button", name="Use the settings").click()
    expect(prompt).to_have_value("a castle")
    expect(page.locator("#status")).to_contain_text("Noise scheduler must be one of")
    prompt.fill("")
    paste(page, SETTINGS)
    page.get_by_role("button", name="Paste it as words").click()
    expect(prompt).to_have_value(SETTINGS)
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_buffer or b""))
    page.locator("#chooser input").set_input_files({"name": "of-ours.png", "mimeType": "image/png", "buffer": file})
    expect(prompt).to_have_value("a small cabin")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(first_seed)
    assert sent and max(map(len, sent)) < 2_000 < len(file), "the picture stayed where it was"

    page.get_by_role("button", name="Forget them").click()
    expect(page.locator("#history")).to_be_hidden()
    reload(page, run=None)
    expect(finished_pictures(page)).to_have_count(4)
    generate(page, "a cat")
    expect(earlier).to_have_count(4)  # and not those that were forgotten while they were on the page
    withdraw(page)
    page.get_by_role("button", name="Accept and continue").wait_for()
    page.wait_for_function(f"async () => await ({NUM_COPIES})() === 0")
    assert page.errors == [] and page.foreign == []


@taking_turns(1)
def test_a_frame_without_storage_has_no_earlier_pictures_and_draws_all_the_same(browser, ready_server):
    """As huggingface.co shows the page where third-party cookies are off."""
    context = browser.new_context(base_url=ready_server.url)
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script("Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('no') } })")
    page.goto("/")
    page.get_by_role("checkbox", name="I have read the licence and accept it").check()
    page.get_by_role("button", name="Accept and continue").click()
    generate(page, "a cat", steps=1)
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.locator("#history")).to_be_hidden()
    assert errors == []
    context.close()
