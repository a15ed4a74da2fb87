"""Which files of a repository or folder make up a model: safetensors only, each component in one variant."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

INDEX = "model_index.json"
WEIGHTS = {  # folder -> how its weights files begin
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
CONFIGS = ("scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json")
TOKENIZER = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
FOLDERS = (*WEIGHTS, "scheduler", "feature_extractor", "tokenizer")


class FilesMissing(Exception):
    """A folder or repository lacks what a pipeline needs; the text says what."""


def variant_of(names: Collection[str], folder: str, wanted: str | None) -> str | None:
    """The variant in which `folder` has safetensors: the wanted one, else the plain one, else `fp16`.

    Raises FilesMissing where there is none of these, even if there are pickled weights.
    """
    for variant in dict.fromkeys((wanted, None, "fp16")):
        if _weights(names, folder, variant):
            return variant
    raise FilesMissing(f"no safetensors in {folder}, and nothing else is loaded")


def needed_files(names: Collection[str], wanted: str | None, weights_of: Sequence[str] = tuple(WEIGHTS)) -> list[str]:
    """The files of a repository that a pipeline needs; weights only of the folders in `weights_of`.

    Raises FilesMissing when they are not all in `names`.
    """
    if INDEX not in names:
        raise FilesMissing(f"no {INDEX}, so it is no model in diffusers' layout")
    configs = {f"{folder}/config.json" for folder in WEIGHTS} | set(CONFIGS)
    missing = sorted(configs - set(names))
    tokenizer = {name.removeprefix("tokenizer/") for name in names if name.startswith("tokenizer/")}
    if "tokenizer.json" not in tokenizer and not {"vocab.json", "merges.txt"} <= tokenizer:
        missing.append("tokenizer/vocab.json")
    if missing:
        raise FilesMissing(f"no {missing[0]}")
    needed = configs | {INDEX} | {f"tokenizer/{name}" for name in tokenizer & TOKENIZER}
    for folder in weights_of:
        needed |= set(_weights(names, folder, variant_of(names, folder, wanted)))
    return sorted(needed)


def _weights(names: Collection[str], folder: str, variant: str | None) -> list[str]:
    """The weights files of one variant, one file or all shards with their index; empty when not complete."""
    stem, dotted = f"{folder}/{WEIGHTS[folder]}", f".{variant}" if variant else ""
    whole, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
    if whole in names:
        return [whole]
    pattern = re.compile(rf"{re.escape(stem + dotted)}-\d{{5}}-of-(\d{{5}})\.safetensors")
    shards = [match for match in map(pattern.fullmatch, sorted(names)) if match]
    if index not in names or not shards or len(shards) != int(shards[0][1]):
        return []
    return [index, *(match[0] for match in shards)]


def files_in(folder: Path) -> set[str]:
    """The names of a folder's files as a repository lists them; of its subfolders only those that a model has."""
    found = {path.name for path in folder.iterdir() if path.is_file()}
    for subfolder in FOLDERS:
        if (folder / subfolder).is_dir():  # which may be a link
            found |= {f"{subfolder}/{path.name}" for path in (folder / subfolder).iterdir() if path.is_file()}
    return found


def format_size(count: float) -> str:
    """Bytes as people write them: '482 bytes', '64 kB', '246 MB', '2.74 GB'."""
    for unit, scale, digits in (("GB", 1e9, 2), ("MB", 1e6, 0), ("kB", 1e3, 0)):
        if count >= scale:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:.0f} bytes"
