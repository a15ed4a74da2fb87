"""The tab "Experiments" as a teacher uses it: from the first screen to what is taken home."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from ..generated import taking_turns
from .axe import violations
from .test_page import withdraw

LOADED = "(image) => image.complete && image.naturalWidth > 0"


def open_experiments(workspace, **options):
    page = workspace(**options)
    page.get_by_role("tab", name="Experiments").click()
    page.get_by_role("button", name="Draw the strip").wait_for()
    return page


def choose(page, change: str, values: str) -> None:
    page.get_by_role("radio", name=change, exact=True).check()
    offered = page.get_by_label("Its values")
    expect(offered).not_to_have_value("1.5, 2, 3, 4, 5, 6, 7, 8")
    offered.fill(values)


@taking_turns(1)
def test_one_thing_is_changed_and_two_pictures_are_laid_over_each_other(workspace):
    page = open_experiments(workspace)
    expect(page.get_by_label("Its values")).to_have_value("1.5, 2, 3, 4, 5, 6, 7, 8")
    expect(page.get_by_role("button", name="Stop the experiment")).to_be_hidden()
    choose(page, "Steps", "2, 4, 40")
    draw, stop = (page.get_by_role("button", name=name) for name in ("Draw the strip", "Stop the experiment"))
    draw.press("Enter")
    expect(stop).to_be_focused()
    expect(page.get_by_label("Progress of the experiment")).to_be_in_viewport()
    shown = page.locator("#experiment-pictures .strip")
    expect(page.locator("#experiment-status")).to_contain_text("3 pictures.")
    expect(draw).to_be_focused()
    expect(shown.locator("figcaption")).to_have_text(["Steps 2", "Steps 4", "Steps 40"])
    sources = [image.get_attribute("src") for image in shown.locator("img").all()]
    assert len(set(sources)) == 3 and all(image.evaluate(LOADED) for image in shown.locator("img").all())

    compared = page.locator("#two-compared")
    expect(compared.get_by_role("img", name="After")).to_have_attribute("src", sources[2])
    page.get_by_role("combobox", name="After").select_option("Steps 4")
    expect(compared.get_by_role("img", name="After")).to_have_attribute("src", sources[1])
    page.get_by_label("How much is seen of the picture before").locator("visible=true").fill("10")
    expect(compared.get_by_role("img", name="Before")).to_have_css("clip-path", "inset(0px 90% 0px 0px)")

    page.get_by_role("button", name="Make a sheet and tables").click()
    with page.expect_download() as download:  # the sixth click from the first screen on, where no form is filled
        page.get_by_role("link", name="Sheet (PNG)").click()
    with Image.open(download.value.path()) as sheet:
        assert sheet.width > 3 * 256

    page.wait_for_function("window.localStorage.getItem('sd_space.experiment')")
    page.reload()
    page.get_by_role("tab", name="Experiments").click()
    expect(shown.locator("img")).to_have_count(3)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    withdraw(page)
    expect(page.get_by_role("tab")).to_have_text(["About the model"])
    assert page.locator("#experiment-pictures img").count() == 0
    page.wait_for_function("!window.localStorage.getItem('sd_space.experiment')")
    assert page.errors == [] and page.foreign == []


def frames(page) -> list[str]:
    """What is seen of the two pictures: their addresses, each of a file that is loaded."""
    images = page.locator("#steps-player img").locator("visible=true").all()
    assert len(images) == 2 and all(image.evaluate(LOADED) for image in images)
    return [image.get_attribute("src") for image in images]


@taking_turns(0)
def test_a_run_is_seen_step_by_step_and_what_the_autoencoder_loses(workspace):
    page = open_experiments(workspace)
    page.get_by_role("button", name="How it works").click()
    page.get_by_label("Prompt of both").fill("a robot on a beach")
    page.get_by_role("button", name="Draw it and show its steps").click()
    player, shown = page.locator("#steps-player"), page.locator("#experiment-pictures")
    expect(player.locator("figcaption")).to_have_text(["Guidance scale 3", "Guidance scale 1"])
    expect(shown).to_contain_text("What to look at: Start at the first step.")
    expect(player).to_contain_text("The finished picture")
    slider, seen = player.get_by_role("slider", name="Step"), [frames(page)]
    slider.press("Home")
    expect(player).to_contain_text("Step 1 of 12")
    expect(player.get_by_role("img", name="Guidance scale 3, Step 1 of 12")).to_be_visible()
    seen.append(frames(page))
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "Step 2 of 12")
    seen.append(frames(page))
    assert len({address for pair in seen for address in pair}) == 6
    player.get_by_role("button", name="Play").press("Enter")
    player.get_by_role("button", name="Pause").press("Enter")
    expect(player.get_by_role("button", name="Play")).to_be_visible()
    slider.fill("11")
    play = player.get_by_role("button", name="Play")
    play.evaluate("button => button.innerHTML = `<font><font>${button.textContent}</font></font>`")  # as translated
    play.click()
    expect(player).to_contain_text("The finished picture")
    expect(player.get_by_role("button", name="Play")).to_be_visible()
    assert violations(page) == []
    page.emulate_media(reduced_motion="reduce")
    expect(player.get_by_role("button")).to_be_hidden()
    page.get_by_role("button", name="How it works").click()

    page.get_by_role("button", name="Limits that the model card names").click()
    page.get_by_role("button", name="Show it: The autoencoder").click()
    expect(shown).to_contain_text(re.compile(r"PSNR \d\d\.\d dB: on average a value of 0 to 255 is off by"))
    expect(shown.locator("h3")).to_have_text("a cabin in a favela in expressionist style")
    expect(shown.get_by_role("img")).to_have_count(3)
    images = [image.get_attribute("src") for image in shown.get_by_role("img").all()]
    assert len(set(images)) == 3 and all(image.evaluate(LOADED) for image in shown.get_by_role("img").all())
    before = shown.get_by_role("img", name="Before")
    expect(before).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    page.get_by_label("How much is seen of the picture before").locator("visible=true").fill("10")
    expect(before).to_have_css("clip-path", "inset(0px 90% 0px 0px)")
    expect(shown.get_by_role("img", name="The difference of the two, 8 times as strong")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.errors == [] and page.foreign == []


@pytest.mark.nightly  # in-process tests say the same of handlers and layout
def test_a_limitation_and_a_bias_are_seen_beside_what_the_card_says_of_them(workspace):
    page = open_experiments(workspace)
    page.get_by_role("button", name="Limits that the model card names").click()
    expect(page.locator("#limitations blockquote")).to_have_count(3)
    expect(page.locator("#limitations")).to_contain_text("A red cube on top of a blue sphere")
    page.get_by_role("button", name="Show it: Things in relation to each other").click()
    expect(page.locator("#experiment-status")).to_contain_text("4 pictures.")
    shown = page.locator("#experiment-pictures")
    expect(shown.locator("h3")).to_have_text(["a red robot beside a blue cat", "a blue robot beside a red cat"])
    expect(shown).to_contain_text("What to look at")
    page.get_by_role("button", name="Limits that the model card names").click()

    page.get_by_role("button", name="Bias", exact=True).click()
    expect(page.locator("#card-on-bias")).to_contain_text("white and western cultures are often set as the default")
    expect(page.locator("#bias-words").get_by_role("checkbox")).to_have_count(4)
    page.get_by_role("button", name="Draw the grid").click()
    expect(page.locator("#experiment-status")).to_contain_text("8 pictures.")
    expect(shown.locator("h3")).to_have_text(["a robot", "a cat"])
    expect(shown.locator("figcaption")).to_have_text([f"Seed {seed}" for seed in (1, 2, 3, 4)] * 2)
    expect(shown).to_contain_text("robot: red 25%")
    images = shown.locator(".strip img").all()
    assert len({image.get_attribute("src") for image in images}) == 8 and all(i.evaluate(LOADED) for i in images)
    assert page.errors == []
