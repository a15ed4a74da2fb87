"""Damages of a model folder, of the kinds that copying, editing and fetching leave behind."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[random.Random, Path], str]  # damages the folder and says how

CONFIGS = (
    "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
    "text_encoder/config.json", "safety_checker/config.json", "feature_extractor/preprocessor_config.json",
    "tokenizer/tokenizer_config.json", "tokenizer/tokenizer.json", "sd_space.json",
)  # fmt: skip
WEIGHTS = (
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors", "safety_checker/model.safetensors",
)  # fmt: skip
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1719125304\n"
WEB_PAGE = "\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404</body></html>\n"
ODD_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 5, 9, 17, 64, 10**6, 10**12, 10**400, 0.5, -0.5, 1e-30, 1e30, math.inf, math.nan,
    "", "64", "silu", "relu", "nonsense", "a\nb", [], {}, [1], [32, 64], ["a"], {"a": 1}, [[1, 2], [3]],
)  # fmt: skip
OTHER_CLASSES = (
    "UNet2DConditionModel", "UNet3DConditionModel", "AutoencoderKL", "AutoencoderTiny", "CLIPTextModel",
    "T5EncoderModel",
    "CLIPTextModelWithProjection", "CLIPTokenizer", "PNDMScheduler", "StableDiffusionSafetyChecker", "ControlNetModel",
    "CLIPImageProcessor", "no such class", "os.system", None, 7,
)  # fmt: skip
SCHEDULERS = (
    "DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler",
    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler", "DEISMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler", "NoSuchScheduler", "SchedulerMixin",
)  # fmt: skip


def replaced(path: Path, data: bytes | str) -> None:
    """The file with other contents; never written into, for it may be shared with other folders."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def any_file(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def any_part(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()))


def missing(rng: random.Random, folder: Path) -> str:
    path = any_file(rng, folder)
    path.unlink()
    return f"{path.relative_to(folder)} is missing"


def missing_part(rng: random.Random, folder: Path) -> str:
    part = any_part(rng, folder)
    shutil.rmtree(part)
    return f"{part.name} is missing"


def other_contents(rng: random.Random, folder: Path) -> str:
    path = any_file(rng, folder)
    kind = rng.choice(("empty", "blank", "pointer", "page", "bytes", "[]", "null", "3", '"text"', "{}", "[" * 99_999))
    contents = {"empty": "", "blank": " \n", "pointer": LFS_POINTER, "page": WEB_PAGE, "bytes": b"\xff\xfe\x00" * 99}
    replaced(path, contents.get(kind, kind))
    return f"{path.relative_to(folder)} holds {kind[:9]}"


def cut_short(rng: random.Random, folder: Path) -> str:
    path = any_file(rng, folder)
    data = path.read_bytes()
    replaced(path, data[: rng.choice((1, 7, 8, 9, len(data) // 2, len(data) - 1))])
    return f"{path.relative_to(folder)} is cut short"


def other_kind(rng: random.Random, folder: Path) -> str:
    path = any_file(rng, folder)
    kind = rng.choice(("folder", "link to itself", "link to nothing", "link to another"))
    other = any_file(rng, folder)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"link to itself": path, "link to nothing": folder / "nowhere"}.get(kind, other))
    return f"{path.relative_to(folder)} is a {kind} ({other.relative_to(folder)})"


def link_in_place_of_a_part(rng: random.Random, folder: Path) -> str:
    """As in caches; harmless."""
    part = any_part(rng, folder)
    elsewhere = folder.parent / f"{folder.name}-{part.name}"
    part.rename(elsewhere)
    part.symlink_to(elsewhere, target_is_directory=True)
    return f"{part.name} is a link to a folder elsewhere"


def part_that_leads_back(rng: random.Random, folder: Path) -> str:
    part = any_part(rng, folder)
    again = part / "again"
    if not again.is_symlink():
        again.symlink_to(folder, target_is_directory=True)
    return f"{part.name} holds a link to the whole folder"


def more_files(rng: random.Random, folder: Path) -> str:
    name = rng.choice(
        ("README.md", "unet/notes.txt", "v1-4.ckpt", "unet/diffusion_pytorch_model.bin", "unet/pytorch_model.bin",
         "text_encoder/pytorch_model.bin", "vae/extra.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
         "scheduler/evil.py", "unet.py", "pipeline.py", "image_encoder/config.json", ".gitattributes")
    )  # fmt: skip
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    replaced(path, rng.choice(("raise SystemExit", "{}", "a pickle", LFS_POINTER)))
    return f"there is {name} too"


def other_value(rng: random.Random, folder: Path) -> str:
    """A field of a configuration taken away, added, or with another value."""
    path = folder / rng.choice(CONFIGS)
    if not path.is_file():
        return "nothing"
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return "nothing"
    if not isinstance(config, dict) or not config:
        return "nothing"
    place: Any = config
    while True:
        field = rng.choice(sorted(place))
        if not (isinstance(place[field], dict) and place[field] and rng.random() < 0.8):
            break
        place = place[field]
    if rng.random() < 0.3:
        del place[field]
        told = f"lacks {field}"
    else:
        place[field] = rng.choice(ODD_VALUES)
        told = f"says {field} is {str(place[field])[:20]!r}"
    replaced(path, json.dumps(config))
    return f"{path.relative_to(folder)} {told}"


def other_class(rng: random.Random, folder: Path) -> str:
    path = folder / "model_index.json"
    if not path.is_file():
        return "nothing"
    try:
        index = json.loads(path.read_text())
        parts = sorted(name for name, value in index.items() if isinstance(value, list))
    except (ValueError, RecursionError, AttributeError):
        return "nothing"
    if not parts:
        return "nothing"
    part, other = rng.choice(parts), rng.choice(parts)
    change = rng.choice(("swap", "null", "other", "library"))
    if change == "swap":
        index[part], index[other] = index[other], index[part]
    elif change == "null":
        index[part] = [None, None]
    elif change == "other":
        index[part] = [index[part][0], rng.choice(OTHER_CLASSES)]
    else:
        index[part] = [rng.choice(("os", "evil", "", "diffusers.pipelines")), index[part][1]]
    replaced(path, json.dumps(index))
    return f"model_index.json: {change} {part}, {index[part]}"


def other_scheduler(rng: random.Random, folder: Path) -> str:
    index, config = folder / "model_index.json", folder / "scheduler" / "scheduler_config.json"
    name = rng.choice(SCHEDULERS)
    try:
        values = {path: json.loads(path.read_text()) for path in (index, config)}
        values[index]["scheduler"] = ["diffusers", name]
        values[config] |= {"_class_name": name, "prediction_type": rng.choice(("epsilon", "v_prediction", "sample"))}
    except (OSError, ValueError, RecursionError, TypeError):
        return "nothing"
    for path, value in values.items():
        replaced(path, json.dumps(value))
    return f"the scheduler is a {name}, {values[config]['prediction_type']}"


def other_tensors(rng: random.Random, folder: Path) -> str:
    """A tensor missing, spare, of another shape or dtype, or with a value that is no number."""
    path = folder / rng.choice(WEIGHTS)
    try:
        tensors = load_file(path)
    except Exception:
        return "nothing"
    key = rng.choice(sorted(tensors))
    kind = rng.choice(("missing", "spare", "wider", "flat", "half", "double", "whole numbers", "nan", "inf", "none"))
    value = tensors[key]
    if kind == "missing":
        del tensors[key]
    elif kind == "spare":
        tensors["spare." + key] = value.clone()
    elif kind == "none":
        tensors.clear()
    elif kind in ("nan", "inf"):
        tensors[key] = value.clone()
        tensors[key].view(-1)[0] = float(kind)
    else:
        tensors[key] = {
            "wider": lambda: torch.cat([value, value]), "flat": lambda: value.flatten(), "half": value.half,
            "double": value.double, "whole numbers": value.int,
        }[kind]()  # fmt: skip
    path.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return f"{path.relative_to(folder)}: {key} {kind}"


def other_channels(rng: random.Random, folder: Path) -> str:
    """The UNet of another kind of model, whole in itself: for inpainting, for editing, for depth."""
    weights, config = folder / WEIGHTS[0], folder / "unet" / "config.json"
    channels = rng.choice((5, 7, 8, 9, 12))
    try:
        tensors, values = load_file(weights), json.loads(config.read_text())
        values["in_channels"] = channels
        value = tensors["conv_in.weight"]
        tensors["conv_in.weight"] = torch.zeros(len(value), channels, 3, 3)
    except Exception:
        return "nothing"
    weights.unlink()
    save_file(tensors, weights, metadata={"format": "pt"})
    replaced(config, json.dumps(values))
    return f"a UNet of {channels} channels"


DAMAGES: tuple[tuple[Damage, int], ...] = (  # and how often, beside the others
    (missing, 2), (missing_part, 1), (other_contents, 4), (cut_short, 2), (other_kind, 2), (link_in_place_of_a_part, 1),
    (part_that_leads_back, 1), (more_files, 2), (other_value, 8), (other_class, 2), (other_scheduler, 3),
    (other_tensors, 3), (other_channels, 1),
)  # fmt: skip


def damage(rng: random.Random, folder: Path) -> list[str]:
    """Does one to three damages to `folder`; says which."""
    kinds, weights = zip(*DAMAGES, strict=True)
    return [kind(rng, folder) for kind in rng.choices(kinds, weights, k=rng.choice((1, 1, 2, 3)))]
