"""What a request says in words, as the UNet is fed it: embedded by the text encoder of a stock pipeline.

Shapes: L tokens (77 in v1-4), D features.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from diffusers import StableDiffusionPipeline

from sd_space.engine.batcher import BatchKey
from sd_space.engine.denoising_state import EncodedPrompt
from sd_space.request import GenerationRequest

CACHED_EMBEDS = 64  # prompts, 0.1 to 0.2 MB each with v1-4


class PromptEncoder:
    """Keeps the embeddings of the last texts: visitors repeat prompts, and most negative prompts are empty."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        self._tokenizer = pipeline.tokenizer
        self._text_encoder = pipeline.text_encoder
        self._embeds: OrderedDict[str, tuple[torch.Tensor, str]] = OrderedDict()  # by text, the last used last

    def encode(
        self,
        request: GenerationRequest,
        device: torch.device,
        retried: Callable[[Callable[[], torch.Tensor]], torch.Tensor],
    ) -> EncodedPrompt:
        """Prompt and negative prompt, each in a call of its own as the stock pipeline does. `retried` makes them."""
        prompt_embeds, truncated = self._embed(request.prompt, device, retried)
        if not BatchKey.of(request).has_guidance:
            return EncodedPrompt(prompt_embeds, None, truncated)
        return EncodedPrompt(prompt_embeds, self._embed(request.negative_prompt, device, retried)[0], truncated)

    def _embed(
        self, text: str, device: torch.device, retried: Callable[[Callable[[], torch.Tensor]], torch.Tensor]
    ) -> tuple[torch.Tensor, str]:
        """(1, L, D) embeddings of `text`, and the part of it beyond the encoder's tokens."""
        if text not in self._embeds:
            self._embeds[text] = self._compute_embeds(text, device, retried)
            if len(self._embeds) > CACHED_EMBEDS:
                self._embeds.popitem(last=False)
        self._embeds.move_to_end(text)
        return self._embeds[text]

    def _compute_embeds(
        self, text: str, device: torch.device, retried: Callable[[Callable[[], torch.Tensor]], torch.Tensor]
    ) -> tuple[torch.Tensor, str]:
        tokenizer, text_encoder = self._tokenizer, self._text_encoder
        max_length = tokenizer.model_max_length
        ids = tokenizer(text, padding="max_length", max_length=max_length, truncation=True, return_tensors="pt")
        embeds = retried(lambda: text_encoder(ids.input_ids.to(device), attention_mask=None)[0])
        all_ids = tokenizer(text).input_ids
        truncated = tokenizer.decode(all_ids[max_length - 1 : -1]).strip() if len(all_ids) > max_length else ""
        return embeds.to(dtype=text_encoder.dtype, device=device), truncated
