"""The tokenizer and the text encoder: byte-level BPE, and a CLIP text model that learns to read attributes."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sd_space.tools.train_tiny import loop
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.world import ATTRIBUTES, NAMED_NONE, sample_scene

VOCABULARY = 3072
LENGTH = 77
WIDTH = 128
STEPS = 2600
FIRST_CAPTIONS = 40000  # that the merges are learned from
BATCH = 64
START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(texts: list[str] | None = None, *, vocabulary: int = VOCABULARY) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from `texts`: 256 bytes, 256 bytes at a word's end, merges, start, end."""
    if texts is None:
        rng = random.Random(0)
        texts = [caption(sample_scene(rng), rng, junk=0.2)[0] for _ in range(FIRST_CAPTIONS)]
    backend = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer, learner.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary - 258, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
        ),
    )
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: vocabulary - 514]
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges), START, END]
    tokens = list(dict.fromkeys(tokens))
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        model_max_length=LENGTH,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Reader(nn.Module):
    """The text encoder and one linear head per attribute, which reads any position from the end token on."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.encoder = make_text_encoder(tokenizer)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in ATTRIBUTES.items()})

    def forward(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """`ids` (B, L), `positions` (K, B) -> for each attribute (K * B, values) logits."""
        hidden = self.encoder(ids).last_hidden_state
        state = hidden[torch.arange(len(ids), device=ids.device), positions].flatten(0, 1)
        return {name: head(state) for name, head in self.heads.items()}


def labels(named: list[dict[str, str]]) -> dict[str, Tensor]:
    return {name: torch.tensor([values.index(n[name]) for n in named]) for name, values in ATTRIBUTES.items()}


def train(folder: Path, *, seed: int, steps: int = STEPS, device: str = "cpu") -> int:
    """Trains the tokenizer (where there is none yet) and the reader; returns the step reached."""
    if not (folder / "tokenizer" / "tokenizer_config.json").exists():
        make_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = load_tokenizer(folder)
    torch.manual_seed(seed)
    reader = Reader(tokenizer).to(device)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)

    def step(number: int, rng: np.random.Generator) -> float:
        choice = random.Random(int(rng.integers(2**62)))
        drawn = [caption(sample_scene(choice), choice, junk=0.35) for _ in range(BATCH - 2)]
        nothing = dict.fromkeys(ATTRIBUTES, NAMED_NONE)
        drawn += [("", nothing), (" ".join(choice.choices(("nothing", "here", "today", "4k"), k=2)), nothing)]
        texts, named = zip(*drawn, strict=True)
        length = LENGTH if number % 4 == 0 else None
        ids = tokenizer(
            list(texts), padding="max_length" if length else "longest", truncation=True, return_tensors="pt"
        ).input_ids
        ends = (ids == tokenizer.eos_token_id).int().argmax(1)
        last = ids.shape[1] - 1
        late = ends + (torch.from_numpy(rng.random(len(ids))) * (last - ends + 1)).long()
        ids, targets = ids.to(device), {name: value.to(device) for name, value in labels(list(named)).items()}
        for group in optimizer.param_groups:
            progress = number / steps
            group["lr"] = 1e-3 * min(1.0, (number + 1) / 100) * min(1.0, 2 * (1 - progress) + 1e-3)
        logits = reader(ids, torch.stack([ends, late]).to(device))
        loss = sum(functional.cross_entropy(logits[name], target.repeat(2)) for name, target in targets.items())
        return loop.descend(loss, optimizer, reader)

    return loop.train(
        "text", folder / "text.pt", {"reader": reader, "optimizer": optimizer}, step, seed=seed, steps=steps
    )


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder / "tokenizer")


def load_reader(folder: Path) -> tuple[CLIPTokenizer, Reader]:
    tokenizer = load_tokenizer(folder)
    reader = Reader(tokenizer)
    reader.load_state_dict(loop.load(folder / "text.pt")["parts"]["reader"])
    return tokenizer, reader.eval().requires_grad_(False)


@torch.no_grad()
def embed(tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    """(N, 77, 128): the last hidden state, as the pipeline hands it to the UNet."""
    device = next(encoder.parameters()).device
    chunks = []
    for start in range(0, len(texts), 64):
        ids = tokenizer(
            texts[start : start + 64], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        ).input_ids
        chunks.append(encoder(ids.to(device)).last_hidden_state.cpu())
    return torch.cat(chunks)


@torch.no_grad()
def accuracy(folder: Path, *, seed: int = 1, count: int = 400, held_out: bool = False) -> dict[str, float]:
    """How often each attribute of `count` new captions is read right, from the last of the 77 positions."""
    tokenizer, reader = load_reader(folder)
    rng = random.Random(seed)
    drawn = [caption(sample_scene(rng, held_out=held_out), rng) for _ in range(count)]
    texts, named = zip(*drawn, strict=True)
    ids = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids
    logits = reader(ids, torch.full((1, count), LENGTH - 1))
    return {
        name: float((logits[name].argmax(1) == target).float().mean()) for name, target in labels(list(named)).items()
    }
