"""Changing and varying pictures on the page, seen without a browser."""

from html import unescape

from PIL import Image

from sd_space.schema import Outcome

from .fakes import FakeBackend
from .test_handlers import ALERT, NEW_SEED, captions, drawn
from .test_source_pictures import file_of, uri
from .window import Host, play


def brought(mode: str = "RGB") -> str:
    return uri(file_of(Image.new(mode, (80, 96))))


def address(picture: dict) -> str:
    """Where the browser shows a picture of the gallery."""
    return f"http://here/gradio_api/file={picture['image']['path']}"


def test_a_picture_that_was_drawn_starts_the_next_ones_which_say_so(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window, **{"Seed": 7, NEW_SEED: False})
        window["init_image"] = address(window["gallery"][1])
        await drawn(window, prompt="a dog", strength=0.35)
        asked = host.backend.started[-1].request
        assert (asked.init_image.seed, asked.strength, asked.width, asked.height) == (8, 0.35, 64, 64)
        assert captions(window)[0] == "Seed 7, from seed 8"
        assert "Started from" in window["recipe"] and "the picture with seed 8" in window["recipe"]
        assert "init_image_seed=8" in unescape(window["record"])
        assert window["init_image"], "the next ones start from it too"
        await window.do("click", "withdraw")
        assert [window[name] for name in ("init_image", "mask", "variation_strength")] == ["", "", 0.0]

    play(tmp_path, scene)


def test_a_picture_that_was_brought_is_named_by_its_hash_and_has_its_own_size(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        window["init_image"], window["mask"] = brought(), brought("L")
        await drawn(window)
        asked = host.backend.started[-1].request
        assert (asked.width, asked.height) == (80, 96)
        assert captions(window)[0].endswith(", from a picture that was brought")
        assert "of the painted part" in window["recipe"] and asked.init_image.sha256[:12] in window["recipe"]
        assert "base64" not in window["recipe"] + window["record"]

    play(tmp_path, scene)


def test_a_start_that_cannot_be_shown_or_is_gone_is_refused_in_a_sentence(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        shown, withheld = (address(picture) for picture in window["gallery"][:2])
        other = await host.visitor()
        for visitor, start, words in (
            (window, withheld, "is a picture that is not shown"),
            (window, f"{shown}x", "is not on the server any more"),
            (other, shown, "is not on the server any more"),
            (window, "data:image/png;base64,AAAA", "is no PNG, JPEG or WebP picture that can be read"),
        ):
            visitor["init_image"] = start
            await drawn(visitor)
            assert ALERT in visitor["status"] and f"Start picture {words}" in visitor["status"]
        assert len(host.backend.started) == 1 and len(host.capacity) == 0

    play(tmp_path, scene, FakeBackend(outcomes=(Outcome.OK, Outcome.WITHHELD)))


def test_more_like_one_draws_variations_of_it_until_another_recipe_comes(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        host.backend.proceed.set()
        window["init_image"], window["handed"] = brought(), "prompt=a+dog&seed=5&variation_strength=0.15"
        await window.do("click", "ask-variations")
        first = host.backend.started[-1].request
        assert (first.prompt, first.init_image, first.seeds, first.variation_strength) == (
            "a dog",
            None,
            (5,) * 4,
            0.15,
        )
        await window.do("click", "generate")
        again = host.backend.started[-1].request
        assert again.seed == 5 and again.variation_seed != first.variation_seed, "each press draws others"
        assert captions(window)[0] == f"Seed 5, variation {again.variation_seed}"
        await window.open(run_id=window["run_id"])
        assert window["variation_strength"] == 0.15 and window["variation_seed"] == -1
        window["handed"] = "prompt=a+cat&seed=6"
        await window.do("click", "ask-variations")
        assert host.backend.started[-1].request.variation_strength == 0

    play(tmp_path, scene)
