"""Where the model is that the settings name: a folder or a checkpoint on this machine, or a repository of the Hub."""

import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from sd_space.model.hub_errors import unavailable
from sd_space.settings import V1_4

FIX = "correct SD_SPACE_MODEL or --model"


def local_path(model: str) -> Path | None:
    """The folder or the `.safetensors` file of that name, or `None` where it can only be on the Hub.

    Raises ModelUnavailable for what can be none of these; a pipe would be waited for without end.
    """
    if os.path.isdir(model):
        return Path(model)
    is_checkpoint = model.endswith(".safetensors")
    is_path = os.path.isabs(model) or model.startswith(("./", "../"))
    if not os.path.exists(model):
        if is_path or is_checkpoint:
            raise unavailable(f"SD_SPACE_MODEL names {model}, which does not exist; {FIX}.")
        _check_name(model)
        return None
    if not os.path.isfile(model):
        raise unavailable(f"SD_SPACE_MODEL names {model}, which is neither a folder nor a regular file; {FIX}.")
    if not is_checkpoint:
        raise unavailable(f"{model} is no .safetensors file, and nothing else is loaded; convert it first.")
    return Path(model)


def _check_name(model: str) -> None:
    try:
        validate_repo_id(model)
    except HFValidationError:
        raise unavailable(
            f"{model} is no folder here and can be no name on the Hub; set SD_SPACE_MODEL to a name such as {V1_4}, a "
            "folder or a .safetensors file."
        ) from None
