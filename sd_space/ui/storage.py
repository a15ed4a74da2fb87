"""What the page keeps in the browser: the draft in its tab, the acceptance and the last runs for all tabs.

Storage is blocked in some frames (huggingface.co with third-party cookies off): then the scripts keep nothing.
"""

import json
from dataclasses import dataclass

from sd_space.request import MAX_PROMPT_CHARS


@dataclass(frozen=True, slots=True)
class Item:
    """A text that is kept. One of more than `max_chars` is none of ours, and the server would refuse it as a body."""

    area: str
    name: str
    max_chars: int

    @property
    def js(self) -> str:
        """The arguments by which the scripts know it."""
        return f"{json.dumps(self.area)}, {json.dumps(f'sd_space.{self.name}')}"


DRAFT = Item("sessionStorage", "draft", 2 * MAX_PROMPT_CHARS)  # JavaScript counts an emoji twice
TOKEN = Item("localStorage", "token", 1000)  # of about 150 characters
RUN = Item("localStorage", "run", 100)  # of 22
EXPERIMENT = Item("localStorage", "experiment", 1000)  # the runs of it, at most 32
SHOWN = Item("localStorage", "shown", 100)  # the last run that has made pictures


def recall_js(owner: Item, *items: Item) -> str:
    """A script without inputs that returns what is stored for all of these, or empty texts.

    Where nothing is stored for `owner`, what is left of the others is somebody else's: it is removed.
    """
    gets = ", ".join(f"get({item.js}, {item.max_chars})" for item in (owner, *items))
    removes = "; ".join(f"remove({item.js})" for item in items)
    return f"""() => {{
        const remove = (area, key) => {{ try {{ window[area].removeItem(key) }} catch (error) {{}} }}
        const get = (area, key, maxChars) => {{
            let value = ''
            try {{ value = window[area].getItem(key) || '' }} catch (error) {{}}
            if (value.length <= maxChars) return value
            remove(area, key)
            return ''
        }}
        if (!get({owner.js}, {owner.max_chars})) {{ {removes} }}
        return [{gets}]
    }}"""


def remember_js(item: Item) -> str:
    """A script that stores its input for this item and changes nothing on the page."""
    store = "(area, key, value) => { try { window[area].setItem(key, value) } catch (error) {} }"
    return f"(value) => {{ ({store})({item.js}, value || ''); return [] }}"
