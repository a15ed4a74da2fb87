"""What scores the pictures of a sweep: the picture book's own scorer, or a CLIP model."""

import random
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from sd_space.card import load_card
from sd_space.tools.evaluate import scorer
from sd_space.tools.train_tiny.captions import caption, named_in
from sd_space.tools.train_tiny.world import ATTRIBUTES, NAMED_NONE

CAPTIONS = 12


class Judge(Protocol):
    """`name` says what its scores are, as the axis of a plot does; `prompts` are those to draw if none are given."""

    name: str
    prompts: list[str]

    def read(self, image: Image.Image, prompt: str) -> tuple[np.ndarray, float]:
        """(D,) features of the picture, and how well it shows the prompt; NaN where the judge cannot tell."""
        ...


class PictureBookJudge:
    """How sure the scorer, which was trained on renders, is that the picture shows what the prompt names.

    Its prompts are fresh captions, half of them of combinations that no training saw: of the card's prompts, which are
    what the checkpoint knows best, it is sure at any guidance scale.
    """

    name = "confidence of the picture book's scorer that what is named is seen (up is better)"

    def __init__(self, state: Path):
        self._scorer = scorer.train(state, "convolutional", seed=100)
        rng = random.Random("sweep")
        scenes = [scene for k in range(60) for scene in scorer.fresh_scenes(1, rng, held_out=k % 2 == 0)]
        said = (caption(scene, rng, junk=0) for scene in scenes if scene.subject != "emblem")
        self.prompts = [text for text, named in said if named_in(text) == named][:CAPTIONS]

    def read(self, image: Image.Image, prompt: str) -> tuple[np.ndarray, float]:
        features, scores = scorer.read(self._scorer, np.asarray(image)[None])
        named = {name: value for name, value in named_in(prompt).items() if value != NAMED_NONE}
        sure = [np.exp(scores[name][0, ATTRIBUTES[name].index(value)]) for name, value in named.items()]
        return features[0], float(np.mean(sure)) if sure else float("nan")


class ClipJudge:
    """100 times the cosine of CLIP's embeddings of picture and prompt (Hessel et al., 2021), as torchmetrics has it."""

    def __init__(self, source: str, device: str):
        self.name = f"CLIP score ({Path(source).name}; up is better)"
        self.prompts = [example.text for example in load_card().examples]
        self._device = device
        self._model = CLIPModel.from_pretrained(source).eval().to(device)
        self._processor = CLIPProcessor.from_pretrained(source)

    @torch.no_grad()
    def read(self, image: Image.Image, prompt: str) -> tuple[np.ndarray, float]:
        length = self._model.config.text_config.max_position_embeddings
        given = self._processor(
            text=[prompt], images=[image], return_tensors="pt", padding=True, truncation=True, max_length=length
        )
        seen = self._model(**given.to(self._device))  # both embeddings are of unit length
        cosine = (seen.image_embeds * seen.text_embeds).sum()
        return seen.image_embeds[0].cpu().numpy(), 100 * float(cosine)
