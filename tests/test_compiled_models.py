import os

import pytest

from sd_space.model.compiled_models import FOLDER, KEPT, read_compiled, store_compiled


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sd_space" / FOLDER


def test_what_was_stored_is_read_and_nothing_else():
    store_compiled("key", b"compiled")
    assert (read_compiled("key"), read_compiled("another")) == (b"compiled", None)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_what_is_not_whole_counts_as_none(folder, damage):
    store_compiled("key", b"compiled")
    (folder / "key").write_bytes(damage((folder / "key").read_bytes()))
    assert read_compiled("key") is None
    store_compiled("key", b"compiled again")
    assert read_compiled("key") == b"compiled again"


def test_what_others_may_have_written_counts_as_none(folder):
    store_compiled("key", b"compiled")
    (folder / "key").chmod(0o666)
    assert read_compiled("key") is None


def test_the_newest_few_are_kept(folder):
    for number in range(KEPT + 2):
        store_compiled(str(number), b"compiled")
        os.utime(folder / str(number), (number, number))
    store_compiled("newest", b"compiled")
    assert {path.name for path in folder.iterdir()} == {"newest", *(str(n) for n in range(3, KEPT + 2))}


def test_where_nothing_can_be_written_nothing_is_said(folder):
    folder.parent.write_text("a file where the folder would be")
    store_compiled("key", b"compiled")
    assert read_compiled("key") is None
