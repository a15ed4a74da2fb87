"""What axe-core finds wrong with a page as it is: https://github.com/dequelabs/axe-core"""

from functools import cache
from importlib.resources import files

from playwright.sync_api import Page

_RUN = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations
    .filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(' | ')}`)"""


@cache
def _script() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page) -> list[str]:
    """Those that are serious or critical, in the light and in the dark."""
    page.evaluate(_script())
    page.add_style_tag(content="* { transition: none !important }")  # a colour on its way to another is none of ours
    found = []
    for _ in range(2):  # Gradio's dark theme is a class, and is there or not at first
        found += page.evaluate(_RUN)
        page.evaluate("document.body.classList.toggle('dark')")
    return found
