"""The app with another host for the Hub: the libraries read its address when they are imported, which is before."""

import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

import app


def main(argv: Sequence[str] | None = None) -> int:
    url = os.environ["HF_ENDPOINT"]
    constants.ENDPOINT, constants.HF_HUB_OFFLINE = url, False
    constants.HUGGINGFACE_CO_URL_TEMPLATE = url + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(Path(os.environ["TMPDIR"]) / "hub")
    return app.main(argv)
