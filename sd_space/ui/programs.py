"""What programs of the visitor's own need: the acceptance token, the address, and a few lines to start from."""

from dataclasses import dataclass
from html import escape

import gradio as gr

from sd_space.languages import Phrase, translate
from sd_space.ui.translation import fill
from sd_space.ui.views import setting_duration

_PROMPT = "A small cabin on top of a snowy mountain"
# The browser alone knows the address at which it has opened the page, and the token.
SNIPPETS = {
    "curl": f"""curl -s {{root}}/v1/images/generations -H "Authorization: Bearer {{token}}" \\
  -H "Content-Type: application/json" -d '{{"prompt": "{_PROMPT}", "response_format": "url"}}'""",
    Phrase("Python, with openai"): f"""from openai import OpenAI

client = OpenAI(base_url="{{root}}/v1", api_key="{{token}}")
image = client.images.generate(prompt="{_PROMPT}", response_format="url").data[0]
print(image.url, image.outcome)""",
    Phrase("Python, with gradio_client"): f"""from gradio_client import Client

client = Client("{{root}}", verbose=False)
files, result = client.predict("{_PROMPT}", num_images_per_prompt=1,
                               acceptance_token="{{token}}", api_name="/generate")
print(files, result["images"])""",
}
_SHOW_JS = "(token) => { document.dispatchEvent(new CustomEvent('sd_space.programs', { detail: token })); return [] }"


@dataclass(frozen=True, slots=True)
class Programs:
    """The button, and below it what it shows."""

    show: gr.Button
    guide: gr.HTML


def lay_out() -> Programs:
    show = gr.Button(Phrase("Use it from your own program"), size="sm", elem_id="show-programs")
    return Programs(show, gr.HTML(elem_id="programs-line", padding=False))


def wire(parts: Programs, token: gr.Textbox, token_ttl_s: int) -> None:
    """Shows them by the page's scripts alone: the token leaves the browser only with what it is sent along with."""
    fill(parts.guide, lambda: guide(token_ttl_s))
    parts.show.click(None, token, None, js=_SHOW_JS, api_visibility="private", show_progress="hidden", queue=False)


def guide(token_ttl_s: int) -> str:
    snippets = "".join(
        f'<h3>{name}</h3><div class="snippet"><pre tabindex="0" aria-label="{name}"><code>{escape(code, quote=False)}'
        f'</code></pre><button type="button" aria-label="{translate("Copy the lines for {name}", name=name)}">'
        f"{translate('Copy')}</button></div>"
        for name, code in ((translate(name), code) for name, code in SNIPPETS.items())
    )
    words = translate(
        "Clients of OpenAI’s image API need the address {address} and as their API key your acceptance of the licence, "
        "which is in the lines below. It holds for {time} after you accepted, or until you withdraw. Keep it to "
        "yourself: who has it draws in your name. Agents read {link}.",
        address='<code class="root"></code>',
        time=setting_duration(token_ttl_s),
        link='<a href="agents.md">agents.md</a>',
    )
    return f'<div id="programs" hidden><p>{words}</p>{snippets}</div>'
