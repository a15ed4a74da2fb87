"""The marks that say of a picture that a model made it: text and XMP, an invisible watermark, signed credentials."""

import io
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import Image

from sd_space.errors import CannotStart
from sd_space.request import GenerationRequest
from sd_space.runtime_errors import traceback_without_message
from sd_space.schema import Outcome, ScreenedImage
from sd_space.served_model import ModelInfo
from sd_space.serving import watermark
from sd_space.serving.certificate import given_key, own_folder, own_key, utc_now
from sd_space.serving.credentials import Claim, Signer, can_be_read
from sd_space.serving.images import render_image
from sd_space.serving.png_text import as_text, png_chunks
from sd_space.serving.recipe import parameters_text
from sd_space.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """Which marks a picture has got; text and XMP every one has."""

    watermark: bool = False
    credentials: bool = False


class Marks:
    """Writes pictures with their marks, in whatever thread it is called. `make_signer` is called once, by the first
    that needs it: the library takes a moment to load.
    """

    def __init__(self, watermark: str = "off", make_signer: Callable[[], Signer | None] = lambda: None):
        self._watermark = watermark
        self._make_signer = make_signer
        self._signer: Signer | None = None
        self._is_ready = False
        self._lock = threading.Lock()

    @classmethod
    def from_settings(cls, settings: Settings) -> "Marks":
        """Raises CannotStart where the operator's certificate or key cannot be used."""
        if settings.certificate or settings.private_key:
            signer = Signer(given_key(settings.certificate, settings.private_key, utc_now()))
            signer.check()
            return cls(settings.watermark, lambda: signer)
        return cls(settings.watermark, _own_signer)

    @property
    def signer(self) -> Signer | None:
        """`None` where pictures cannot be signed on this machine."""
        with self._lock:
            if not self._is_ready:
                self._signer, self._is_ready = self._make_signer(), True
            return self._signer

    def prepare(self) -> None:
        """Loads in a thread what the first picture would wait for."""
        threading.Thread(target=lambda: self.signer, name="marks", daemon=True).start()

    def write(
        self, file: IO[bytes], image: ScreenedImage, request: GenerationRequest, info: ModelInfo, embed_recipe: bool
    ) -> Applied:
        """Writes the PNG of a picture; the placeholder of one that was withheld or broken has no marks."""
        picture = render_image(image)
        if image.outcome is not Outcome.OK:
            picture.save(file, "PNG")
            return Applied()
        marked = watermark.embedded(np.asarray(picture)) if self._wants_watermark(info) else None
        if marked is not None:
            picture = Image.fromarray(marked)
        recipe = parameters_text(request, image.seed, info) if embed_recipe else None
        made_from = request.init_image.sha256 if request.init_image else None
        is_signed = self._save(file, picture, info, recipe, made_from)
        return Applied(watermark=marked is not None, credentials=is_signed)

    def write_sheet(self, file: IO[bytes], sheet: Image.Image, info: ModelInfo) -> None:
        """Writes the PNG of a picture that shows several of them, each of which has a watermark of its own."""
        self._save(file, sheet, info)

    def _save(
        self,
        file: IO[bytes],
        picture: Image.Image,
        info: ModelInfo,
        recipe: str | None = None,
        made_from: str | None = None,
    ) -> bool:
        """Whether the PNG that it writes is signed. `made_from` is the SHA-256 of the picture that was changed."""
        png = io.BytesIO()
        picture.save(png, "PNG", pnginfo=png_chunks(info, recipe, is_changed=made_from is not None))
        signed = self.signed(png.getvalue(), Claim(as_text(info.model), info.revision, utc_now(), recipe, made_from))
        file.write(signed or png.getvalue())
        return signed is not None

    def _wants_watermark(self, info: ModelInfo) -> bool:
        return self._watermark == "on" or (self._watermark == "auto" and not info.is_picture_book)

    def signed(self, png: bytes, claim: Claim) -> bytes | None:
        """The PNG with its credentials; `None` where that fails.

        The picture is its visitor's all the same, and its result says so.
        """
        try:
            return self.signer.signed(png, claim) if self.signer else None
        except Exception as error:
            logger.error("a picture could not be signed:\n%s", traceback_without_message(error))
            return None


def _own_signer() -> Signer | None:
    if not can_be_read():
        logger.warning("pictures are not signed: the package c2pa-python is not installed")
        return None
    try:
        return Signer(own_key(own_folder(), utc_now()))
    except CannotStart as error:
        logger.error("pictures are not signed: %s", error)
        return None
