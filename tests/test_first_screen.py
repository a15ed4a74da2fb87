"""What stands in the document before Gradio's scripts have come."""

import html
import re

from sd_space.card import load_card
from sd_space.ui import views
from sd_space.ui.first_screen import first_colors, first_screen

CARD = load_card()


def test_it_says_what_the_gate_says():
    screen = first_screen(CARD)
    assert views.masthead() in screen and views.gate(CARD) in screen and views.restrictions() in screen
    words = html.unescape(re.sub(r"<[^>]+>", " ", screen))
    assert views.AGREE in words and views.ACCEPT in words
    assert '<button type="button" disabled>' in screen and '<input type="checkbox" autocomplete="off">' in screen


def test_it_has_the_themes_colours_for_light_and_dark():
    found = re.findall(r"--([a-z-]+): light-dark\(([^,]+), ([^)]+)\);", first_colors())
    colors = {name: (light, dark) for name, light, dark in found}
    assert colors["body-text-color"] == ("#1e293b", "#f1f5f9")
    assert colors["button-primary-background-fill"] == ("#4338ca", "#4f46e5")
