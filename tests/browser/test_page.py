"""What a visitor does, in a real browser."""

import re

import pytest
from playwright.sync_api import expect

ACCEPT = "Accept and continue"
LINK = "/?prompt=a+robot&seed=42&num_inference_steps=12"


def finished_pictures(page):
    return page.locator("#gallery button.thumbnail-lg img, #gallery .thumbnail-item img")


def open_options(page):
    """Gradio fills a component a moment after it shows it; a script that types within that moment loses its words."""
    fold = page.get_by_role("button", name="More options")
    if fold.get_attribute("aria-expanded") != "true":  # it stays open when the page is loaded anew
        fold.click()
    steps = page.get_by_label("number input for Steps")
    steps.wait_for()
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.evaluate("() => new Promise(requestIdleCallback)")
    return steps


def generate(page, prompt="A small cabin on top of a snowy mountain", steps=None):
    if steps:
        open_options(page).fill(str(steps))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate").click()


def reload(page, stored="localStorage", **kept):
    """Once the browser has stored what is kept: a text, or just any where it is None."""
    for key, value in kept.items():
        now = f"window.{stored}.getItem('sd_space.{key}')"
        page.wait_for_function(f"(kept) => kept === null ? {now} : {now} === kept", arg=value)
    page.reload()


def withdraw(page):
    page.get_by_role("button", name="Withdraw my acceptance").click()
    page.get_by_role("button", name="Withdraw and clear this page").click()


def expect_recipe(page):
    """The form as LINK fills it."""
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a robot")
    expect(open_options(page)).to_have_value("12")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("42")


def test_a_newcomer_accepts_picks_an_example_and_gets_four_pictures(new_page):
    page = new_page()
    expect(page.get_by_role("heading", name="Please read the LICENSE to access this model")).to_be_visible()
    accept = page.get_by_role("button", name=ACCEPT)
    expect(accept).to_be_disabled()
    expect(page.get_by_label("Prompt", exact=True)).to_have_count(0)
    expect(page.get_by_role("tab")).to_have_text(["About the model"])
    expect(page.get_by_role("heading", name="What is screened")).to_be_visible()

    page.get_by_role("checkbox", name="I have read the licence and accept it").check()
    accept.click()
    expect(page.get_by_role("tab")).to_have_text(["Draw", "Experiments", "About the model"])
    page.get_by_role("button", name="Snowy disney cabin").click()
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_have_value("A small cabin on top of a snowy mountain in the style of Disney, artstation")

    prompt.press("Enter")
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    alternatives = [picture.get_attribute("alt") for picture in finished_pictures(page).all()]
    assert all(re.search(r"[Ss]eed \d+", text) for text in alternatives)
    assert len(set(alternatives)) == 4
    expect(
        page.get_by_role("button", name=re.compile(r"^Picture \d of 4: A small cabin .*\. Seed \d+$"))
    ).to_have_count(4)
    assert page.foreign == [], "the page asked another host"
    assert page.errors == []


def test_cancel_frees_the_device_says_so_and_keeps_the_pictures_before(workspace):
    page = workspace()
    generate(page, steps=2)
    expect(finished_pictures(page)).to_have_count(4)
    open_options(page).fill("150")
    page.get_by_role("button", name="Generate").click()
    page.locator("#waiting progress").wait_for()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_contain_text("Your earlier pictures are still here.")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    expect(finished_pictures(page)).to_have_count(4)
    page.reload()
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.get_by_label("number input for Steps")).to_be_visible()  # its fold is open, as it was


def test_the_fold_that_was_opened_is_open_after_a_reload_and_no_other(new_page):
    page = new_page()
    opened = page.get_by_role("button", expanded=True)
    page.get_by_role("button", name="Limitations and bias").click()
    expect(opened).to_have_count(1)
    page.reload()
    expect(page.get_by_role("button", name="Limitations and bias", expanded=True)).to_be_visible()
    expect(opened).to_have_count(1)


@pytest.mark.nightly
def test_the_acceptance_and_the_last_pictures_survive_a_reload(workspace):
    page = workspace()
    generate(page, steps=3)
    expect(finished_pictures(page)).to_have_count(4)
    reload(page, run=None)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("A small cabin on top of a snowy mountain")
    expect(finished_pictures(page)).to_have_count(4)


def test_an_opened_picture_is_seen_whole(workspace):
    page = workspace(viewport={"width": 1366, "height": 650})
    generate(page, steps=3)
    expect(page.locator("#status")).to_contain_text(" in ")  # a picture of so few steps may be withheld
    tile = finished_pictures(page).first.bounding_box()
    finished_pictures(page).first.click()
    opened = page.locator("#gallery .preview")
    expect(opened).to_be_in_viewport(ratio=0.99)
    assert opened.locator(".media-button img").bounding_box()["height"] > 1.5 * tile["height"]
    page.keyboard.press("ArrowRight")
    expect(opened.get_by_role("button", name="Thumbnail 2 of 4")).to_be_focused()
    expect(opened).to_be_in_viewport(ratio=0.99)
    page.keyboard.press("Escape")
    expect(opened).to_have_count(0)


@pytest.mark.nightly
def test_a_run_goes_on_through_a_reload(workspace):
    page = workspace()
    generate(page, steps=60)
    page.locator("#waiting progress").wait_for()
    reload(page, run=None)
    expect(finished_pictures(page)).to_have_count(4)


def instead_of_listening(page, words: str, answer) -> list[str]:
    """Lets `answer` have the first stream of events that is asked for after `words` were sent; returns its address."""
    sent, answered = [], []
    page.on("request", lambda request: sent.append(request.url) if words in (request.post_data or "") else None)

    def listen(route) -> None:
        if not sent or answered:
            return route.continue_()
        answered.append(route.request.url)
        answer(route)

    page.route("**/queue/data*", listen)
    return answered


def test_a_press_whose_connection_fails_is_not_lost(workspace):
    page = workspace()
    failed = instead_of_listening(page, "a lost cat", lambda route: route.abort())
    generate(page, "a lost cat", steps=2)
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a lost cat")
    assert len(failed) == 1


def nobody_listens(route) -> None:
    route.fulfill(content_type="text/event-stream", body='data: {"msg":"close_stream"}\n\n')


@pytest.mark.nightly  # it waits as long as the page does
def test_a_press_that_nobody_listens_for_is_not_lost(workspace):
    page = workspace()
    instead_of_listening(page, "a lost cat", nobody_listens)
    generate(page, "a lost cat", steps=2)
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a lost cat")


@pytest.mark.nightly  # it waits as long as the page does
def test_an_experiment_that_nobody_listens_for_is_not_lost(workspace):
    page = workspace()
    page.get_by_role("tab", name="Experiments").click()
    page.locator("#strip-values textarea").fill("1.5, 2")
    page.get_by_label("Prompt of all").fill("a lost cat")
    instead_of_listening(page, "a lost cat", nobody_listens)
    page.get_by_role("button", name="Draw the strip").click()
    page.wait_for_function("performance.getEntriesByType('navigation')[0].type === 'reload'")
    page.get_by_role("tab", name="Experiments").click()
    expect(page.locator("#experiment-status")).to_contain_text("2 pictures.")


def stays(page) -> bool:
    """Whether the page is not loaded anew for longer than it waits for an answer."""
    page.wait_for_function("(then) => performance.now() > then + 25_000", arg=page.evaluate("performance.now()"))
    return page.evaluate("performance.getEntriesByType('navigation')[0].type") == "navigate"


@pytest.mark.nightly  # longer than the page waits for an answer
def test_a_page_stays_that_is_told_no_or_on_which_nothing_was_asked(workspace):
    page = workspace()
    full = {"status": 429, "content_type": "application/json", "body": '{"error": "The house is full."}'}
    page.route("**/queue/join*", lambda route: route.fulfill(**full), times=1)
    generate(page, "a cat")
    expect(page.get_by_text("The house is full.")).to_be_visible()
    words = page.get_by_label("Prompt", exact=True)
    words.dispatch_event("keydown", {"key": "Enter", "isComposing": True})  # a word of another script is complete
    assert stays(page)


@pytest.mark.nightly  # longer than the page waits for an answer
def test_a_page_stays_whose_press_is_still_on_its_way(workspace):
    page, held = workspace(), []
    page.route("**/queue/join*", lambda route: held.append(route), times=1)
    generate(page, "a slow cat", steps=2)
    assert stays(page) and len(held) == 1
    held[0].continue_()
    expect(finished_pictures(page)).to_have_count(4)


@pytest.mark.nightly  # longer than the page waits for an answer
def test_a_page_stays_whose_proxy_has_lost_the_server(workspace):
    page = workspace()
    instead_of_listening(page, "a lost cat", nobody_listens)
    page.route("**/healthz", lambda route: route.fulfill(status=502, body="Bad Gateway"))
    generate(page, "a lost cat", steps=2)
    assert stays(page)
    page.unroute("**/healthz")
    expect(finished_pictures(page)).to_have_count(4)


@pytest.mark.nightly
def test_withdrawing_closes_the_gate_for_good(workspace):
    page = workspace()
    withdraw(page)
    expect(page.get_by_role("button", name=ACCEPT)).to_be_visible()
    reload(page, token="")
    expect(page.get_by_role("button", name=ACCEPT)).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_count(0)


def test_withdrawing_leaves_nothing_for_whoever_sits_here_next(workspace):
    page = workspace()
    generate(page, "a secret garden", steps=2)
    expect(finished_pictures(page)).to_have_count(4)
    page.get_by_label("Negative prompt").fill("weeds")
    withdraw(page)
    accept = page.get_by_role("button", name=ACCEPT)
    expect(accept).to_be_visible()
    page.wait_for_function("!localStorage['sd_space.run'] && !localStorage['sd_space.token']")
    page.wait_for_function("!sessionStorage['sd_space.draft']")
    for _ in range(2):
        page.get_by_role("checkbox", name="I have read the licence and accept it").check()
        accept.click()
        expect(page.get_by_label("Prompt", exact=True)).to_have_value("")
        expect(finished_pictures(page)).to_have_count(0)
        expect(page.get_by_role("button", name="Run", exact=True)).to_have_count(0)  # those that only scripts press
        assert not {"secret", "weeds"} & set(re.findall(r"\w+", page.content()))
        withdraw(page)
        expect(accept).to_be_visible()
        page.reload()


@pytest.mark.nightly  # the handlers' and the layout's tests say the same without a browser
def test_withdrawing_during_a_run_ends_it(workspace, ready_server):
    page = workspace()
    generate(page, steps=150)
    page.locator("#waiting progress").wait_for()
    cancelled = 'sd_space_failures_total{kind="Cancelled"}'
    before = ready_server.metric(cancelled)
    withdraw(page)
    expect(page.get_by_role("button", name=ACCEPT)).to_be_visible()
    ready_server.wait_for_metric(cancelled, before + 1)


@pytest.mark.nightly  # the handlers' and the layout's tests say the same without a browser
def test_an_empty_prompt_is_refused_in_a_sentence(workspace):
    page = workspace()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text("Prompt must not be empty")


@pytest.mark.nightly  # the handlers' and the layout's tests say the same without a browser
def test_a_link_brings_a_recipe_back(workspace):
    expect_recipe(workspace(LINK))


@pytest.mark.nightly
def test_a_link_wins_over_the_visitors_own_last_run(workspace):
    page = workspace()
    generate(page, steps=3)
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    page.goto(LINK)
    expect(finished_pictures(page)).to_have_count(4)
    expect_recipe(page)


@pytest.mark.nightly  # the handlers' and the layout's tests say the same without a browser
def test_words_that_are_being_written_and_the_last_settings_survive_a_reload(workspace):
    page = workspace()
    generate(page, steps=11)
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    page.get_by_label("Prompt", exact=True).fill("something new")
    reload(page, stored="sessionStorage", draft="something new")
    expect(finished_pictures(page)).to_have_count(4)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("something new")
    expect(open_options(page)).to_have_value("11")


@pytest.mark.nightly
def test_a_seed_that_is_typed_is_the_one_that_is_used(workspace):
    page = workspace()
    generate(page, steps=2)
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    new_seed = page.get_by_label("Surprise me (new seed each time)")
    expect(new_seed).to_be_checked()
    page.get_by_label("Seed", exact=True).fill("42")
    expect(new_seed).not_to_be_checked()
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("button", name=re.compile("seed 42$", re.IGNORECASE))).to_be_visible()
    expect(page.get_by_label("Seed", exact=True)).to_have_value("42")


def test_whoever_has_only_a_keyboard_is_led_on(new_page):
    """What is pressed goes away at each step, and the focus goes to what stands there then."""
    page = new_page(viewport={"width": 390, "height": 844})
    page.get_by_role("checkbox", name="I have read the licence and accept it").press("Space")
    page.get_by_role("button", name=ACCEPT).press("Enter")
    prompt = page.get_by_label("Prompt", exact=True)
    expect(prompt).to_be_focused()
    prompt.evaluate("element => { const place = element.parentNode; element.remove(); place.append(element) }")
    expect(prompt).to_be_focused()
    expect(prompt).to_be_in_viewport()
    prompt.fill("A robot")
    steps = open_options(page)
    steps.fill("150")
    page.get_by_role("button", name="Generate").press("Enter")
    cancel = page.get_by_role("button", name="Cancel")
    expect(cancel).to_be_focused()
    cancel.press("Enter")
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    steps.fill("5")
    prompt.press("Enter")
    expect(page.locator("#status")).to_contain_text("4 pictures in")
    pictures = page.locator("#gallery .thumbnail-lg")
    pictures.nth(1).press("Enter")
    expect(page.locator("#gallery .grid-wrap")).to_have_attribute("inert", "")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    expect(pictures.nth(2)).to_be_focused()
    page.get_by_role("button", name="Withdraw my acceptance").press("Enter")
    stay = page.get_by_role("button", name="Keep my acceptance")
    expect(stay).to_be_focused()
    stay.press("Enter")
    expect(page.get_by_role("button", name="Withdraw my acceptance")).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Withdraw and clear this page").press("Enter")
    expect(page.get_by_role("checkbox", name="I have read the licence and accept it")).to_be_focused()
    assert page.errors == []


@pytest.mark.nightly
def test_what_is_withdrawn_in_one_tab_is_withdrawn_in_all(workspace):
    page = workspace()
    page.get_by_label("Prompt", exact=True).fill("a secret garden")
    page.wait_for_function("sessionStorage['sd_space.draft']")
    other = page.context.new_page()
    other.goto("/")
    withdraw(other)
    accept = page.get_by_role("button", name=ACCEPT)
    expect(accept).to_be_visible()
    assert page.evaluate("sessionStorage['sd_space.draft'] || ''") == ""
    page.get_by_role("checkbox", name="I have read the licence and accept it").check()
    accept.click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("")


def test_the_dark_theme_follows_the_system(workspace):
    page = workspace(color_scheme="dark")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(value) for value in re.findall(r"\d+", background)[:3])
    assert brightness < 150, background


@pytest.mark.nightly  # the handlers' and the layout's tests say the same without a browser
def test_the_whole_model_card_is_on_the_page(workspace):
    page = workspace()
    page.get_by_role("tab", name="About the model").click()
    for title in ("Uses and misuse", "Limitations and bias", "Safety module", "Training", "Evaluation",
                  "Environmental impact", "Citation"):  # fmt: skip
        expect(page.get_by_role("button", name=title)).to_be_visible()
    page.get_by_role("button", name="Limitations and bias").click()
    expect(page.get_by_text("The model cannot render legible text")).to_be_visible()
