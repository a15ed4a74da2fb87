"""Recorded pictures as they are served: signed by this installation, since certificates expire."""

import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from sd_space.serving.credentials import Claim
from sd_space.serving.marks import Marks


class SignedRecordings:
    """`claims` are what is signed of each file, with the recipe that is in it, when somebody first asks for it."""

    def __init__(self, marks: Marks, claims: Mapping[Path, Claim]):
        self._marks = marks
        self._claims = {str(path): claim for path, claim in claims.items()}
        self._signed: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> bytes | None:
        """The recording at this path with its credentials; `None` where it is none, or cannot be signed here."""
        if name not in self._claims:
            return None
        with self._lock:
            if name not in self._signed:
                self._signed[name] = self._sign(name) or b""
            return self._signed[name] or None

    def __contains__(self, name: str) -> bool:
        return name in self._claims

    def _sign(self, name: str) -> bytes | None:
        png = Path(name).read_bytes()
        with Image.open(io.BytesIO(png)) as image:
            recipe = image.info.get("parameters")
        return self._marks.signed(png, replace(self._claims[name], recipe=recipe))
