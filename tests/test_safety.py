import gc
import itertools
import threading
import time

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sd_space.engine.denoiser import Denoiser
from sd_space.engine.safety import MAX_VIEWS, SafetyScreen, _views, fit_latent_rgb, mosaic_of
from sd_space.errors import SafetyCheckFailed
from sd_space.schema import Outcome

from .tiny_models import load, make_safety_checker, make_screen, save_model_folder

SEEDS = (11, 12, 13)


def pictures(count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def outcomes(screened) -> list[Outcome]:
    return [image.outcome for image in screened]


@pytest.fixture
def screen(noise_painter) -> SafetyScreen:
    return make_screen(noise_painter)


def checker_of(screen: SafetyScreen):
    return screen._safety_checker


def flag(screen: SafetyScreen, picture: torch.Tensor) -> None:
    """Makes a concept of what `picture` looks like to the checker, so that it is flagged."""
    checker = checker_of(screen)
    seen = []
    handle = checker.visual_projection.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    screen.screen(picture[None], [0])
    handle.remove()
    with torch.no_grad():
        checker.concept_embeds[4] = seen[0].clone()
        checker.concept_embeds_weights[4] = 0.998


def test_a_passed_picture_has_the_bytes_of_the_stock_pipeline(noise_painter, screen):
    images = pictures(3)
    expected = noise_painter.pipeline.image_processor.postprocess(images, output_type="pil")
    screened = screen.screen(images, SEEDS)
    assert outcomes(screened) == [Outcome.OK] * 3
    assert [image.seed for image in screened] == list(SEEDS)
    assert [image.pixels for image in screened] == [picture.tobytes() for picture in expected]


def test_the_thread_ends_with_its_screen(noise_painter):
    screen = make_screen(noise_painter)
    thread = screen._worker._thread
    assert thread.is_alive()
    del screen
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_flagged_picture_is_withheld_and_the_others_are_not(screen):
    images = pictures(3)
    flag(screen, images[1])
    screened = screen.screen(images, SEEDS)
    assert outcomes(screened) == [Outcome.OK, Outcome.WITHHELD, Outcome.OK]
    assert screened[1].pixels is None


@pytest.mark.parametrize("shape", [(64, 192), (192, 64)], ids=["wide", "tall"])
def test_the_ends_of_a_picture_that_is_no_square_are_checked_too(screen, shape):
    """The feature extractor crops the middle: a stock checker does not see the rest."""
    emblem = pictures()[0]
    flag(screen, emblem)
    for end in (slice(0, 64), slice(-64, None)):
        image = torch.full((1, 3, *shape), 0.1)
        image[0][:, end, end] = emblem
        assert outcomes(screen.screen(image, [0])) == [Outcome.WITHHELD]
    assert outcomes(screen.screen(torch.full((1, 3, *shape), 0.1), [0])) == [Outcome.OK]


@pytest.mark.parametrize("short", [8, 16, 64, 72, 100, 256, 512])
@pytest.mark.parametrize("ratio", [1.02, 1.125, 1.5, 2, 2.9, 3, 7.3])
@pytest.mark.parametrize("is_wide", [True, False], ids=["wide", "tall"])
def test_squares_along_a_picture_share_three_quarters_of_a_side_and_reach_both_ends(short, ratio, is_wide):
    """Each pixel of the picture says where it lies, so that a view says which pixels it holds."""
    long = max(short + 1, round(short * ratio))
    along = np.broadcast_to(np.arange(long, dtype=np.int32), (short, long))
    picture = Image.fromarray(along.copy() if is_wide else along.T.copy(), "I")
    _, squeezed, *squares = _views(picture)
    spans = []
    for square in squares:
        assert square.size == (short, short)
        values = np.asarray(square)[0] if is_wide else np.asarray(square)[:, 0]
        assert list(values) == list(range(values[0], values[0] + short))
        spans.append((int(values[0]), int(values[-1])))
    assert (spans[0][0], spans[-1][1]) == (0, long - 1)
    shared = [left[1] - right[0] + 1 for left, right in itertools.pairwise(spans)]
    assert min(shared) >= short - -(-short // 4) >= short // 2
    assert squeezed.size == (short, short)


def test_a_square_is_shown_as_in_the_stock_pipeline_and_once():
    picture = Image.new("RGB", (64, 64))
    assert _views(picture) == [picture]


def test_a_long_picture_is_shown_in_calls_of_a_bounded_size(screen, monkeypatch):
    forward, sizes = checker_of(screen).forward, []

    def counted(**inputs):
        sizes.append(len(inputs["clip_input"]))
        return forward(**inputs)

    monkeypatch.setattr(checker_of(screen), "forward", counted)
    assert outcomes(screen.screen(torch.full((1, 3, 64, 512), 0.1), [0])) == [Outcome.OK]
    assert max(sizes) == MAX_VIEWS
    assert sum(sizes) == 2 + 4 * 7 + 1


def test_what_spans_a_long_picture_is_seen_as_a_whole(screen):
    """Each square holds a part of it only."""
    emblem = pictures()[0]
    flag(screen, emblem)
    wide = nn.functional.interpolate(emblem[None], scale_factor=(1, 3), mode="nearest")
    assert outcomes(screen.screen(wide, [0])) == [Outcome.WITHHELD]


def test_an_all_black_picture_is_a_picture(screen):
    (image,) = screen.screen(-torch.ones(1, 3, 64, 64), [0])
    assert image.outcome is Outcome.OK
    assert not any(image.pixels)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_that_is_no_number_is_broken_and_not_called_withheld(screen, value):
    images = pictures(3)
    images[1, 0, 0, 0] = value
    screened = screen.screen(images, SEEDS)
    assert outcomes(screened) == [Outcome.OK, Outcome.BROKEN, Outcome.OK]
    assert screened[1].pixels is None


@pytest.mark.parametrize(
    "answer",
    [None, (None, None), (None, []), (None, [False, False]), (None, [0]), (None, [None]), (None, [np.False_]), ()],
    ids=str,
)
def test_any_answer_but_one_plain_false_withholds(screen, monkeypatch, answer):
    monkeypatch.setattr(checker_of(screen), "forward", lambda **_: answer)
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.WITHHELD]


def test_a_verdict_without_a_look_at_the_picture_withholds(screen, monkeypatch):
    monkeypatch.setattr(checker_of(screen), "forward", lambda **_: (None, [False]))
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.WITHHELD]


@pytest.mark.parametrize("embedding", [float("nan"), 0.0, float("inf")])
def test_an_embedding_that_says_nothing_withholds(screen, monkeypatch, embedding):
    """The stock class compares not-a-number as "not flagged"."""
    projection = checker_of(screen).visual_projection
    monkeypatch.setattr(projection, "forward", lambda pooled: torch.full((len(pooled), 32), embedding))
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.WITHHELD]


def test_a_checker_that_raises_at_the_second_of_three_withholds_that_one(screen, monkeypatch, caplog):
    checker = checker_of(screen)
    forward, calls = checker.forward, []

    def fails_at_the_second(**inputs):
        calls.append(inputs)
        if len(calls) == 2:
            raise RuntimeError("broken")
        return forward(**inputs)

    monkeypatch.setattr(checker, "forward", fails_at_the_second)
    assert outcomes(screen.screen(pictures(3), SEEDS)) == [Outcome.OK, Outcome.WITHHELD, Outcome.OK]
    assert "RuntimeError" in caplog.text


def test_a_checker_without_memory_moves_to_the_cpu_and_judges_the_picture_there(screen, monkeypatch, caplog):
    checker = checker_of(screen)
    forward, moves = checker.forward, []

    def fits_only_on_the_cpu(**inputs):
        if not moves:
            raise torch.OutOfMemoryError("no memory")
        return forward(**inputs)

    monkeypatch.setattr(checker, "forward", fits_only_on_the_cpu)
    monkeypatch.setattr(checker, "to", lambda device: moves.append(device))
    assert outcomes(screen.screen(pictures(3), SEEDS)) == [Outcome.OK] * 3
    assert moves == ["cpu"]
    assert "runs on the CPU from now on" in caplog.text


def test_a_checker_that_finds_no_memory_anywhere_withholds(screen, monkeypatch):
    def never_fits(**_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(checker_of(screen), "forward", never_fits)
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.WITHHELD]


def test_a_feature_extractor_that_raises_withholds(noise_painter):
    stock = noise_painter.pipeline.feature_extractor

    def works_for_grey_only(pictures, **kwargs):
        if pictures[0].getpixel((0, 0)) != (128, 128, 128):
            raise ValueError("cannot read the picture")
        return stock(pictures, **kwargs)

    screen = make_screen(noise_painter, feature_extractor=works_for_grey_only)
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.WITHHELD]


def test_a_checker_that_hangs_withholds_until_it_has_come_back(noise_painter, monkeypatch):
    screen = make_screen(noise_painter, timeout_s=5.0)
    checker = checker_of(screen)
    forward, let_go = checker.forward, threading.Event()

    def hangs(**inputs):
        let_go.wait()
        return forward(**inputs)

    with monkeypatch.context() as patched:
        patched.setattr(checker, "forward", hangs)
        patched.setattr(screen, "_timeout_s", 0.01)
        began_s = time.monotonic()
        assert outcomes(screen.screen(pictures(3), SEEDS)) == [Outcome.WITHHELD] * 3
        assert time.monotonic() - began_s < 5.0
        assert not screen.is_healthy
        let_go.set()
        screen._worker._hanging.wait()
    assert screen.is_healthy
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.OK]


def test_the_checker_runs_in_float32_whatever_it_was_loaded_as(noise_painter):
    screen = make_screen(noise_painter, safety_checker=make_safety_checker().half())
    assert checker_of(screen).dtype == torch.float32
    assert outcomes(screen.screen(pictures().half(), [0])) == [Outcome.OK]


def test_the_count_of_seeds_must_fit(screen):
    with pytest.raises(ValueError, match="zip"):
        screen.screen(pictures(2), [0])


# --- a checker that does not work is refused at the start


@pytest.mark.parametrize("name", ["safety_checker", "feature_extractor"])
def test_missing_checker_refuses_to_start(noise_painter, name):
    with pytest.raises(SafetyCheckFailed):
        make_screen(noise_painter, **{name: None})


def test_a_feature_extractor_that_always_raises_refuses_to_start(noise_painter):
    with pytest.raises(SafetyCheckFailed):
        make_screen(noise_painter, feature_extractor=lambda pictures, **kwargs: pictures.nonsense)


def test_another_class_refuses_to_start(noise_painter):
    with pytest.raises(SafetyCheckFailed):
        make_screen(noise_painter, safety_checker=torch.nn.Linear(1, 1))


@pytest.mark.parametrize("lost", ["concept_embeds_weights", "visual_projection.weight"])
def test_a_file_with_missing_tensors_refuses_to_start(tmp_path, one_torch_thread, lost):
    """transformers loads it without an exception and leaves as thresholds whatever memory held."""
    folder = save_model_folder(tmp_path / "model")
    path = folder / "safety_checker" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != lost}, path, metadata={"format": "pt"})
    loaded = load(folder)
    assert lost in loaded.missing_checker_tensors
    with pytest.raises(SafetyCheckFailed):
        make_screen(loaded)


def damage(name: str, index, value: float):
    checker = make_safety_checker()
    with torch.no_grad():
        checker.get_parameter(name)[index] = value
    return checker


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("visual_projection.weight", (0, 0), float("nan")),
        ("vision_model.post_layernorm.weight", 0, float("inf")),
        ("visual_projection.weight", ..., 0.0),
        ("concept_embeds_weights", ..., 1.0),  # as freshly constructed: no cosine is above 1
        ("concept_embeds_weights", 16, 22.4),
        ("concept_embeds_weights", 0, 1e-44 * 0),
        ("special_care_embeds_weights", 2, 1.5),
        ("concept_embeds", 3, 0.0),
        ("special_care_embeds", 0, 0.0),
        ("concept_embeds_weights", ..., -0.9),  # flags everything, grey too
    ],
)
def test_a_damaged_checker_refuses_to_start(noise_painter, name, index, value):
    with pytest.raises(SafetyCheckFailed):
        make_screen(noise_painter, safety_checker=damage(name, index, value))


def test_a_checker_that_flags_nothing_refuses_to_start(noise_painter, monkeypatch):
    checker = make_safety_checker()
    monkeypatch.setattr(type(checker), "forward", lambda self, clip_input, images: (images, [False] * len(clip_input)))
    with pytest.raises(SafetyCheckFailed):
        make_screen(noise_painter, safety_checker=checker)


def test_the_self_test_leaves_the_checker_as_it_was(screen):
    checker = checker_of(screen)
    tower = checker.vision_model
    screen.self_test()
    assert checker.vision_model is tower
    assert outcomes(screen.screen(pictures(), [0])) == [Outcome.OK]


def test_the_self_test_can_be_repeated_and_notices_what_has_changed(screen):
    with torch.no_grad():
        checker_of(screen).visual_projection.weight.fill_(float("nan"))
    with pytest.raises(SafetyCheckFailed):
        screen.self_test()


# --- previews


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(8, 8, 4, 4), (16, 16, 8, 8), (64, 64, 16, 16), (64, 96, 11, 16)]
)
def test_a_preview_is_a_mosaic_of_at_most_16_cells_a_side(screen, height, width, rows, columns):
    preview = screen.preview(mosaic_of(torch.randn(1, 4, height, width)))
    assert (preview.rows, preview.columns) == (rows, columns)
    assert len(preview.pixels) == rows * columns * 3


def test_a_preview_of_flat_latents_has_the_colour_of_their_picture(screen, noise_painter):
    latents = torch.zeros(1, 4, 8, 8)
    decoded = Denoiser(noise_painter.pipeline).decode_latents(latents)
    colour = (decoded[0].mean(dim=(1, 2)) * 127.5 + 127.5).tolist()
    cell = screen.preview(mosaic_of(latents)).pixels[:3]
    assert all(abs(a - b) < 16 for a, b in zip(cell, colour, strict=True))


def test_a_preview_shows_light_where_the_picture_will_be_light(noise_painter, monkeypatch):
    """With a VAE whose first channel is brightness the map must find that out by itself."""

    def brightness(self, latents, **_):
        return (latents[:, :1].expand(-1, 3, -1, -1),)

    monkeypatch.setattr(AutoencoderKL, "decode", brightness)
    denoiser = Denoiser(noise_painter.pipeline)
    latent_rgb = fit_latent_rgb(denoiser.decode_latents, 4)
    factor = noise_painter.pipeline.vae.config.scaling_factor
    screen = make_screen(noise_painter, latent_rgb=latent_rgb)
    latents = torch.zeros(1, 4, 16, 16)
    latents[:, 0, :8], latents[:, 0, 8:] = -factor, factor
    mosaic = np.frombuffer(screen.preview(mosaic_of(latents)).pixels, np.uint8).reshape(8, 8, 3)
    assert mosaic[:4].max() == 0
    assert mosaic[4:].min() == 255


def test_a_preview_of_no_numbers_is_a_mosaic_all_the_same(screen):
    assert len(screen.preview(mosaic_of(torch.full((1, 4, 8, 8), float("nan")))).pixels) == 48


def test_the_picture_books_checker_works(loaded):
    """Its own self-test and a plain picture."""
    screen = make_screen(loaded)
    sky = torch.full((1, 3, 128, 128), 0.2)
    sky[:, 2] = 0.8
    assert outcomes(screen.screen(sky, [0])) == [Outcome.OK]
    assert isinstance(Image.frombytes("RGB", (128, 128), screen.screen(sky, [0])[0].pixels), Image.Image)
