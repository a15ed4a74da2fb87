"""Downloads files of a Hub repository side by side into the cache, until all are there, one fails or all stall."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import tqdm
from huggingface_hub.utils._xet import abort_xet_session  # no public function ends a transfer from outside

from sd_space.languages import Phrase
from sd_space.model.files import format_size

logger = logging.getLogger(__name__)

WORKERS = 4  # files downloaded at the same time
CHUNK_BYTES = 2**18
REPORT_EVERY_S = 0.5
LOG_EVERY_S = 15.0


class DownloadStalled(Exception):
    """Nothing has arrived for too long; the text says for how long, and how much had come."""


class DownloadProgress:
    """Counts the bytes of all files together, and since when no more of them come. For any thread."""

    def __init__(self, total_bytes: int):
        self.is_cancelled = False
        self._total_bytes = total_bytes
        self._written = self._received = self._highest = 0
        self._lock = threading.Lock()
        self.touch()

    def __str__(self) -> str:
        return f"{format_size(min(self._highest, self._total_bytes))} of {format_size(self._total_bytes)}"

    def message(self) -> Phrase:
        received, total = format_size(min(self._highest, self._total_bytes)), format_size(self._total_bytes)
        return Phrase("{received} of {total} fetched", received=received, total=total)

    def touch(self) -> None:
        self._changed_s = time.monotonic()

    def add(self, written: int = 0, received: int = 0) -> None:
        """Adds bytes of a file; less than 0 when a server begins it anew. Raises CancelledError after `cancel`."""
        if self.is_cancelled:
            raise CancelledError("another file failed, or the download stalled")
        with self._lock:
            self._written += written
            self._received += received
            # A server that begins a file anew over and over makes the counts fall and rise: that is no progress.
            if max(self._written, self._received) > self._highest:
                self._highest = max(self._written, self._received)
                self.touch()

    def raise_if_stalled(self, timeout_s: float) -> None:
        if time.monotonic() - self._changed_s > timeout_s:
            raise DownloadStalled(f"nothing has arrived for {timeout_s:.3g} s, after {self}")

    def cancel(self) -> None:
        """Ends all transfers: those over HTTP with their next bytes, those over Xet at once."""
        self.is_cancelled = True
        abort_xet_session()


class _FileBar(tqdm):
    """The progress bar of one file as huggingface_hub calls it: draws nothing, and counts in `progress`."""

    progress: DownloadProgress
    monitor_interval = 0  # else tqdm starts a thread that draws bars anew

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs | {"disable": True})
        self.update(self.n)

    def update(self, n: float | None = 1) -> None:
        self.progress.add(written=int(n or 0))

    def update_transfer(self, n: float | None = 1) -> None:
        self.progress.add(received=int(n or 0))

    def set_transfer_postfix_str(self, postfix: str, refresh: bool = False) -> None:
        """The speed, which would be drawn."""


def download(
    model: str,
    commit: str,
    sizes: Mapping[str, int],
    on_progress: Callable[[str], None],
    timeout_s: float,
) -> None:
    """Downloads the files named in `sizes`, which has their bytes. Raises the first error, or DownloadStalled.

    `snapshot_download` cannot do this: after an error it waits until each file that was begun has come, and its threads
    hold up the end of the process. Those here are daemons, as one may hang in a socket.
    """
    progress = DownloadProgress(sum(sizes.values()))
    bar_class = type("FileBar", (_FileBar,), {"progress": progress})
    # The threads take from one iterator. The largest first, so that the last one to arrive is small.
    names = iter(sorted(sizes, key=lambda name: -sizes[name]))
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def work() -> None:
        for name in names:
            if progress.is_cancelled:
                return
            try:
                hf_hub_download(model, name, revision=commit, tqdm_class=bar_class)
                results.put(None)
            except BaseException as error:  # a Xet transfer that is aborted as it begins raises KeyboardInterrupt
                results.put(error)  # before the others are ended, whose errors come behind it
                progress.cancel()

    # A bar hears of bytes once in a chunk: the library's 10 MB would look like a stall on a slow connection.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    for _ in range(min(WORKERS, len(sizes))):
        threading.Thread(target=work, name="download", daemon=True).start()
    logger.info("fetching %d files of %s, %s", len(sizes), model, format_size(sum(sizes.values())))
    try:
        _wait(results, len(sizes), progress, model, on_progress, timeout_s)
    except BaseException:
        progress.cancel()
        raise


def _wait(
    results: queue.SimpleQueue[BaseException | None],
    left: int,
    progress: DownloadProgress,
    model: str,
    on_progress: Callable[[str], None],
    timeout_s: float,
) -> None:
    """Reports how far the download is until `left` files are there. Raises the first error, or DownloadStalled."""
    logged_s = time.monotonic()
    while left:
        try:
            error = results.get(timeout=REPORT_EVERY_S)
        except queue.Empty:
            progress.raise_if_stalled(timeout_s)
        else:
            if error is not None:
                raise error
            left -= 1
            progress.touch()
        on_progress(progress.message())
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            logger.info("%s of %s fetched", progress, model)
