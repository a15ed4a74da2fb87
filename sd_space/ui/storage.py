"""What the page keeps in the browser: the draft in its tab, the acceptance and the last run for all tabs.

Storage is blocked in some frames (huggingface.co with third-party cookies off): then the scripts keep nothing.
"""

import json

DRAFT, TOKEN, RUN = ("sessionStorage", "draft"), ("localStorage", "token"), ("localStorage", "run")


def recall_js(owner: tuple[str, str], *items: tuple[str, str]) -> str:
    """A script without inputs that returns what is stored for all of these, or empty texts.

    Where nothing is stored for `owner`, what is left of the others is somebody else's: it is removed.
    """
    values = ", ".join(f"get({json.dumps(area)}, {_key(name)})" for area, name in (owner, *items))
    remove = " ".join(f"window[{json.dumps(area)}].removeItem({_key(name)});" for area, name in items)
    get = "(area, key) => { try { return window[area].getItem(key) || '' } catch (error) { return '' } }"
    forget = f"try {{ if (!get({json.dumps(owner[0])}, {_key(owner[1])})) {{ {remove} }} }} catch (error) {{}}"
    return f"() => {{ const get = {get}; {forget} return [{values}] }}"


def remember_js(item: tuple[str, str]) -> str:
    """A script that stores its input for this item and changes nothing on the page."""
    area, name = item
    write = f"window[{json.dumps(area)}].setItem({_key(name)}, value || '')"
    return f"(value) => {{ try {{ {write} }} catch (error) {{}} return [] }}"


def _key(name: str) -> str:
    return json.dumps(f"sd_space.{name}")
