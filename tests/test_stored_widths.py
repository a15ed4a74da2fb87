import json

import pytest

from sd_space.backends.stored_widths import read_width, store_width


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sd_space"


def test_a_width_is_read_where_device_model_and_versions_are_the_same(folder):
    assert read_width("a device; a model") is None
    store_width("a device; a model", 4)
    store_width("another", 8)
    assert (read_width("a device; a model"), read_width("another"), read_width("a third")) == (4, 8, None)
    assert [path.name for path in folder.iterdir()] == ["widths.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": "4"}', '{"a": 3}', '{"a": true}', '{"a": 4.0}', '{"a": -1}'])
def test_what_is_no_width_counts_as_none(folder, text):
    folder.mkdir()
    (folder / "widths.json").write_text(text)
    assert read_width("a") is None
    store_width("a", 2)
    assert json.loads((folder / "widths.json").read_text())["a"] == 2


def test_where_nothing_can_be_written_nothing_is_said(folder):
    folder.write_text("a file where the folder would be")
    store_width("a", 2)
    assert read_width("a") is None
