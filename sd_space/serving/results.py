"""Results as files: the folder of each run, the archive of its pictures, and the janitor that deletes them in time.

A result is in a folder with an unguessable name: anyone who knows the name may see it until it expires. The names of
the files inside are for people.
"""

import contextlib
import logging
import secrets
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from sd_space.errors import CannotStart, EngineFailed
from sd_space.fields import SourcePicture
from sd_space.languages import Phrase
from sd_space.request import GenerationRequest
from sd_space.runtime_errors import traceback_without_message
from sd_space.schema import Outcome, ScreenedImage
from sd_space.served_model import ModelInfo
from sd_space.serving.marks import Marks
from sd_space.serving.result_folder import ResultFolder
from sd_space.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SWEEPS_PER_TTL = 4
GONE = Phrase("Some of these pictures were deleted on the server; please make them again.")
_CAPTIONS = {
    Outcome.OK: "",
    Outcome.WITHHELD: Phrase(": withheld by the safety checker"),
    Outcome.BROKEN: Phrase(": failed numerically"),
}


@dataclass(frozen=True, slots=True)
class SavedPicture:
    """A finished picture on disk; `caption` is also its alternative text."""

    path: Path
    seed: int
    outcome: Outcome
    caption: str
    watermark: bool = False
    credentials: bool = False
    of_step: int | None = None  # of an inspection: the step that it shows, or 0


@dataclass(slots=True, eq=False)
class _Results:
    """The folder of one run's results. `ended_s` is set once the run is over: then its age begins to count."""

    folder: Path
    ended_s: float | None = None
    archive: tuple[list[Path], Path] | None = None  # what is in it, and where it is
    archiving: threading.Lock = field(default_factory=threading.Lock)


class ResultStore:
    """Owns this process's folder of results: writes them, and deletes them `ttl_s` seconds after the end of their run.

    `root` is what is served. Ages are taken on a monotonic clock, so that a clock that is set forward deletes nothing
    early; what a dead process left goes at once.
    """

    def __init__(
        self,
        folder: str | None,
        ttl_s: float,
        marks: Marks | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ):
        self._result_folder = ResultFolder(folder)
        self.root = self._result_folder.served
        self._ttl_s = ttl_s
        self.marks = marks or Marks()
        self._now_s = now_s
        self._results: dict[str, _Results] = {}  # by request
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._keep_clean, name="janitor", daemon=True)

    @classmethod
    def from_settings(cls, settings: Settings) -> "ResultStore":
        """The store, its marks being loaded in a thread. Raises CannotStart for a folder or a certificate of no use."""
        marks = Marks.from_settings(settings)
        store = cls(settings.result_dir, settings.result_ttl_s, marks)
        store.check()
        marks.prepare()
        return store

    def check(self) -> None:
        """Takes the folder and gives it back. Raises CannotStart where `start` would."""
        self._result_folder.claim()
        self._result_folder.release()

    def start(self) -> None:
        """Makes the folder, readable by this user only, and starts the janitor. Raises CannotStart."""
        self._result_folder.claim()
        self._janitor.start()

    def close(self) -> None:
        """Stops the janitor and deletes the results of this process."""
        self._closing.set()
        if self._janitor.is_alive():
            self._janitor.join()
        with self._lock:
            self._result_folder.release()

    def finish(self, request_id: str) -> None:
        """The run is over: its results expire from now on. One without results, or over already, is left as it is."""
        with self._lock:
            results = self._results.get(request_id)
            if results is not None and results.ended_s is None:
                results.ended_s = self._now_s()

    def save(
        self,
        request_id: str,
        index: int,
        image: ScreenedImage,
        request: GenerationRequest,
        info: ModelInfo,
        embed_recipe: bool,
        of_step: int | None = None,
    ) -> SavedPicture:
        """Writes picture `index` of a request, or the placeholder of one that was withheld or broken.

        What an inspection shows of a step has no recipe: drawn again, that would be another picture.
        Raises EngineFailed when the disk does not take it.
        """
        is_ok, is_step = image.outcome is Outcome.OK, of_step is not None
        own = request if is_step else request.of_picture(index)
        variation = own.variation_seed if request.variation_strength else None
        seeds = f"seed-{image.seed}" + (f"-variation-{variation}" if variation is not None else "")
        if is_step:
            seeds += f"-step-{of_step:02d}" if of_step else "-decoded-again"
        name = f"{seeds}.png" if is_ok else f"{seeds}-{image.outcome}.png"
        embed_recipe = embed_recipe and not is_step
        path, applied = self._write(
            request_id, name, lambda file: self.marks.write(file, image, own, info, embed_recipe)
        )
        words = caption(image.outcome, image.seed, variation, request.init_image)
        return SavedPicture(path, image.seed, image.outcome, words, applied.watermark, applied.credentials, of_step)

    def zip(self, request_id: str, pictures: Sequence[SavedPicture]) -> Path | None:
        """One archive of the pictures that may be seen and are still there, or `None` where none may be seen.

        It is written once, however many ask. Raises EngineFailed where it cannot be, or where all pictures are gone.
        """
        shown = [picture for picture in pictures if picture.outcome is Outcome.OK]
        if not shown:
            return None
        with self._lock:
            results = self._results.get(request_id)
        paths = [picture.path for picture in shown if picture.path.is_file()]
        if results is None or not paths:
            raise EngineFailed(GONE)

        def write(file: IO[bytes]) -> None:
            with zipfile.ZipFile(file, "w") as archive:  # stored, not deflated: a PNG is compressed already
                for path in paths:
                    archive.write(path, path.name)

        with results.archiving:
            if results.archive is None or results.archive[0] != paths or not results.archive[1].is_file():
                archive, _ = self._write(request_id, f"pictures-seed-{shown[0].seed}.zip", write)
                results.archive = paths, archive
            return results.archive[1]

    def add(self, request_id: str, name: str, write: Callable[[IO[bytes]], None]) -> Path:
        """One more file beside a run's pictures, which goes with them. Raises EngineFailed where they are gone."""
        with self._lock:
            results = self._results.get(request_id)
        if results is None or not results.folder.is_dir():
            raise EngineFailed(GONE)
        return self._write(request_id, name, write)[0]

    def sweep(self) -> None:
        """Deletes what has expired, whole folders at a time, and what dead processes left."""
        with self._lock:
            oldest_s = self._now_s() - self._ttl_s
            expired = {
                key: results.folder
                for key, results in self._results.items()
                if results.ended_s is not None and results.ended_s <= oldest_s
            }
            for key in expired:
                del self._results[key]
        for folder in expired.values():
            shutil.rmtree(folder, ignore_errors=True)
        self._result_folder.keep()
        self._result_folder.sweep_leftovers()

    def _keep_clean(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception as error:  # the next sweep tries again: without this thread no file is ever deleted
                logger.error("results could not be swept:\n%s", traceback_without_message(error))
            if self._closing.wait(self._ttl_s / _SWEEPS_PER_TTL):
                return

    def _write(self, request_id: str, name: str, write: Callable[[IO[bytes]], T]) -> tuple[Path, T]:
        try:
            folder = self._folder(request_id)
            path, part = folder / name, folder / f".{name}.{secrets.token_hex(4)}"  # several may write at once
            try:
                with part.open("xb") as file:
                    written = write(file)
                return part.replace(path), written  # no reader sees half a file
            except BaseException:
                with contextlib.suppress(OSError):
                    part.unlink()  # and no half file stays
                raise
        except (OSError, CannotStart) as error:
            why = error.strerror if isinstance(error, OSError) else type(error).__name__
            logger.error("request %s: a result could not be saved: %s", request_id, why)
            raise EngineFailed(Phrase("A picture could not be saved on the server; please try again later.")) from None

    def _folder(self, request_id: str) -> Path:
        with self._lock:
            results = self._results.get(request_id)
            if results is None or not results.folder.is_dir():
                self._result_folder.claim()  # it may have gone, with all that was in the temporary folder
                folder = self.root / secrets.token_urlsafe(16)
                self._make(folder)
                ended_s = results.ended_s if results else None
                results = self._results[request_id] = _Results(folder, ended_s)
            return results.folder

    @staticmethod
    def _make(folder: Path) -> None:
        folder.mkdir(mode=0o700)


def caption(outcome: Outcome, seed: int, variation: int | None = None, start: SourcePicture | None = None) -> Phrase:
    """What stands below a picture, and is its alternative text."""
    origin = ""
    if start is not None:
        is_brought = start.seed is None
        origin = (
            Phrase(", from a picture that was brought") if is_brought else Phrase(", from seed {seed}", seed=start.seed)
        )
    return Phrase(
        "{seed}{variation}{origin}{outcome}",
        seed=Phrase("Seed {seed}", seed=seed),
        variation="" if variation is None else Phrase(", variation {seed}", seed=variation),
        origin=origin,
        outcome=_CAPTIONS[outcome],
    )
