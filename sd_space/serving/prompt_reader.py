"""How much of a prompt the model reads, by the served model's own tokenizer and without the model."""

import threading
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sd_space.schema import PromptTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Reading:
    """Of a prompt's `num_tokens` the model reads `max_tokens`; `ignored` are the words after those."""

    num_tokens: int
    max_tokens: int
    ignored: str


class PromptReader:
    """Reads prompts as the engine will. `served` is the tokenizer, `None` until a model is ready."""

    def __init__(self, served: Callable[[], PromptTokenizer | None]):
        self._served = served
        self._lock = threading.Lock()
        self._made: tuple[PromptTokenizer, Tokenizer] | None = None

    def read(self, prompt: str) -> Reading | None:
        """`None` where no model is ready. The first call takes a moment: it makes the tokenizer."""
        served = self._served()
        if served is None:
            return None
        text = " ".join(prompt.encode("utf-8", "replace").decode().split())
        offsets = self._tokenizer(served).encode(text, add_special_tokens=False).offsets
        ignored = text[offsets[served.max_tokens][0] :] if len(offsets) > served.max_tokens else ""
        return Reading(len(offsets), served.max_tokens, ignored)

    def _tokenizer(self, served: PromptTokenizer) -> "Tokenizer":
        from tokenizers import Tokenizer

        with self._lock:
            if self._made is None or self._made[0] is not served:
                tokenizer = Tokenizer.from_str(served.json)
                tokenizer.no_truncation()
                tokenizer.no_padding()
                self._made = served, tokenizer
            return self._made[1]


def is_mostly_latin(text: str) -> bool:
    """Whether at least half of its letters are Latin ones, which those of English are."""
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters) >= len(letters)
