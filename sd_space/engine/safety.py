"""The safety screen: the only maker of `ScreenedImage`, `ScreenedSource` and `Preview`, and it fails closed.

The class is diffusers' StableDiffusionSafetyChecker, which by itself fails open: it takes not-a-number for safe, loads
missing tensors as whatever memory held, and returns `None` for a picture that it did not check. Here a picture gets
pixels only if the checker has passed its self-test and has answered `False`; in every other case it is withheld.
"""

import copy
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from torch import nn

from sd_space.engine.check_thread import CheckThread
from sd_space.engine.device_pictures import DevicePicture, is_as_by, prepared
from sd_space.engine.starts import ScreenedSource
from sd_space.errors import EngineFailed, InvalidRequest, SafetyCheckFailed
from sd_space.fields import SourcePicture
from sd_space.languages import Phrase
from sd_space.runtime_errors import is_out_of_memory
from sd_space.schema import Outcome, Preview, ScreenedImage

logger = logging.getLogger(__name__)

Picture = Image.Image | DevicePicture

MAX_PREVIEW_CELLS = 16  # a side: too coarse to show what the checker would withhold
MAX_VIEWS = 8  # views in one call of the checker, which bounds the memory that a long picture takes
FLAGGED_SOURCE = Phrase(
    "{name} was flagged by the safety checker, so nothing is drawn from it; choose another picture.", name="init_image"
)
UNCHECKED_SOURCE = Phrase(
    "The safety checker could not check init_image, so nothing is drawn from it; please try again."
)
REFUSAL = Phrase("The safety checker of this model does not work, so no pictures are made.")


class SafetyScreen:
    """Runs the checker on every picture, in float32 whatever the pipeline's dtype.

    `missing_tensors` names what the checker's file lacks (see `pipeline.load_pipeline`). `latent_rgb` comes from
    `fit_latent_rgb`. Raises SafetyCheckFailed if the checker is incomplete or fails its self-test.
    """

    def __init__(
        self,
        safety_checker: StableDiffusionSafetyChecker,
        feature_extractor: Callable[..., Any],
        latent_rgb: torch.Tensor,
        missing_tensors: Iterable[str] = (),
        timeout_s: float = 60.0,
    ):
        if not isinstance(safety_checker, StableDiffusionSafetyChecker):
            raise _refuse("there is no StableDiffusionSafetyChecker")
        if feature_extractor is None:
            raise _refuse("there is no feature extractor")
        missing = sorted(missing_tensors)
        if missing:
            raise _refuse(f"its file lacks {len(missing)} tensors, {missing[0]} among them")
        self._safety_checker = safety_checker.to(torch.float32).eval()
        self._feature_extractor = feature_extractor
        self._latent_rgb = latent_rgb.detach().to("cpu", torch.float32)  # (C + 1, 3), the last row is the offset
        self._prepares_on_device: bool | None = None  # known once a picture was checked on CUDA
        self._timeout_s = timeout_s
        self._worker = CheckThread()
        weakref.finalize(self, self._worker.end)
        self.self_test()

    @property
    def is_healthy(self) -> bool:
        """False while a check hangs: until it returns, all pictures are withheld."""
        return not self._worker.is_stuck

    def screen(self, images: torch.Tensor, seeds: Sequence[int]) -> list[ScreenedImage]:
        """Checks (B, 3, H, W) decoded pictures, about -1 to 1.

        The outcome is `broken` if values are not finite, `withheld` if the picture is flagged or could not be checked
        for any reason, else `ok`. Only `ok` has pixels.
        """
        return [self._screen_one(image, seed) for image, seed in zip(images, seeds, strict=True)]

    def screen_source(self, picture: SourcePicture) -> ScreenedSource:
        """Checks a picture that a request starts from, as `screen` does those that leave.

        Raises InvalidRequest if it is flagged, EngineFailed if it could not be checked for any reason.
        """
        image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        try:
            is_flagged = self._worker.run(lambda: self._is_flagged_with_cpu_fallback(image), self._timeout_s)
        except Exception as error:
            logger.error("the safety checker failed and a picture to start from was refused: %s", type(error).__name__)
            raise EngineFailed(UNCHECKED_SOURCE) from None
        if is_flagged is not False:
            raise InvalidRequest("init_image", FLAGGED_SOURCE)
        return ScreenedSource(image)

    def passed(self, image: ScreenedImage) -> ScreenedSource:
        """A picture that `screen` has passed, so that it may be encoded. Raises SafetyCheckFailed for any other."""
        if image.outcome is not Outcome.OK or image.pixels is None:
            raise SafetyCheckFailed("Only a picture that has passed the safety checker is encoded.")
        return ScreenedSource(Image.frombytes("RGB", (image.width, image.height), image.pixels))

    def broken(self, seed: int, height: int, width: int) -> ScreenedImage:
        """The result for a picture whose values are not finite."""
        return ScreenedImage(seed=seed, outcome=Outcome.BROKEN, width=width, height=height, pixels=None)

    def preview(self, mosaic: torch.Tensor) -> Preview:
        """The colours of a `mosaic_of` latents, (C, rows, columns) on the CPU."""
        _, rows, columns = mosaic.shape
        if max(rows, columns) > MAX_PREVIEW_CELLS:
            raise SafetyCheckFailed("A preview has too many cells.")
        colours = torch.tensordot(mosaic, self._latent_rgb[:-1], dims=([0], [0])) + self._latent_rgb[-1]
        pixels = (torch.nan_to_num(colours).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)  # (rows, columns, 3)
        return Preview(columns=columns, rows=rows, pixels=pixels.numpy().tobytes())

    def self_test(self) -> None:
        """Checks that the checker works: each concept must flag itself, and a grey picture must pass.

        Raises SafetyCheckFailed. Takes so little time that it can be repeated while the model serves.
        """
        checker = self._safety_checker
        for name, tensor in (*checker.named_parameters(), *checker.named_buffers()):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise _refuse(f"{name} holds values that are no numbers")
        for kind in ("concept", "special_care"):
            embeds, thresholds = getattr(checker, f"{kind}_embeds"), getattr(checker, f"{kind}_embeds_weights")
            if not len(embeds) or len(embeds) != len(thresholds):
                raise _refuse(f"{kind}_embeds and their thresholds do not agree")
            if not bool((embeds.norm(dim=-1) > 0).all()):
                raise _refuse(f"one of {kind}_embeds is zero")
            # A cosine is at most 1, and a score below 0.0005 is rounded away: nothing could ever pass such a threshold.
            if not bool(((thresholds > 0) & (thresholds < 0.999)).all()):
                raise _refuse(f"a threshold of {kind}_embeds is not between 0 and 1")
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        try:
            flags = self._concepts_flagging_themselves()
            is_grey_flagged = self._worker.run(lambda: self._is_flagged_with_cpu_fallback(grey), self._timeout_s)
        except Exception as error:
            raise _refuse(f"its self-test ended with {type(error).__name__}") from error
        if flags != [True] * len(checker.concept_embeds):
            raise _refuse("a concept does not flag itself")
        if is_grey_flagged is not False:
            raise _refuse("a grey picture does not pass")

    @torch.inference_mode()
    def _concepts_flagging_themselves(self) -> list[bool]:
        """The checker's verdicts on its own concept embeddings, which replace the embeddings of pictures."""
        probe = copy.copy(self._safety_checker)
        probe._modules = dict(probe._modules)  # the checker itself keeps its modules
        probe.vision_model, probe.visual_projection = _PooledInput(), nn.Identity()
        concepts = probe.concept_embeds.detach()
        _, flags = probe(clip_input=concepts, images=[np.zeros(1)] * len(concepts))
        return flags

    def _screen_one(self, image: torch.Tensor, seed: int) -> ScreenedImage:
        height, width = image.shape[-2:]
        if not bool(torch.isfinite(image).all()):
            return self.broken(seed, height, width)
        pixels = _to_pixels(image)
        outcome = Outcome.WITHHELD
        try:
            picture = Image.fromarray(pixels)
            if self._worker.run(lambda: self._is_flagged_with_cpu_fallback(picture), self._timeout_s) is False:
                outcome = Outcome.OK
        except Exception as error:  # whatever it is, this picture has not been checked
            logger.error("the safety checker failed and the picture was withheld: %s", type(error).__name__)
        return ScreenedImage(
            seed=seed,
            outcome=outcome,
            width=width,
            height=height,
            pixels=pixels.tobytes() if outcome is Outcome.OK else None,
        )

    def _is_flagged_with_cpu_fallback(self, picture: Image.Image) -> bool:
        """The verdict. If the device has no memory left for the checker, it runs on the CPU from then on."""
        try:
            return self._is_flagged(picture)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Out of the `except` block, where the error would still hold the failed call's tensors.
        logger.warning("the safety checker ran out of memory and runs on the CPU from now on")
        self._safety_checker.to("cpu")
        return self._is_flagged(picture)

    def _is_flagged(self, picture: Image.Image) -> bool:
        """The checker's verdict on one picture: flagged if any of its views is."""
        views = _views(self._where_checked(picture))
        return any(self._is_any_flagged(views[k : k + MAX_VIEWS]) for k in range(0, len(views), MAX_VIEWS))

    def _where_checked(self, picture: Image.Image) -> Picture:
        """The picture on the checker's device if that is CUDA, where resizing takes a tenth of Pillow's time or less.

        Only where the checker is then shown the very same values.
        """
        device = self._safety_checker.visual_projection.weight.device
        if device.type != "cuda":
            return picture
        if self._prepares_on_device is None:
            self._prepares_on_device = is_as_by(self._feature_extractor, device)
        return DevicePicture.of(picture, device) if self._prepares_on_device else picture

    def _prepared(self, views: Sequence[Picture]) -> torch.Tensor:
        """(views, 3, S, S)"""
        on_device = [view for view in views if isinstance(view, DevicePicture)]
        if on_device:
            return prepared(on_device, self._feature_extractor)
        return self._feature_extractor(views, return_tensors="pt").pixel_values

    @torch.inference_mode()
    def _is_any_flagged(self, views: Sequence[Picture]) -> bool:
        """Raises if the checker returns anything but bools, or bases them on embeddings that are zero or not finite."""
        clip_input = self._prepared(views)
        projection = self._safety_checker.visual_projection
        clip_input = clip_input.to(device=projection.weight.device, dtype=torch.float32)  # (views, 3, S, S)
        norms: list[torch.Tensor] = []  # of the image embeddings that the verdict is based on
        hook = projection.register_forward_hook(lambda module, args, output: norms.append(output.norm(dim=-1)))
        try:
            _, flags = self._safety_checker(clip_input=clip_input, images=[np.zeros(1)] * len(views))
        finally:
            hook.remove()
        # Not a number compares as "not flagged", and a zero vector is far from every concept.
        if len(norms) != 1 or not bool((torch.isfinite(norms[0]) & (norms[0] > 0)).all()):
            raise SafetyCheckFailed("The safety checker saw nothing in a picture.")
        if len(flags) != len(views) or not all(isinstance(flag, bool) for flag in flags):
            raise SafetyCheckFailed("The safety checker gave no verdict on a picture.")
        return any(flags)


def mosaic_of(latents: torch.Tensor) -> torch.Tensor:
    """(1, C, h, w) latents in at most 16 cells a side, and no more than half of the latents' own: (C, rows, columns).

    The mean of a cell commutes with the linear map to colours, so that map runs on cells instead of latents.
    """
    height, width = latents.shape[-2:]
    longest = max(height, width)
    cells = min(MAX_PREVIEW_CELLS, longest // 2)
    rows, columns = (max(1, round(cells * side / longest)) for side in (height, width))
    return nn.functional.adaptive_avg_pool2d(latents.detach().float(), (rows, columns))[0]


def fit_latent_rgb(
    decode_latents: Callable[[torch.Tensor], torch.Tensor], channels: int, size: int = 3
) -> torch.Tensor:
    """The linear map from latents to colour that fits a VAE best: (C + 1, 3) to about -1 to 1, the offset last.

    Decodes constant latents, 0 and +1 and -1 in each channel, and takes the mean colour of each. This works for any VAE
    and takes one decode of small pictures at start; a full decode for each preview would take longer than a step.
    """
    units = torch.cat([torch.zeros(1, channels), torch.eye(channels), -torch.eye(channels)])  # (2C + 1, C)
    with torch.inference_mode():
        decoded = decode_latents(units[:, :, None, None].expand(-1, -1, size, size))  # (2C + 1, 3, f size, f size)
    colours = decoded.float().mean(dim=(2, 3)).cpu()  # (2C + 1, 3)
    plus, minus = colours[1 : channels + 1], colours[channels + 1 :]
    return torch.cat([(plus - minus) / 2, colours.mean(dim=0, keepdim=True)])


def _views(picture: Picture) -> list[Picture]:
    """What the checker gets: the picture as in the stock pipeline and, if it is not square, views of all of it.

    The feature extractor crops the middle. So the checker also gets the whole picture squeezed into a square, and
    squares along it: neighbours overlap by three quarters of a side, so that anything up to that size is whole in one.
    """
    width, height = picture.size
    side, excess = min(width, height), abs(width - height)
    if not excess:
        return [picture]
    gaps = -(-4 * excess // side)
    starts = [k * excess // gaps for k in range(gaps + 1)]
    corners = [(start, 0) if width > height else (0, start) for start in starts]
    squares = [picture.crop((x, y, x + side, y + side)) for x, y in corners]
    return [picture, picture.resize((side, side), Image.Resampling.BICUBIC), *squares]


def _to_pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) about -1 to 1 to (H, W, 3) bytes, rounded as diffusers' VaeImageProcessor does."""
    values = (image * 0.5 + 0.5).clamp(0, 1).cpu().permute(1, 2, 0).float().numpy()
    return (values * 255).round().astype("uint8")


def _refuse(what: str) -> SafetyCheckFailed:
    logger.error("the safety checker is refused: %s", what)
    hint = f"The safety checker is refused: {what}; fetch or copy safety_checker and feature_extractor again."
    return SafetyCheckFailed(REFUSAL, hint)


class _PooledInput(nn.Module):
    """Replaces the vision tower, and returns its input as the pooled output."""

    def forward(self, clip_input: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, clip_input
