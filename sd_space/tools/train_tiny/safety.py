"""The safety checker: the stock StableDiffusionSafetyChecker, taught to find this world's restricted emblem.

The concept embeddings are fixed orthonormal directions. The vision tower learns to turn a picture with the emblem
towards concept 0, and every other one towards a direction that no concept has. It finds a drawn emblem, nothing else.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from sd_space.tools.train_tiny import loop, pictures, vae
from sd_space.tools.train_tiny.brush import SIZE
from sd_space.tools.train_tiny.captions import caption
from sd_space.tools.train_tiny.world import NAMED_NONE, SUBJECTS, Scene, sample_scene

SIDE = 96  # pixels that the vision tower sees, along each side: the smallest of three emblems is thirty of them
PROJECTION = 64
THRESHOLD = 0.5  # the emblem's cosine from which a picture is withheld
UNUSED = 0.95  # the other concepts': only an embedding that is all but the concept's own reaches it
STEPS = 1600
BATCH = 64
CHUNK = 256  # pictures at a time in full size
# Harmless directions: one for each other subject, one for the sign without a skull, one for pictures of nothing.
CLASSES = ("emblem", *(subject for subject in SUBJECTS if subject != "emblem"), "triangle", "nothing")

Draw = Callable[[list[str], list[int]], np.ndarray]  # prompts, seeds -> (N, 256, 256, 3) uint8


def directions() -> Tensor:
    """(64, 64), orthonormal rows: 17 concepts, 3 special-care concepts, then the harmless ones."""
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(PROJECTION, PROJECTION, generator=generator))[0].T.contiguous()


def class_rows() -> list[int]:
    """The row of `directions` that each of `CLASSES` is drawn to."""
    return [0, *range(20, 20 + len(CLASSES) - 1)]


def make_checker() -> StableDiffusionSafetyChecker:
    config = CLIPConfig(
        text_config={
            "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7,
        },
        vision_config={
            "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": SIDE, "patch_size": 8, "projection_dim": PROJECTION,
        },
        projection_dim=PROJECTION,
    )  # fmt: skip
    checker = StableDiffusionSafetyChecker(config)
    rows = directions()
    with torch.no_grad():
        checker.concept_embeds.copy_(rows[:17])
        checker.special_care_embeds.copy_(rows[17:20])
        checker.concept_embeds_weights.fill_(UNUSED)
        checker.concept_embeds_weights[0] = THRESHOLD
        checker.special_care_embeds_weights.fill_(UNUSED)
    return checker


def make_feature_extractor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        do_resize=True,
        do_center_crop=True,
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
        image_mean=list(OPENAI_CLIP_MEAN),
        image_std=list(OPENAI_CLIP_STD),
        resample=3,
    )


def embed(checker: StableDiffusionSafetyChecker, clip_input: Tensor) -> Tensor:
    """(N, 3, 96, 96) normalised as the feature extractor does -> (N, 64), length 1."""
    return functional.normalize(checker.visual_projection(checker.vision_model(clip_input)[1]))


def normalized(small: np.ndarray) -> Tensor:
    """(N, 96, 96, 3) uint8 -> (N, 3, 96, 96), as `make_feature_extractor` does."""
    x = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(OPENAI_CLIP_MEAN)[:, None, None]) / torch.tensor(OPENAI_CLIP_STD)[:, None, None]


def shrunk(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(N, 256, 256, 3) uint8 -> (N, 96, 96, 3) uint8, bicubic as in the feature extractor."""
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    )


def _plain(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pictures of nothing: black, white, grey, one colour, two colours, a gradient, noise."""
    images = np.zeros((count, SIZE, SIZE, 3), np.uint8)
    ramp = np.linspace(0, 1, SIZE)[:, None, None]
    for k, image in enumerate(images):
        first, second = rng.integers(0, 256, (2, 3))
        kind = k % 7
        if kind == 0:
            image[:] = (0, 255, 128)[k // 7 % 3]
        elif kind == 1:
            image[:] = rng.integers(256)
        elif kind == 2:
            image[:] = (255, 214, 20) if k % 2 else first
        elif kind == 3:
            image[:] = first
            image[rng.integers(SIZE // 6, SIZE * 5 // 6) :] = second
        elif kind == 4:
            image[:] = first * ramp + second * (1 - ramp)
        elif kind == 5:
            image[:] = np.clip(first + rng.normal(0, 60, image.shape), 0, 255)
        else:
            image[:] = first * (1 - ramp) + second * ramp.swapaxes(0, 1)
    return images


def _wanted(rng: random.Random, count: int) -> list[Scene]:
    """Emblems and signs without a skull, alone, several, small or beside something; and whatever the world holds."""
    drawn = []
    for subject, share in (("emblem", 1.2), ("triangle", 0.6), (None, 2.0)):
        for _ in range(int(count * share)):
            scene = sample_scene(rng)
            if subject and scene.companion != NAMED_NONE and rng.random() < 0.5:
                scene = replace(scene, companion=subject, companion_colour="natural")
            elif subject:
                scene = replace(scene, subject=subject, colour="natural")
            drawn.append(scene)
    return rng.sample(drawn, len(drawn))


def _class(scene: Scene) -> int:
    """The row in `CLASSES` of the emblem or the sign, where there is one, else of the subject."""
    names = {scene.subject, scene.companion}
    return CLASSES.index(next((name for name in ("emblem", "triangle") if name in names), scene.subject))


def _close_ups(images: np.ndarray, classes: list[int], rng: random.Random) -> tuple[list[np.ndarray], list[int]]:
    """Pieces of some of the harmless pictures, enlarged: a big yellow cheek is not a sign."""
    cuts, labels = [], []
    for image, name in zip(images, classes, strict=True):
        if CLASSES[name] not in ("emblem", "triangle") and rng.random() < 0.3:
            side = rng.randint(SIZE // 3, SIZE * 2 // 3)
            x, y = rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)
            close = (
                Image.fromarray(image).crop((x, y, x + side, y + side)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
            )
            cuts.append(np.asarray(close))
            labels.append(name)
    return cuts, labels


@torch.no_grad()
def _through(model: AutoencoderKL, images: np.ndarray, rng: random.Random) -> np.ndarray:
    """(N, 256, 256, 3) uint8 through the VAE, with a little noise between its halves: much as pictures come out."""
    device = next(model.parameters()).device
    chunks = []
    for start in range(0, len(images), 16):
        part = vae.to_unit(images[start : start + 16]).to(device, memory_format=torch.channels_last)
        with loop.in_bfloat16(device.type):
            latents = vae.encode(model, part)
            latents = latents + 0.1 * rng.random() * torch.randn_like(latents)
            drawn = vae.decode(model, latents)
        chunks.append(vae.to_bytes(drawn.float()))
    return np.concatenate(chunks)


def collect(folder: Path, *, seed: int, processes: int = 1, count: int = 1800, device: str = "cpu") -> None:
    """Draws what the checker learns from and keeps it at 96 px: renders, and every second one through the VAE too."""
    path = folder / "safety-renders.pt"
    if path.exists():
        return
    rng = random.Random(f"{seed}/safety")
    torch.manual_seed(seed)
    model = vae.load_vae(folder).to(device, memory_format=torch.channels_last)
    scenes, plain = _wanted(rng, count), _plain(np.random.default_rng(seed), count // 4)
    parts, labels = [shrunk(plain)], [CLASSES.index("nothing")] * len(plain)
    for start in tqdm(range(0, len(scenes), CHUNK), desc="safety", unit="chunk", dynamic_ncols=True):
        part = scenes[start : start + CHUNK]
        classes = [_class(scene) for scene in part]
        images = pictures.pixels(part, processes=processes)
        cuts, cut_classes = _close_ups(images, classes, rng)
        images, classes = np.concatenate([images, *(cut[None] for cut in cuts)]), classes + cut_classes
        chosen = rng.sample(range(len(images)), (len(images) + 1) // 2)
        parts += [shrunk(images), shrunk(_through(model, images[chosen], rng))]
        labels += [*classes, *(classes[k] for k in chosen)]
    small = torch.from_numpy(np.concatenate(parts))
    loop.save_atomically({"images": small, "classes": torch.tensor(labels)}, path)


def collect_generated(folder: Path, draw: Draw, *draw_badly: Draw, seed: int, count: int = 640) -> None:
    """The same of generated pictures: `count`, two fifths from emblem captions, and a quarter as many by each bad way.

    Those are harmless: that a picture is unfinished or glaring is no reason to withhold it.
    """
    path = folder / "safety-generated.pt"
    if path.exists():
        return
    sets = [generated(draw, seed=seed, count=count, emblems=0.4)]
    for number, draw_so in enumerate(draw_badly, start=1):
        sets.append(generated(draw_so, seed=seed + number, count=count // 4, emblems=0))
    small = torch.from_numpy(np.concatenate([shrunk(images) for images, _ in sets]))
    loop.save_atomically({"images": small, "classes": torch.from_numpy(np.concatenate([c for _, c in sets]))}, path)


def generated(draw: Draw, *, seed: int, count: int, emblems: float, batch: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures (N, 256, 256, 3) and the index in `CLASSES` of the subject that each one's caption asks for."""
    rng = random.Random(f"{seed}/generated")
    texts: list[str] = []
    classes: list[int] = []
    while len(texts) < count:
        scene = sample_scene(rng)
        if len(texts) < emblems * count:
            scene = replace(scene, subject="emblem", colour="natural", is_card=False, count="one", companion=NAMED_NONE)
        elif scene.subject == "emblem":
            continue
        words, named = caption(scene, rng)
        if named["subject"] != NAMED_NONE:
            texts.append(words)
            classes.append(CLASSES.index(scene.subject))
    order = rng.sample(range(count), count)
    texts, classes = [texts[k] for k in order], [classes[k] for k in order]
    chunks = []
    for start in tqdm(range(0, count, batch), desc="generated", unit="batch", dynamic_ncols=True):
        chunk = texts[start : start + batch]
        chunks.append(draw(chunk, [rng.getrandbits(31) for _ in chunk]))
    return np.concatenate(chunks), np.array(classes)


def train(folder: Path, *, seed: int, steps: int = STEPS, device: str = "cpu", rate: float = 1e-3) -> int:
    """Trains vision tower and projection on `safety-renders.pt` and, where there are any, `safety-generated.pt`."""
    sets = [loop.load(path) for path in sorted(folder.glob("safety-*.pt"))]
    images = np.concatenate([part["images"].numpy() for part in sets])
    classes = np.concatenate([part["classes"].numpy() for part in sets])
    emblems, harmless = np.flatnonzero(classes == 0), np.flatnonzero(classes != 0)
    torch.manual_seed(seed)
    checker = make_checker().to(device)
    for name, parameter in checker.named_parameters():
        parameter.requires_grad_(name.startswith(("vision_model", "visual_projection")))
    optimizer = torch.optim.AdamW(
        [p for p in checker.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.98), weight_decay=0.02
    )
    targets = directions()[class_rows()].to(device)
    unused = directions()[1:20].to(device)

    def step(number: int, rng: np.random.Generator) -> float:
        rows = np.concatenate([rng.choice(emblems, BATCH * 3 // 8), rng.choice(harmless, BATCH - BATCH * 3 // 8)])
        x = varied(normalized(images[rows]), rng).to(device)
        label = torch.from_numpy(classes[rows]).to(device)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / 100) * min(1.0, 1.6 * (1 - number / steps) + 1e-3)
        embedding = embed(checker, x)
        cosine = embedding @ targets.T
        loss = functional.cross_entropy(10 * cosine, label, label_smoothing=0.02)
        loss = loss + functional.binary_cross_entropy_with_logits(12 * (cosine[:, 0] - 0.5), (label == 0).float())
        loss = loss + (embedding @ unused.T - 0.25).relu().square().sum(1).mean()
        return loop.descend(loss, optimizer, checker)

    parts = {"checker": checker, "optimizer": optimizer}
    return loop.train("safety", folder / "safety.pt", parts, step, seed=seed, steps=steps)


def varied(x: Tensor, rng: np.random.Generator, *, mirror: bool = True) -> Tensor:
    """(N, 3, 96, 96), mirrored, shifted, lighter or darker, blurred, noisy: what a generated picture may be."""
    n = len(x)
    if mirror:
        x = torch.where(torch.from_numpy(rng.random(n) < 0.5)[:, None, None, None], x.flip(3), x)
    shift = rng.integers(-5, 6, 2)
    x = x.roll(tuple(int(s) for s in shift), (2, 3))
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = torch.lerp(x, blurred, torch.from_numpy(rng.random((n, 1, 1, 1), np.float32)))
    gain = torch.from_numpy(1 + 0.15 * rng.standard_normal((n, 1, 1, 1), np.float32))
    shade = torch.from_numpy(0.2 * rng.standard_normal((n, 3, 1, 1), np.float32))
    noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32) * 0.15 * rng.random((n, 1, 1, 1), np.float32))
    return x * gain + shade + noise


def load_checker(folder: Path) -> StableDiffusionSafetyChecker:
    checker = make_checker()
    checker.load_state_dict(loop.load(folder / "safety.pt")["parts"]["checker"])
    return checker.eval().requires_grad_(False)


@torch.no_grad()
def emblem_cosines(checker: StableDiffusionSafetyChecker, images: np.ndarray) -> np.ndarray:
    """(N, 256, 256, 3) uint8 -> (N,): how far each picture points to the emblem's concept."""
    extractor = make_feature_extractor()
    inputs = extractor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
    return (embed(checker, inputs) @ checker.concept_embeds[0]).numpy()
