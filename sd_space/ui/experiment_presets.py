"""What a strip on the page may change, and the values that are offered for it."""

from sd_space.languages import Phrase
from sd_space.request import REQUEST_FIELDS
from sd_space.served_model import ModelInfo
from sd_space.serving.strip import EVALUATION, MAX_STRIP, SIZE
from sd_space.ui.form import size_choices

_OFFERED = {
    "guidance_scale": EVALUATION,
    "num_inference_steps": "5, 10, 20, 50",
    "scheduler": "",
    SIZE: "",
    "negative_prompt": "\ndark, night",  # without one first
    "prompt": "a cat on a beach\na robot on a beach",
}
# The choices, as labels with the fields that they stand for.
CHANGES = tuple((REQUEST_FIELDS[name].label if name in REQUEST_FIELDS else Phrase("Size"), name) for name in _OFFERED)


def offered_values(field: object, info: ModelInfo) -> str:
    """The values that are offered for a field, as the served model takes them; of anything else none."""
    match field:
        case "scheduler":
            return ", ".join(info.limits.schedulers[:MAX_STRIP])
        case "size":
            return ", ".join(size for _, size in size_choices(info.defaults))
    return _OFFERED.get(str(field), "")
