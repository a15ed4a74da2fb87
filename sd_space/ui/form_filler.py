"""Puts a request's values, and the served model's limits and defaults, into the page's form."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

from sd_space.backends import Backend
from sd_space.schema import Stage
from sd_space.served_model import ModelInfo
from sd_space.serving.source_pictures import SOURCES
from sd_space.ui import views
from sd_space.ui.form import CARD_DEFAULTS, apply_model_defaults, bounds, size_choices, size_value
from sd_space.ui.layout import Page
from sd_space.ui.translation import spoken


class FormFiller:
    """Each method returns updates by component."""

    def __init__(self, page: Page, backend: Backend):
        self.page = page
        self.backend = backend

    def fill(self, values: Mapping[str, Any]) -> dict:
        """Puts values of a request into the form. What they start from takes the place of what was chosen before."""
        page = self.page
        if not values:
            return {}
        updates = self.without_start()
        updates |= {
            control: gr.update(value=values[name])
            for name, control in page.controls.items()
            if name in values and name not in SOURCES  # of which recipes have the hash alone
        }
        if "seed" in values:
            updates[page.random_seed] = False
        if "width" in values and "height" in values:
            updates[page.size] = self.size_update(values["width"], values["height"], self.backend.status().info)
        return updates

    def without_start(self) -> dict:
        """The next pictures start from noise alone."""
        values = dict.fromkeys(SOURCES, "") | {"variation_seed": -1, "variation_strength": 0.0}
        return {self.page.controls[name]: value for name, value in values.items()}

    def size_update(self, width: int, height: int, info: ModelInfo | None) -> dict:
        size, choices = (
            size_value(width, height),
            (size_choices(info.defaults, info.limits.size_step) if info else size_choices(CARD_DEFAULTS)),
        )
        if size not in [value for _, value in choices]:
            choices.append((size.replace("x", " × "), size))
        return gr.update(choices=spoken(choices), value=size)

    def model_updates(self, values: Mapping[str, Any], linked: Mapping[str, Any]) -> dict:
        """The banner, and once the model is ready its limits, with its own defaults in place of untouched ones.

        Values from a link stay, even where they equal the card's defaults.
        """
        page, status = self.page, self.backend.status()
        updates: dict = {page.banner: views.banner(status)}
        if status.stage is Stage.FAILED:
            updates |= {page.clock: gr.update(active=False), page.generate: gr.update(interactive=False)}
        if not status.is_ready:
            return updates
        info = status.ready_info
        defaults, limits = info.defaults, info.limits
        own = apply_model_defaults(values, defaults, linked)
        for name, control in page.model_controls.items():
            updates[control] = gr.update(**bounds(name, limits), **({"value": own[name]} if name in own else {}))
        size: dict[str, Any] = {"value": size_value(own["width"], own["height"])} if "width" in own else {}
        updates[page.size] = gr.update(choices=spoken(size_choices(defaults, limits.size_step)), **size)
        return updates | {page.clock: gr.update(active=False)}
