"""The devices that draw, each with an engine, as `/model` and the metrics list them."""

from dataclasses import dataclass
from enum import StrEnum


class DeviceState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"  # after a fault
    FAILED = "failed"  # and not tried again


@dataclass(frozen=True, slots=True)
class Device:
    """What is known only once the model is loaded is empty until then.

    `width` is how many pictures share a UNet call at most.
    """

    device: str  # such as "cpu" or "cuda:1"
    state: DeviceState
    name: str = ""
    memory_profile: str = ""
    width: int = 0
