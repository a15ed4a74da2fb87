from pathlib import Path

from sd_space.card import load_card
from sd_space.ui import assets

FILES = sorted((Path(assets.__file__).parent / "page").iterdir())


def test_every_file_of_the_page_is_joined_once():
    document = assets.head() + assets.body(load_card())
    joined = {".css": assets.style_sheet() + document, ".js": assets.script(True) + document}
    assert {path.suffix for path in FILES} == joined.keys()
    for path in FILES:
        assert joined[path.suffix].count(path.read_text(encoding="utf-8")) == 1, path.name


def test_the_script_is_one_function():
    assert assets.script(True).startswith("() => {\n") and assets.script(True).endswith("\n}\n")
