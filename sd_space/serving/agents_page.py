"""/agents.md: how an agent, or whoever writes a program, accepts, draws, changes and cites, on one screen."""

from sd_space.card import LICENCE_URL, load_card

_PAGE = """# Stable Diffusion v1-4, for agents and programs

Every picture needs an acceptance of the licence and is judged by a safety checker before anybody sees it.

## 1. Accept

Only if the person you work for agrees: <{licence}>. The token goes with every call.

```bash
url={root}/gradio_api/call json="Content-Type: application/json"
event=$(curl -s $url/v2/accept_license -H "$json" -d '{{"agree": true}}' | cut -d'"' -f4)
token=$(curl -sN $url/accept_license/$event | grep -o '"[^"]*"' | tail -n 1 | tr -d '"')
```

## 2. Draw

OpenAI's image API is at {root}/v1, and the token is its key. Beside its parameters there are `negative_prompt`, `seed`,
`num_inference_steps`, `guidance_scale` and `scheduler`. Leave `size` out for the model's own.

```bash
curl -s {root}/v1/images/generations -H "Authorization: Bearer $token" -H "$json" \\
  -d '{{"prompt": "a small cabin on a snowy mountain", "n": 1, "response_format": "url"}}'
```

Each picture has an `outcome`: `ok`, `withheld` (by the checker: its picture is a placeholder, say so) or `broken`.
`"stream": true` with `"partial_images": 2` sends mosaics while it is drawn. Leaving the call ends the work.

## 3. Change

`strength` says how much; a mask's transparent part is drawn anew.

```bash
curl -s {root}/v1/images/edits -H "Authorization: Bearer $token" \\
  -F image=@picture.png -F prompt="the same cabin at night" -F strength=0.7 -F response_format=url
```

## 4. Cite

Say that a model made the picture; its file says so in XMP and signed Content Credentials, so hand on the file itself.
`result.recipe` with `result.model` and `result.revision` draws it again. {citation}

## Also

- MCP: {root}/gradio_api/mcp/ with the tools accept_license, generate, model and verify.
- `gradio_client`: `Client("{root}")`, endpoint `/generate`. Which model draws here and what it can do: `/model`.
- A refusal is one sentence that names the parameter and its range. 429 has `Retry-After`. Addresses of pictures expire.
"""


def agents_page(root: str) -> str:
    """The page for who has reached this server at `root`."""
    title = next(line.strip() for line in load_card().citation.splitlines() if "title" in line)
    return _PAGE.format(root=root, licence=LICENCE_URL, citation=f"The paper: {title.split('{')[1].rstrip('},')}.")
