"""What scores the pictures of a sweep: the picture book's own scorer, or a CLIP model."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from sd_space.tools.evaluate import metrics, scorer
from sd_space.tools.train_tiny.captions import named_in
from sd_space.tools.train_tiny.world import NAMED_NONE


class Judge(Protocol):
    """`name` says what its scores are, as the axis of a plot does."""

    name: str

    def read(self, image: Image.Image, prompt: str) -> tuple[np.ndarray, float]:
        """(D,) features of the picture, and how well it shows the prompt; NaN where the judge cannot tell."""
        ...


class PictureBookJudge:
    """The share of what a prompt names that the picture shows, as the scorer sees it that was trained on renders."""

    name = "share of what the prompt names that is seen (picture book's scorer; up is better)"

    def __init__(self, state: Path):
        self._scorer = scorer.train(state, "convolutional", seed=100)

    def read(self, image: Image.Image, prompt: str) -> tuple[np.ndarray, float]:
        features, scores = scorer.read(self._scorer, np.asarray(image)[None])
        named = named_in(prompt)
        is_told = any(value != NAMED_NONE for value in named.values())
        return features[0], metrics.adherence(scores, [named])["adherence"] if is_told else float("nan")


class ClipJudge:
    """100 times the cosine of CLIP's embeddings of picture and prompt (Hessel et al., 2021), as torchmetrics has it."""

    def __init__(self, source: str, device: str):
        self.name = f"CLIP score ({Path(source).name}; up is better)"
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
