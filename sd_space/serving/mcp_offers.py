"""What MCP clients are offered beside tools: things to read, the card's examples as prompts, and hints on the tools."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sd_space.card import LICENCE_URL, ModelCard
from sd_space.serving.gate import USE_RESTRICTIONS

SCHEME = "sd-space://"
_NOT_FOUND = -32002  # MCP 2025-06-18, Resources
_INVALID_PARAMS = -32602
_READS = {"readOnlyHint": True, "openWorldHint": False}
_ADDS = {"readOnlyHint": False, "destructiveHint": False, "idempotentHint": False, "openWorldHint": False}
# By endpoint.
_HINTS: Mapping[str, Mapping[str, Any]] = {
    "accept_license": {"title": "Accept the licence", **_ADDS},
    "generate": {"title": "Draw or change pictures", **_ADDS},
    "compare": {"title": "Draw a strip of pictures to compare", **_ADDS},
    "model": {"title": "Describe the served model", **_READS},
    "verify": {"title": "Say what a picture carries", **_READS},
}


def offer(server: Any, card: ModelCard, model: Callable[[], Mapping[str, Any]], tools: Mapping[str, str]) -> None:
    """Adds them to an `mcp.server.Server` that has the tools already; `tools` has their endpoints.

    `model` describes the served one, as its endpoint does.
    """
    from mcp import McpError, types  # only where Gradio has loaded it
    from mcp.server.lowlevel.helper_types import ReadResourceContents

    texts: dict[str, tuple[str, str, Callable[[], str]]] = {  # address -> (title, media type, text)
        f"{SCHEME}licence": ("The licence and its use restrictions", "text/markdown", lambda: licence_text(card)),
        f"{SCHEME}model-card": ("The model card of v1-4", "text/markdown", lambda: card_text(card)),
        f"{SCHEME}model": ("The served model", "application/json", lambda: json.dumps(model(), ensure_ascii=False)),
    }
    prompts = {_slug(example.title): example for example in card.examples}

    def unknown(code: int, what: str, known: Mapping[str, Any]) -> McpError:
        sentence = f"There is no such {what}; there are {', '.join(known)}."
        return McpError(types.ErrorData(code=code, message=sentence))

    async def list_resources() -> list[types.Resource]:
        return [
            types.Resource(uri=uri, name=uri.removeprefix(SCHEME), title=title, mimeType=media_type)  # type: ignore[arg-type]
            for uri, (title, media_type, _) in texts.items()
        ]

    async def read_resource(uri: object) -> list[ReadResourceContents]:
        if str(uri) not in texts:
            raise unknown(_NOT_FOUND, "resource", texts)
        _, media_type, text = texts[str(uri)]
        return [ReadResourceContents(content=text(), mime_type=media_type)]

    async def list_prompts() -> list[types.Prompt]:
        return [types.Prompt(name=name, title=e.title, description=e.text) for name, e in prompts.items()]

    async def get_prompt(name: str, arguments: object) -> types.GetPromptResult:
        if name not in prompts:
            raise unknown(_INVALID_PARAMS, "prompt", prompts)
        content = types.TextContent(type="text", text=f"Draw this with the tool generate: {prompts[name].text}")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    listed = server.request_handlers[types.ListToolsRequest]

    async def list_tools(request: object) -> types.ServerResult:
        result: types.ServerResult = await listed(request)
        assert isinstance(result.root, types.ListToolsResult)
        for tool in result.root.tools:
            tool.annotations = types.ToolAnnotations(**_HINTS[tools[tool.name]])
        return result

    server.list_resources()(list_resources)
    server.read_resource()(read_resource)
    server.list_prompts()(list_prompts)
    server.get_prompt()(get_prompt)
    server.request_handlers[types.ListToolsRequest] = list_tools


def licence_text(card: ModelCard) -> str:
    restrictions = "\n".join(f"- {restriction}" for restriction in USE_RESTRICTIONS)
    return f"# {card.licence}\n\n{card.gate_heading}\n\n{card.gate_prompt}\n\n{restrictions}\n\nWhole: {LICENCE_URL}\n"


def card_text(card: ModelCard) -> str:
    sections = "\n\n".join(f"## {section.title}\n\n{section.markdown}" for section in card.sections)
    return f"{card.introduction}\n\n{sections}\n"


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
