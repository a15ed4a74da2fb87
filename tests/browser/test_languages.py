"""The page in other languages: as a visitor reads it, and whether any of our texts is in no table."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.generated import sampled, taking_turns
from tests.server import serve

# Everything that can be read or is read aloud, with where it stands; what is marked as English is the card's or the
# licence's own.
READ_JS = """() => {
  const found = new Set(), seen = (element) => element.checkVisibility({ visibilityProperty: true })
  const others = '[lang=en]:not(html), script, style, textarea, code'
  const keep = (element, text) => {
    if (/\\p{L}/u.test(text) && !element.closest(others)) found.add(text.trim())
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    let element = walker.currentNode.parentElement
    if (!seen(element) || !walker.currentNode.textContent.trim()) continue
    while (element.matches('a, strong, code')) element = element.parentElement // the sentence around them
    const copy = element.cloneNode(true)
    copy.querySelectorAll(others).forEach((part) => part.remove())
    keep(element, copy.textContent)
  }
  for (const name of ['aria-label', 'placeholder', 'alt', 'title']) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      if (seen(element)) keep(element, element.getAttribute(name))
    }
  }
  return [...found]
}"""
PROMPT = "Steps"  # the visitor's own word, which is also one of ours
# Names and what Gradio says itself, which has its own tables.
NAMES = r"Stable Diffusion|v1-4|DPM\+\+ 2M Karras|a photo of an astronaut riding a horse on mars|BibTeX|curl"
WORDS = r"cpu|float32|torch|openvino|min|s|px|SHA-256|agents\.md|https?:\S+|arXiv \S+|robot|insect|cat|cabin"
GRADIO = re.compile(
    r"Download|Fullscreen|Close|Reset to default value|Thumbnail \d+ of \d+|[0-9.]+s|Use via API or MCP|"
    r"Gradio footer navigation|detailed view of selected image|logo|(number input|range slider) for .*"
)
OWN = re.compile(rf"⟦|⟧|\b({NAMES}|{WORDS}|{PROMPT})\b")


def texts_of_no_table(page: Page) -> list[str]:
    outside = []
    for text in page.evaluate(READ_JS):
        rest = text
        while (inner := re.sub(r"⟦[^⟦⟧]*⟧", "", rest)) != rest:  # brackets may stand within others
            rest = inner
        if re.search(r"[^\W\d_]", OWN.sub("", rest)) and not GRADIO.fullmatch(text):
            outside.append(text)
    return outside


def wrapped(name: str) -> re.Pattern[str]:
    return re.compile(f"^⟦{re.escape(name)}")


@pytest.fixture(scope="module")
def wrapped_server():
    with serve(module="tests.browser.wrapped_app") as server:
        server.wait_for("/readyz", timeout_s=120)
        yield server


@taking_turns(1)
def test_every_text_of_the_page_is_in_the_tables(browser, wrapped_server):
    context = browser.new_context(base_url=wrapped_server.url, locale="eo")
    page = context.new_page()
    outside: dict[str, list[str]] = {}

    def read(state: str) -> None:
        outside[state] = texts_of_no_table(page)

    page.goto("/")
    expect(page.locator("#first-screen")).to_have_count(0)  # below it Gradio says that it loads
    page.locator("#gate summary").first.click()
    read("gate")
    page.get_by_role("checkbox", name=wrapped("I have read")).check()
    page.get_by_role("button", name=wrapped("Accept and continue")).click()
    prompt = page.get_by_label("⟦Prompt⟧", exact=True)
    prompt.wait_for()
    page.locator("#banner summary").click()
    page.get_by_role("button", name=wrapped("More options")).click()
    page.get_by_role("button", name=wrapped("Check a picture")).click()
    page.get_by_role("button", name=wrapped("Use it from")).click()
    read("studio")
    generate = page.get_by_role("button", name="⟦Generate⟧", exact=True)
    generate.click()
    expect(page.locator("#status .note")).to_contain_text("⟦Prompt⟧ must not be empty")
    read("refusal")
    prompt.fill(f"{PROMPT} {'猫 ' * 80}")
    expect(page.locator("#reading")).to_contain_text("⟦Too long")
    read("reading")
    prompt.fill(PROMPT)
    generate.click()
    page.locator("#progress-text").wait_for()
    read("running")
    expect(page.locator("#status .note")).to_contain_text("⟦4 pictures in")
    page.locator("#recipe summary").click()
    read("result")
    page.locator("#gallery .thumbnail-lg").first.click()
    page.locator("#change-it").click()
    page.locator("#paint").click()
    read("start")
    page.get_by_role("tab", name=wrapped("Experiments")).click()
    for fold in ("Limits that", "Bias"):
        page.get_by_role("button", name=wrapped(fold)).click()
    expect(page.locator("#limitations")).to_contain_text("⟦The picture book draws here.")
    read("experiments")
    page.get_by_label("⟦Prompt of all⟧").fill(PROMPT)
    page.locator("#strip-values textarea").fill("1.5, 2")
    page.get_by_role("button", name=wrapped("Draw the strip")).click()
    expect(page.locator("#experiment-status")).to_contain_text("⟦2 pictures.⟧")
    read("strip")
    page.get_by_role("tab", name=wrapped("About the model")).click()
    page.get_by_role("button", name=wrapped("Withdraw my acceptance")).click()
    read("about")
    context.close()
    assert not any(outside.values()), outside


@pytest.mark.parametrize(
    ("locale", "agree", "accept", "generate", "done", "more", "empty"),
    sampled(
        [
            (
                "de-DE",
                "Ich habe die Lizenz gelesen und stimme ihr zu",
                "Zustimmen und weiter",
                "Generieren",
                "1 Bild in ",
                "Weitere Optionen",
                "Prompt darf nicht leer sein; beschreiben Sie das gewünschte Bild.",
            ),
            (
                "es-MX",
                "He leído la licencia y la acepto",
                "Aceptar y continuar",
                "Generar",
                "1 imagen en ",
                "Más opciones",
                "Prompt: no puede estar vacío; describa la imagen que quiere.",
            ),
        ],
        1,
    ),
)
def test_a_visitor_draws_in_their_own_language(new_page, locale, agree, accept, generate, done, more, empty):
    page = new_page("/#num_images_per_prompt=1&num_inference_steps=4", locale=locale)
    expect(page.locator("html")).to_have_attribute("lang", locale[:2])
    page.get_by_role("checkbox", name=agree).check()
    page.get_by_role("button", name=accept).click()
    page.get_by_label("Prompt", exact=True).wait_for()
    page.get_by_role("button", name=generate, exact=True).click()
    expect(page.locator("#status .note")).to_have_text(empty)
    page.get_by_label("Prompt", exact=True).fill("Steps")
    page.get_by_role("button", name=generate, exact=True).click()
    expect(page.locator("#status .note")).to_contain_text(done)
    expect(page.locator("#announcer")).to_contain_text(done)
    expect(page.get_by_role("button", name=more)).to_be_visible()
    shown = page.locator("#gallery .thumbnail-lg img")
    assert ": Steps. " in (shown.get_attribute("alt") or ""), "the visitor's own word stays"
    assert page.title().startswith("✓ 1 ") and not page.errors
    page.set_viewport_size({"width": 320, "height": 740})
    expect(page.get_by_role("tab")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
