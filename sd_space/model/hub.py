"""Gets a model's files from the Hub or from the cache.

A pinned commit that is cached is used without asking the Hub. Else the Hub is asked what the repository holds, and
exactly the needed files are downloaded. Whatever the Hub does, this ends: when nothing has arrived for `timeout_s`, the
download is given up.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from sd_space.languages import Phrase
from sd_space.model.download import download
from sd_space.model.files import INDEX, WEIGHTS, FilesMissing, files_in, format_size, needed_files, variant_of
from sd_space.model.hub_errors import http_status, operator_hint

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # at the first question, when the Hub is busy or a connection fails
SHORTEST_DELAY_S = 1.0  # before it is asked again


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder in diffusers' layout, and the commit it was fetched from."""

    folder: Path
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What the Hub says that a revision of a repository holds: its commit, and bytes by file name."""

    commit: str
    sizes: dict[str, int]


def cached(model: str, revision: str | None) -> Snapshot | None:
    """What the cache holds of this revision, complete or not, or `None`. Sends no request."""
    index = try_to_load_from_cache(model, INDEX, revision=revision)
    if not isinstance(index, str):
        return None
    folder = Path(index).parent
    return Snapshot(folder, folder.name)


def is_complete(snapshot: Snapshot, wanted: str | None, weights_of: Sequence[str] = tuple(WEIGHTS)) -> bool:
    """Whether a cached snapshot can be loaded, in the wanted variant or in another."""
    try:
        needed_files(files_in(snapshot.folder), wanted, weights_of)
    except FilesMissing:
        return False
    return True


def fetch(
    model: str,
    revision: str | None,
    variant: str | None,
    on_progress: Callable[[str], None] = lambda text: None,
    timeout_s: float = 60.0,
    weights_of: Sequence[str] = tuple(WEIGHTS),
) -> Snapshot:
    """The needed files of a Hub repository as a folder: the cached ones, and the others downloaded.

    Without the Hub a complete cached copy of the revision is used as it is. Otherwise raises any error of the Hub,
    network or disk; `operator_hint` puts that into a sentence.
    """
    known = cached(model, revision)
    if known is not None and not is_complete(known, variant, weights_of):
        known = None
    if known is not None and known.commit == revision:
        names = files_in(known.folder)
        if all(variant_of(names, folder, variant) == variant for folder in weights_of):
            return known  # a commit cannot change
    try:
        return _fetch(model, revision, variant, on_progress, timeout_s, weights_of)
    except Exception as error:
        if known is None:
            raise
        logger.warning("the cached copy of %s is used: %s", model, operator_hint(error, model, revision))
        return known


def ask(model: str, revision: str | None, timeout_s: float = 60.0) -> Listing:
    """What the Hub holds of `revision`. Raises its error where it would not send it to us.

    A gated model's list is open to everyone, so a file is asked for too. Both requests are repeated when the Hub is
    busy or a connection fails; not by huggingface_hub's `http_backoff`, which waits as long as a Retry-After says.
    """
    each_s, delay_s, give_up_s = min(10.0, timeout_s / 4), SHORTEST_DELAY_S, time.monotonic() + timeout_s / 2
    for attempt in range(1, ATTEMPTS + 1):
        try:
            info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=each_s)
            get_hf_file_metadata(hf_hub_url(model, INDEX, revision=info.sha), timeout=each_s)
            return Listing(str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()})
        except (httpx2.TransportError, HfHubHTTPError) as error:
            is_passing = (http_status(error) or 503) >= 500
            if not is_passing or attempt == ATTEMPTS or time.monotonic() + delay_s > give_up_s:
                raise
        time.sleep(delay_s)
        delay_s *= 2
    raise AssertionError("the last attempt returns or raises")


def _fetch(
    model: str,
    revision: str | None,
    variant: str | None,
    on_progress: Callable[[str], None],
    timeout_s: float,
    weights_of: Sequence[str],
) -> Snapshot:
    on_progress(Phrase("asking the Hub"))
    listing = ask(model, revision, timeout_s)
    wanted = {
        name: listing.sizes[name]
        for name in needed_files(listing.sizes, variant, weights_of)
        if not isinstance(try_to_load_from_cache(model, name, revision=listing.commit), str)
    }
    _check_disk(sum(wanted.values()))
    if wanted:
        download(model, listing.commit, wanted, on_progress, timeout_s)
    if revision != listing.commit:  # remembers which commit the branch or tag is, for a start without the Hub
        hf_hub_download(model, INDEX, revision=revision)
    fetched = cached(model, listing.commit)
    if fetched is None:
        raise FilesMissing("nothing in the cache although it was fetched")
    return fetched


def _check_disk(needed_bytes: int) -> None:
    """Refuses before the download what would not fit."""
    folder = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(errno.ENOSPC, f"{format_size(needed_bytes)} needed, {format_size(free_bytes)} free")
