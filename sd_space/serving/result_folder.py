"""The folder of one process's results: made for it alone, marked and locked, and swept by others once it is dead.

    <parent>/sd_space-<unguessable>/.sd_space        the mark: whose folder this is
                                    .sd_space.lock   locked for as long as its process lives, on whatever machine
                                    results/         what is served

The parent may hold other things: nothing without a mark is ever deleted, and nothing outside `results` served.
"""

import contextlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path

import filelock

from sd_space.errors import CannotStart

PREFIX = "sd_space-"
MARK, LOCK = ".sd_space", ".sd_space.lock"
_SETTING = "SD_SPACE_RESULT_DIR"


class ResultFolder:
    """Takes a folder of its own in `parent`, or in one of this user's in the temporary folder.

    Making the object touches nothing; `served` is where results go once `claim` has been called. The lock ends with
    its process, however that ends, so that no clock and no process number must be trusted.
    """

    def __init__(self, parent: str | None):
        self._setting = _SETTING if parent else "TMPDIR"
        given = os.path.abspath(parent or os.path.join(temporary_folder(), f"sd_space-results{_user_suffix()}"))
        # The folder itself may be no link, what is above it may be (/tmp is one on some systems).
        self.parent = Path(os.path.realpath(os.path.dirname(given)), os.path.basename(given))
        self._own = self.parent / f"{PREFIX}{secrets.token_urlsafe(16)}"
        self.served = self._own / "results"
        self._lock: filelock.BaseFileLock | None = None

    def claim(self) -> None:
        """Makes the folder, or makes it again where it was deleted. Raises CannotStart."""
        try:
            if self._lock is None or not self._own.is_dir():
                self._forget_lock()
                _make_private(self.parent)
                self._check()
                self._own.mkdir(mode=0o700)  # nothing that is there already is taken over
                self._lock = _locked(self._own)
                self._mark()
            _make_private(self.served)
        except OSError as error:
            raise CannotStart(
                f"{self.parent} cannot be written ({error.strerror}); set {self._setting} to a folder that can be."
            ) from None

    def keep(self) -> None:
        """Renews the mark's time, so that programs that clean temporary folders by age leave it."""
        with contextlib.suppress(OSError):
            os.utime(self._own / MARK)

    def release(self) -> None:
        """Deletes the folder with all that is in it."""
        shutil.rmtree(self.served, ignore_errors=True)
        self._forget_lock()
        if self._own.is_dir():
            shutil.rmtree(self._own, ignore_errors=True)

    def sweep_leftovers(self) -> None:
        """Deletes the folders that dead processes left here: those with a mark whose lock is free."""
        with contextlib.suppress(OSError):
            for folder in sorted(self.parent.glob(f"{PREFIX}*")):
                if folder == self._own or not _is_ours(folder) or not (folder / MARK).is_file():
                    continue
                with contextlib.suppress(OSError, NotImplementedError):  # its process lives, or there are no locks
                    lock = _locked(folder)
                    shutil.rmtree(folder / "results", ignore_errors=True)
                    lock.release()
                    shutil.rmtree(folder, ignore_errors=True)

    def _check(self) -> None:
        """Refuses a parent in which somebody else could put something in our folder's place."""
        remedy = f"set {self._setting} to a folder that is yours alone."
        about = self.parent.lstat()
        if stat.S_ISLNK(about.st_mode):
            raise CannotStart(f"{self.parent} is a symbolic link; name the folder that it leads to, or {remedy}")
        if not stat.S_ISDIR(about.st_mode):
            raise CannotStart(f"{self.parent} is not a folder; {remedy}")
        if not hasattr(os, "getuid"):  # no owners and modes to go by
            return
        if about.st_uid not in (0, os.getuid()):
            raise CannotStart(f"{self.parent} belongs to another user (number {about.st_uid}); {remedy}")
        for folder in (self.parent, self.parent.parent):
            if (mode := folder.stat().st_mode) & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise CannotStart(f"Anybody may put other things in {folder}; call chmod +t {folder}, or {remedy}")

    def _mark(self) -> None:
        """Writes, for people, which process has this folder; in one step, and only when the lock is held."""
        whose = {"process": os.getpid(), "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": _host_name()}
        part = self._own / f"{MARK}.part"
        part.write_text(json.dumps(whose) + "\n", encoding="ascii")
        part.replace(self._own / MARK)

    def _forget_lock(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release()
            self._lock = None


def temporary_folder() -> str:
    """Where temporary files go. Raises CannotStart where nothing can be written."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        raise CannotStart("No temporary file can be written; set TMPDIR to a folder that can be.") from None


def _user_suffix() -> str:
    """Folders of several users stand side by side; where users have no numbers, each has a temporary folder."""
    return f"-{os.getuid()}" if hasattr(os, "getuid") else ""


def _host_name() -> str:
    return os.uname().nodename if hasattr(os, "uname") else ""


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _is_ours(folder: Path) -> bool:
    about = folder.lstat()
    return stat.S_ISDIR(about.st_mode) and (not hasattr(os, "getuid") or about.st_uid == os.getuid())


def _locked(folder: Path) -> filelock.BaseFileLock:
    """Raises OSError where another process, or another part of this one, holds it."""
    lock = filelock.FileLock(folder / LOCK, mode=0o600, thread_local=False)
    lock.acquire(blocking=False)
    return lock
