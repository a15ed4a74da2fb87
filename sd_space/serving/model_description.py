"""The served model as the API describes it: what it is, what it allows, and how far its loading is."""

from dataclasses import asdict
from typing import Any

from sd_space.schema import BackendStatus


def described(status: BackendStatus) -> dict[str, Any]:
    """The JSON of the endpoint /model. Without a model yet, it says how far that is, and why where it is none."""
    about = {"ready": status.is_ready, "stage": str(status.stage), "waiting": status.waiting}
    if status.reason:
        about["reason"] = status.reason
    about["devices"] = [asdict(device) for device in status.devices]
    return about | (status.info.as_dict() if status.info else {})
