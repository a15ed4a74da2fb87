"""Whose folders of results are swept and served, and in which places none is taken."""

import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import pytest

from sd_space.errors import CannotStart
from sd_space.serving.result_folder import LOCK, MARK, ResultFolder
from sd_space.serving.results import ResultStore


@pytest.fixture
def claimed():
    """Claims folders and gives them back at the end."""
    folders = []

    def claim(parent) -> ResultFolder:
        folder = ResultFolder(str(parent))
        folders.append(folder)
        folder.claim()
        return folder

    yield claim
    for folder in folders:
        folder.release()


def _claims_and_dies(parent: str, connection) -> None:
    folder = ResultFolder(parent)
    folder.claim()
    (folder.served / "picture.png").write_bytes(b"left behind")
    connection.send(str(folder.served))
    connection.recv()  # until it is killed


@pytest.fixture
def other_instance(tmp_path):
    """A living process with a folder in `tmp_path`; and where that is."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_claims_and_dies, args=(str(tmp_path), there), daemon=True)
    process.start()
    yield process, Path(here.recv())
    process.kill()
    process.join()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_process_has_a_folder_of_its_own_that_nobody_can_guess_or_read(claimed, tmp_path):
    first, second = claimed(tmp_path / "results"), claimed(tmp_path / "results")
    assert first.served != second.served
    for folder in (first, second):
        assert len(folder.served.parent.name) >= 22
        assert mode_of(folder.served) == mode_of(folder.served.parent) == 0o700
        assert (folder.served.parent / MARK).is_file()
    assert mode_of(tmp_path / "results") == 0o700


def test_the_mark_says_whose_folder_it_is_and_is_not_served(claimed, tmp_path):
    folder = claimed(tmp_path)
    assert str(os.getpid()) in (folder.served.parent / MARK).read_text()
    assert list(folder.served.iterdir()) == []


def test_a_folder_that_holds_other_things_keeps_them_and_serves_none(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"mine")
    (tmp_path / "sd_space-of-somebody").mkdir()
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    store = ResultStore(str(tmp_path), 10.0)
    store.start()
    store.sweep()
    store.close()
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "sd_space-of-somebody"}
    assert (tmp_path / "photos" / "mine.png").read_bytes() == b"mine"
    assert tmp_path not in (store.root, *store.root.parents[:1])


def test_two_instances_with_different_times_to_live_leave_each_others_results_alone(tmp_path, other_instance):
    process, served = other_instance
    store = ResultStore(str(tmp_path), 0.0)
    store.start()
    store.sweep()
    assert process.is_alive() and (served / "picture.png").is_file()
    assert served not in (store.root, *store.root.parents)
    store.close()
    assert (served / "picture.png").is_file()


def test_what_a_killed_process_left_is_swept_by_the_next_one_whatever_its_time_to_live(tmp_path, other_instance):
    process, served = other_instance
    process.kill()
    process.join()
    assert (served / "picture.png").is_file()
    store = ResultStore(str(tmp_path), 10**6)
    store.start()
    store.close()  # waits for the janitor, which sweeps first of all
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_only_those_with_a_mark_in_folders_of_this_user(claimed, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "results").mkdir(parents=True)
    (elsewhere / MARK).write_text("{}")
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "sd_space-link").symlink_to(elsewhere)
    (parent / "sd_space-file").write_text("")
    (parent / "sd_space-unmarked" / "results").mkdir(parents=True)
    (parent / "other-marked").mkdir()
    (parent / "other-marked" / MARK).write_text("{}")
    (parent / "sd_space-dead" / "results").mkdir(parents=True)
    (parent / "sd_space-dead" / MARK).write_text("{}")  # of a process of another boot: nobody holds its lock
    folder = claimed(parent)
    folder.sweep_leftovers()
    left = {path.name for path in parent.iterdir()} - {folder.served.parent.name}
    assert left == {"sd_space-link", "sd_space-file", "sd_space-unmarked", "other-marked"}
    assert (elsewhere / "results").is_dir()


def test_a_folder_that_was_deleted_is_made_again_under_the_same_name_and_is_alive(claimed, tmp_path):
    folder, other = claimed(tmp_path), claimed(tmp_path)
    shutil.rmtree(folder.served.parent)
    folder.claim()
    other.sweep_leftovers()
    assert folder.served.is_dir() and (folder.served.parent / LOCK).is_file()


def test_a_folder_given_back_leaves_nothing(tmp_path):
    folder = ResultFolder(str(tmp_path))
    folder.claim()
    (folder.served / "a").mkdir()
    folder.release()
    assert list(tmp_path.iterdir()) == []


def refusal(parent: Path | None) -> str:
    with pytest.raises(CannotStart) as refused:
        ResultFolder(parent and str(parent)).claim()
    (sentence,) = str(refused.value).splitlines()
    assert sentence.endswith(".")
    return sentence


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "theirs")
    assert "is a symbolic link" in (said := refusal(tmp_path / "results")) and "SD_SPACE_RESULT_DIR" in said
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_link_above_the_folder_is_none_of_our_business(claimed, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert claimed(tmp_path / "link" / "results").served.is_relative_to(tmp_path / "real")


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    owner = (tmp_path / "results").stat().st_uid
    if owner == 0:
        os.chown(tmp_path / "results", 12345, 12345)
    else:
        monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert "belongs to another user" in (said := refusal(tmp_path / "results")) and "SD_SPACE_RESULT_DIR" in said


@pytest.mark.parametrize("where", ["results", "."])
def test_a_folder_that_anybody_may_change_is_refused_unless_it_is_sticky(claimed, tmp_path, where):
    (tmp_path / "results").mkdir()
    open_to_all = tmp_path / where
    open_to_all.chmod(0o777)
    assert "chmod +t" in refusal(tmp_path / "results")
    open_to_all.chmod(0o1777)
    assert claimed(tmp_path / "results").served.is_dir()


def test_a_place_that_cannot_be_written_is_refused_with_the_setting_to_change(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert refusal(tmp_path / "file" / "results").endswith("set SD_SPACE_RESULT_DIR to a folder that can be.")
    assert "SD_SPACE_RESULT_DIR" in refusal(tmp_path / ("long" * 100))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert refusal(None).endswith("set TMPDIR to a folder that can be.")


def test_the_folder_in_the_temporary_folder_is_checked_like_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"sd_space-results-{os.getuid()}").symlink_to(tmp_path / "theirs")
    assert "is a symbolic link" in (said := refusal(None)) and "TMPDIR" in said


def test_systems_without_numbers_of_users_have_results_too(claimed, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "getuid")
    folder = ResultFolder(None)
    folder.claim()
    assert folder.served.is_dir() and folder.parent == tmp_path / "sd_space-results"
    folder.sweep_leftovers()
    folder.release()
    assert list(folder.parent.iterdir()) == []
