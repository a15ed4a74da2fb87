"""The handlers of what helps to ask: they draw nothing, and answer only who has accepted the licence."""

from collections.abc import Callable, Mapping
from typing import Any

from sd_space.backends import Backend
from sd_space.languages import translate
from sd_space.request import MAX_PROMPT_CHARS
from sd_space.serving.gate import Gate
from sd_space.serving.picture_settings import NONE_FOUND, read_settings
from sd_space.serving.prompt_reader import PromptReader, is_mostly_latin
from sd_space.ui import aid_views, views
from sd_space.ui.form import CARD_LIMITS
from sd_space.ui.layout import Page


class AidHandlers:
    """One method for each event. `fill` gives the updates that put a request's values into the form."""

    def __init__(self, page: Page, gate: Gate, backend: Backend, fill: Callable[[Mapping[str, Any]], dict]):
        self.page = page
        self.gate = gate
        self.backend = backend
        self.fill = fill
        self.reader = PromptReader(backend.tokenizer)

    def reading(self, token: str, prompt: str) -> str:
        """While a prompt is typed; Gradio runs this in a thread."""
        if self.gate.visitor_of(token) is None or not isinstance(prompt, str):
            return ""
        prompt = prompt[:MAX_PROMPT_CHARS]
        return aid_views.reading(self.reader.read(prompt), is_mostly_latin(prompt))

    def outlook(self, token: str) -> str:
        return "" if self.gate.visitor_of(token) is None else aid_views.outlook(self.backend.status())

    def settings(self, token: str, text: str) -> dict:
        """Fills the form with what a picture's text says; empty, the text was not found."""
        if self.gate.visitor_of(token) is None:
            return {self.page.status: ""}
        info = self.backend.status().info
        read = read_settings(str(text), info.limits if info else CARD_LIMITS, info)
        if read is None:
            return {self.page.status: views.note(translate(NONE_FOUND), "error")}
        return self.fill(read.values) | {self.page.status: views.note(aid_views.filled(read.remarks))}
