"""Examines a model folder in diffusers' layout before any library loads it: is each file what it should be?

The libraries allocate any size that a file asks for, skip what they do not find, and raise errors in their own words.
Here each fault becomes one sentence that names the file and the fix. Imports no torch, so that the doctor can examine a
folder without loading it.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sd_space.model.configs import AGAIN, NoChecker, Unfit, check_channels, check_configs, check_widths, whole
from sd_space.model.files import INDEX, WEIGHTS, files_in, needed_files
from sd_space.settings import V1_4

LFS_POINTER = b"version https://git-lfs"
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
FLOATS = {"F16", "BF16", "F32", "F64"}
CHECKPOINT_INPUT = "model.diffusion_model.input_blocks.0.0.weight"


def examine(folder: Path, variant: str | None, weights_of: Sequence[str] = tuple(WEIGHTS)) -> None:
    """Raises FilesMissing or Unfit for the first reason why the folder cannot be served."""
    found = files_in(folder)
    if INDEX in found and not any(name.startswith("safety_checker/") for name in found):
        raise NoChecker(
            f"it has no safety_checker folder; copy that of {V1_4} there, or set SD_SPACE_MODEL to another."
        )
    names = needed_files(found, variant, weights_of)
    configs = {name: _object(folder, name) for name in names if name.endswith(".json")}
    shapes: dict[str, set[int]] = {}
    for name in names:
        if name.endswith(".safetensors"):
            shapes.setdefault(name.partition("/")[0], set()).update(_dimensions(folder, name))
        elif not name.endswith(".json"):
            _content(folder, name)
    check_configs(configs)
    for part, dimensions in shapes.items():
        check_widths(part, configs[f"{part}/config.json"], dimensions)


def examine_checkpoint(path: Path, folder: Path) -> None:
    """The same for a checkpoint in one file, as far as it must fit the configuration in `folder`. Raises Unfit."""
    _content(path.parent, path.name)
    try:
        with safe_open(path, framework="np") as file:
            if CHECKPOINT_INPUT not in file.keys():  # noqa: SIM118, it is no mapping
                raise Unfit(f"it holds no UNet of Stable Diffusion; {AGAIN}, or set SD_SPACE_MODEL to another file.")
            inputs = file.get_slice(CHECKPOINT_INPUT).get_shape()[1]
    except (SafetensorError, OSError) as error:
        raise Unfit(f"it is damaged or cut short; {AGAIN}.") from error
    latents = whole("vae/config.json", _object(folder, "vae/config.json"), "latent_channels")
    check_channels(inputs, latents, latents)


def _content(folder: Path, name: str) -> bytes:
    """Raises Unfit for a file that cannot be read, is empty, or is a pointer or a web page in place of its content."""
    try:
        with (folder / name).open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise Unfit(f"{name} cannot be read ({error.strerror}); let this account read it.") from error
    if not head:
        raise Unfit(f"{name} is empty; {AGAIN}.")
    if head.startswith(LFS_POINTER):
        raise Unfit(f"{name} is a git-lfs pointer in place of the file; run git lfs pull there, or {AGAIN}.")
    if head.lstrip().lower().startswith(WEB_PAGE):
        raise Unfit(f"{name} is a web page in place of the file; {AGAIN}, by its own address.")
    return head


def _object(folder: Path, name: str) -> dict[str, Any]:
    _content(folder, name)
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{name} is not a valid JSON file; {AGAIN}.") from error
    if not isinstance(value, dict):
        raise Unfit(f"{name} is no JSON object; {AGAIN}.")
    return value


def _dimensions(folder: Path, name: str) -> Iterator[int]:
    """Every dimension of every tensor in a weights file; only its header is read."""
    _content(folder, name)
    try:
        with safe_open(folder / name, framework="np") as file:
            for key in file.keys():  # noqa: SIM118, it is no mapping
                tensor = file.get_slice(key)
                if tensor.get_dtype() not in FLOATS and not key.endswith("position_ids"):
                    raise Unfit(f"{name} holds {tensor.get_dtype()} in place of floating point numbers; {AGAIN}.")
                yield from tensor.get_shape()
    except (SafetensorError, OSError) as error:
        raise Unfit(f"{name} is damaged or cut short; delete it, and have it fetched or copied again.") from error
