"""What is ours in the page's document, and what links to the page show of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """In one language. `head` and `body` are HTML that must be there before Gradio's own scripts run; `body` is not
    shown before a login. `config` is Gradio's description of the page.
    """

    language: str
    title: str
    description: str
    about_image: str
    head: str
    body: str
    config: Mapping[str, Any]


def link_preview(url: str, image: str) -> str:
    """The tags that say it, in a template where `own` is the document. `image` is below `url`, the page's."""
    tags = {
        "og:type": "website",
        "og:title": "{{ own.title }}",
        "og:description": "{{ own.description }}",
        "og:url": url,
        "og:image": f"{url}{image}",
        "og:image:width": "1200",
        "og:image:height": "630",
        "og:image:alt": "{{ own.about_image }}",
        "twitter:card": "summary_large_image",
    }
    metas = "".join(f'<meta property="{name}" content="{content}">' for name, content in tags.items())
    metas += '<meta name="description" content="{{ own.description }}">'
    return metas + '<link rel="alternate" type="text/markdown" href="agents.md" title="For agents and programs">'
