"""Changing a picture, a part of it, or a visitor's own one, on a phone; and more like one, with a keyboard."""

import base64
import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from ..generated import taking_turns
from .test_page import finished_pictures, generate, open_options, withdraw

STRENGTH = "number input for How much may change?"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
TOO_SMALL = """() => [...document.querySelectorAll('#start *, #painter *, #own-picture *, #picture-actions *')]
    .filter((part) => part.matches('button, a, label') && part.checkVisibility())
    .filter((part) => Math.min(part.offsetWidth, part.offsetHeight) < 44).map((part) => part.textContent)"""


def sent_values(page) -> list[str]:
    """The bodies of requests for pictures, as they are made from now on."""
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data or "") if "queue/join" in request.url else None)
    return bodies


def photo(size=(1200, 800)) -> bytes:
    """As a camera writes it, with a place in it."""
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "where it was taken"
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, "JPEG", exif=exif)
    return file.getvalue()


@taking_turns(1)
def test_a_picture_and_a_part_of_it_are_changed_on_a_phone(workspace):
    page = workspace(**PHONE)
    generate(page, "a robot by day", steps=12)
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    seed = page.get_by_label("Seed", exact=True).input_value()
    finished_pictures(page).first.tap()
    expect(page.get_by_role("button", name="Before and after")).to_be_hidden()
    assert page.evaluate(TOO_SMALL) == []
    page.get_by_role("button", name="Change it").tap()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_be_focused()
    start = page.get_by_role("group", name="What the next pictures start from")
    expect(start).to_contain_text("start from this one.")
    page.get_by_label(STRENGTH).fill("0.5")

    page.get_by_role("button", name="Paint over the part to change").tap()
    canvas = page.locator("#painter canvas")
    expect(canvas).to_be_focused()
    expect(page.get_by_role("button", name="Done")).to_be_in_viewport()
    canvas.tap(position={"x": 60, "y": 60})
    expect(start).to_contain_text("only the painted part changes")
    page.get_by_role("button", name="Undo").tap()
    expect(start).not_to_contain_text("painted")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    expect(start).to_contain_text("only the painted part changes")
    assert page.evaluate(TOO_SMALL) == []
    page.get_by_role("button", name="Done").tap()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    sent = sent_values(page)
    prompt.fill("a robot at night")
    page.get_by_role("button", name="Generate").tap()
    expect(page.get_by_role("button", name=re.compile(f"from seed {seed}$")).first).to_be_visible()
    mask = re.search(r"data:image/png;base64,([\w+/=]+)", sent[0])[1]
    black_and_white = Image.open(io.BytesIO(base64.b64decode(mask))).convert("L")
    assert black_and_white.size == (256, 256) and black_and_white.getextrema() == (0, 255)
    expect(page.locator("#history li button").first).to_have_accessible_name(re.compile(f"from seed {seed},"))
    finished_pictures(page).first.tap()
    page.get_by_role("button", name="Before and after").tap()
    expect(page.get_by_role("img", name="Before")).to_be_visible()
    page.get_by_label("How much is seen of the picture before").fill("10")
    expect(page.get_by_role("img", name="Before")).to_have_css("clip-path", "inset(0px 90% 0px 0px)")

    page.get_by_role("button", name="Do not start from this").tap()
    expect(start).to_be_hidden()
    expect(page.get_by_label(STRENGTH)).to_be_hidden()
    assert page.errors == [] and page.foreign == []


@pytest.mark.nightly  # in-process tests say the same of handlers and layout
def test_a_picture_of_ones_own_is_scaled_here_and_gone_with_the_acceptance(workspace):
    page = workspace()
    open_options(page).fill("12")
    file = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo()}
    page.get_by_label("Choose a picture").set_input_files(file)
    start = page.get_by_role("group", name="What the next pictures start from")
    expect(start).to_be_visible()
    sent = sent_values(page)
    generate(page, "a cabin")
    expect(page.get_by_role("button", name=re.compile("from a picture that was brought$")).first).to_be_visible()
    brought = base64.b64decode(re.search(r"data:image/jpeg;base64,([\w+/=]+)", sent[0])[1])
    assert Image.open(io.BytesIO(brought)).size == (256, 170) and b"where it was taken" not in brought
    finished_pictures(page).first.click()
    page.get_by_role("button", name="Before and after").click()
    expect(page.get_by_role("img", name="Before")).to_be_visible()
    expect(page.get_by_role("group", name="More like this")).to_be_hidden()
    page.evaluate(
        """async (bytes) => {
            const clipboardData = new DataTransfer()
            clipboardData.items.add(new File([new Uint8Array(bytes)], 'broken.png', { type: 'image/png' }))
            document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }))
        }""",
        list(b"no picture"),
    )
    expect(page.get_by_role("status").filter(has_text="cannot read that file")).to_be_visible()
    withdraw(page)
    page.get_by_role("button", name="Accept and continue").wait_for()
    page.wait_for_function("!document.documentElement.innerHTML.includes('data:image/jpeg')")
    page.wait_for_function("[...document.querySelectorAll('textarea')].every(({ value }) => !value.includes('base64'))")
    page.get_by_label("I have read the licence and accept it").check()
    page.get_by_role("button", name="Accept and continue").click()
    expect(page.get_by_label("Prompt", exact=True)).to_be_visible()
    expect(start).to_be_hidden()
    assert page.errors == [] and page.foreign == []


@pytest.mark.nightly  # in-process tests say the same of handlers and layout
def test_more_like_one_is_drawn_with_one_press_and_its_link_says_how(workspace):
    page = workspace()
    generate(page, "a red cabin", steps=12)
    expect(page.locator("#status")).to_contain_text(" in ")
    bottom = page.locator("#gallery .thumbnail-lg").last.bounding_box()
    gap = page.locator("#download-all").bounding_box()["y"] - bottom["y"] - bottom["height"]
    assert gap < 40, "nothing is between the pictures and what is below them"
    page.locator("#gallery .thumbnail-lg").nth(1).press("Enter")
    more = page.get_by_role("group", name="More like this")
    seed = page.locator("#picture-actions .copy-seed").get_attribute("data-copy")
    more.get_by_role("button", name="a little different").press("Enter")
    varied = page.get_by_role("button", name=re.compile(rf"Seed {seed}, variation \d+"))
    expect(varied).to_have_count(4)
    expect(page.locator("#start")).to_contain_text("a little different from the one")
    varied.last.press("Enter")
    link = page.locator("#picture-actions .copy-link")
    whole = re.compile(rf"seed={seed}&.*variation_seed=\d+.*variation_strength=0.15")
    expect(link).to_have_attribute("data-copy", whole)
    page.goto(link.get_attribute("data-copy"))  # which loads the page anew
    expect(finished_pictures(page)).to_have_count(4)  # of before
    expect(page.locator("#start")).to_be_visible()
    expect(open_options(page)).to_have_value("12")
    page.get_by_role("button", name="Generate").click()
    expect(varied).to_have_count(1)

    file = page.context.request.get(varied.locator("img").evaluate("image => image.src")).body()
    page.get_by_label("Prompt", exact=True).fill("something else")
    page.get_by_role("button", name="Check a picture").click()
    chooser = page.get_by_label("Choose the picture")
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": file + bytes(100_000)})
    found = page.locator("#found")
    expect(found).to_contain_text("Content Credentials")
    expect(found).to_contain_text("It carries the recipe")
    found.get_by_role("button", name="Put its recipe into the form").press("Enter")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a red cabin")
    expect(page.locator("#start")).to_be_visible()
    chooser.set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(found.get_by_role("alert")).to_contain_text("no PNG, JPEG or WebP")
    assert page.errors == []
