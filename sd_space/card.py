"""The model card as data: example prompts, the gate's words, and the sections that the page shows.

`model_card.md` is the published card of CompVis/stable-diffusion-v1-4, word for word; its slips are repaired here, each
repair with its reason, so that the page and the card cannot drift apart.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

LICENCE_URL = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"

# (wrong, right): applied to the card's Markdown before it is cut into sections. Each must occur, or loading fails.
_REPAIRS = (
    # A path slipped into the host: the link led nowhere.
    ("https:/steps/huggingface.co/", "https://huggingface.co/"),
    ("This weights here are intended", "These weights are intended"),
    # The checker embeds the finished picture with CLIP's vision tower (diffusers safety_checker.py), not the text one.
    ("the embedding space of the `CLIPTextModel`", "the embedding space of the `CLIPVisionModel`"),
    # The page shows pictures of its own host only.
    (
        "![pareto](https://huggingface.co/CompVis/stable-diffusion/resolve/main/v1-variants-scores.jpg)",
        "[Figure: FID against CLIP score of the four checkpoints]"
        "(https://huggingface.co/CompVis/stable-diffusion/resolve/main/v1-variants-scores.jpg)",
    ),
    # "That information" came from a card that listed it first; here it follows.
    ("Based on that information, we estimate", "Based on the information below, we estimate"),
    ("Resumed from `stable-diffusion-v1-2`.225,000", "Resumed from `stable-diffusion-v1-2`. 225,000"),
    # Signs that are empty boxes where no font has them.
    ("[🤗's Stable Diffusion with 🧨Diffusers blog]", "[Hugging Face's Stable Diffusion with Diffusers blog]"),
    ("with the 🧨 Diffusers library", "with the Diffusers library"),
    ("[🤗's Diffusers library]", "[Hugging Face's Diffusers library]"),
    # diffusers deprecated `torch_dtype`, and half precision is a file variant now, no longer a branch.
    ('torch_dtype=torch.float16, revision="fp16"', 'dtype=torch.float16, variant="fp16"'),
    (
        "less than 4GB of GPU RAM available, please make sure to load the StableDiffusionPipeline in float16 precision "
        "instead of the default float32 precision as done above. You can do so by telling diffusers to expect the "
        "weights to be in float16 precision:",
        "less than 4GB of GPU RAM available, load the StableDiffusionPipeline in float16 precision as above and enable "
        "attention slicing:",
    ),
    ("huggingface-cli login", "hf auth login"),
    # What replaces the code: one example, which takes bfloat16.
    (
        "please make sure to load the `FlaxStableDiffusionPipeline` in `bfloat16` precision instead of the default "
        '`float32` precision as done above. You can do so by telling diffusers to load the weights from "bf16" branch.',
        "load the model in `bfloat16` precision instead of the default `float32` precision, as done above.",
    ),
)

# diffusers has no Flax classes any more: the first such block becomes this file, the other one is the same again.
_JAX_CODE = re.compile(r"```python\nimport jax\n.*?```", re.DOTALL)
_JAX_EXAMPLE = Path(__file__).parents[1] / "examples" / "jax_pictures.py"


@dataclass(frozen=True, slots=True)
class ExamplePrompt:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the card: its heading (of level 1 to 3) and the Markdown below it."""

    title: str
    markdown: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`examples` are the widget's five and the astronaut of the card's code; `citation` is BibTeX."""

    licence: str
    examples: tuple[ExamplePrompt, ...]
    gate_heading: str
    gate_prompt: str
    introduction: str
    sections: tuple[Section, ...]
    citation: str

    def section(self, title: str) -> Section:
        """The section with that heading; KeyError when the card has none."""
        for section in self.sections:
            if section.title == title:
                return section
        raise KeyError(title)

    @property
    def limitations(self) -> tuple[str, ...]:
        """The points of the section of that name, each in one line."""
        points = re.split(r"^- ", self.section("Limitations").markdown, flags=re.MULTILINE)[1:]
        return tuple(" ".join(point.split()) for point in points)


def parse_card(text: str) -> ModelCard:
    """Reads a model card: YAML front matter between `---` lines, then Markdown.

    Raises ValueError when the front matter or a passage that is to be repaired is missing.
    """
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    for wrong, right in _REPAIRS:
        if wrong not in body:
            raise ValueError(f"The card no longer says {wrong!r}: drop or change the repair in card.py.")
        body = body.replace(wrong, right)
    body = _JAX_CODE.sub(f"```python\n{_JAX_EXAMPLE.read_text(encoding='utf-8')}```", body, count=1)
    body = _JAX_CODE.sub("", body)

    headings = re.split(r"^ *#{1,3} (.+)$", _code_hidden(body), flags=re.MULTILINE)
    pairs = zip(headings[1::2], headings[2::2], strict=True)
    introduction, *sections = (Section(title.strip(), _code_shown(text)) for title, text in pairs if text.strip())

    citation = re.search(r"```bibtex\n(.*?)```", body, re.DOTALL)
    astronaut = re.search(r'^prompt = "(.+astronaut.+)"$', body, re.MULTILINE)
    if citation is None or astronaut is None:
        raise ValueError("The card lacks its BibTeX entry or the prompt of its code.")
    examples = [ExamplePrompt(w["example_title"], w["text"]) for w in matter["widget"]]
    return ModelCard(
        licence=matter["license"],
        examples=(*examples, ExamplePrompt("Astronaut on Mars", astronaut.group(1))),
        gate_heading=matter["extra_gated_heading"],
        # Markdown would take the last line for a part of the last point.
        gate_prompt=re.sub(r"\n(?=Please read the full)", "\n\n", matter["extra_gated_prompt"].strip()),
        introduction=introduction.markdown,
        sections=tuple(sections),
        citation="\n".join(line.removeprefix("    ") for line in citation.group(1).rstrip().splitlines()),
    )


# A comment in a code block starts with "#" as a heading does: mask those of code blocks while cutting.
def _code_hidden(markdown: str) -> str:
    return re.sub(r"```.*?```", lambda block: block.group().replace("\n#", "\n\0#"), markdown, flags=re.DOTALL)


def _code_shown(markdown: str) -> str:
    return markdown.replace("\0", "").strip()


@cache
def load_card() -> ModelCard:
    """The card of Stable Diffusion v1-4, as published beside this module."""
    return parse_card(Path(__file__).with_name("model_card.md").read_text(encoding="utf-8"))
