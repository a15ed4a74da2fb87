"""The fold in which a picture is checked, seen without a browser."""

from pathlib import Path

from PIL import Image

from sd_space.ui.checking import UNREADABLE

from .test_handlers import ALERT, drawn
from .test_source_pictures import file_of, uri
from .window import Host, Window, play


async def checked(window: Window, picture: str | None) -> str:
    window["handed"] = picture
    await window.do("click", "ask-check")
    return window["found"]


def test_a_picture_of_the_pages_own_is_told_from_another_and_from_none(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        await drawn(window)
        found = await checked(window, uri(Path(window["gallery"][0]["image"]["path"]).read_bytes()))
        assert "Unsigned text in it says that a model made it." in found and 'id="use-recipe"' in found
        found = await checked(window, uri(file_of(Image.new("RGB", (64, 64)))))
        assert "That proves nothing" in found and "use-recipe" not in found
        for broken in ("data:image/png;base64,AAAA", "a cat", None, uri(b"x" * 5_900_010)):
            found = await checked(window, broken)
            assert ALERT in found and UNREADABLE in found
        assert len(host.backend.started) == 1

    play(tmp_path, scene)


def test_who_has_not_accepted_or_has_withdrawn_is_told_nothing(tmp_path):
    async def scene(host: Host):
        window = await host.visitor()
        assert await checked(window, "a cat")
        await window.do("click", "withdraw")
        assert window["found"] == "" and await checked(window, "a cat") == ""

    play(tmp_path, scene)
