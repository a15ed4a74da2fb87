"""The page's components in the visitor's language: what Gradio sends of them with the document is translated there.

Gradio's own `I18n` knows static texts alone and sends every language to everybody; this way one choice of a language
holds for the components, for what the server says later, and for the scripts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from sd_space.languages import current_language, translate

_TEXTS = ("label", "info", "placeholder")
_PRESSED = ("button", "downloadbutton")  # whose values are what stands on them


def html(make: Callable[[], str], **options: Any) -> gr.HTML:
    """A component with HTML that is made in each visitor's language."""
    component = gr.HTML(padding=False, **options)
    fill(component, make)
    return component


def fill(component: Any, make: Callable[[], str]) -> None:
    component.value = make()
    component.make = make  # for `in_language`


def in_language(config: Mapping[str, Any], blocks: Mapping[int, Any]) -> dict[str, Any]:
    """Gradio's description of the page, with the texts of its components in the current language."""
    if "components" not in config:
        return dict(config)
    components = [{**one, "props": _props(one, blocks.get(one["id"]))} for one in config["components"]]
    missing = {"errors.use_via_api_or_mcp": translate("Use via API or MCP")}  # in Gradio's German
    return {**config, "components": components, "i18n_translations": {current_language(): missing}}


def _props(component: Mapping[str, Any], block: Any) -> dict[str, Any]:
    props = dict(component["props"])
    texts = (*_TEXTS, "value") if component["type"] in _PRESSED else _TEXTS
    props |= {name: translate(props[name]) for name in texts if isinstance(props.get(name), str)}
    if choices := props.get("choices"):
        props["choices"] = spoken(choices)
    if (make := getattr(block, "make", None)) is not None:
        props["value"] = make()
    return props


def spoken(choices: Any) -> list[tuple[str, Any]]:
    """A control's choices, which are pairs of words and values."""
    return [(translate(words), value) for words, value in choices]
