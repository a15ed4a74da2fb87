"""The log: the app's own lines, and none in which a library would repeat what visitors send."""

import logging
import warnings

logger = logging.getLogger(__name__)

_LEAST_LEVELS = {
    "httpx": logging.WARNING,  # logs whole addresses
    "httpx2": logging.WARNING,
    "mcp": logging.WARNING,  # logs calls
    "sse_starlette": logging.WARNING,  # logs what is sent
    "python_multipart": logging.ERROR,  # warns with the callers' bytes
}


def set_up_logs() -> None:
    """For each process of the Space, the engines' too."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name, level in _LEAST_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    warnings.showwarning = _log_warning  # type: ignore[assignment]


def _log_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Its kind alone: Python's own line has a path, and may repeat what was sent."""
    logger.warning("a library warns: %s", category.__name__)
