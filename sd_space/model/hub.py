"""The model's files: which are needed, where they are cached, fetching them, and what an operator is told of failures.

A pinned commit that is cached is used without a word to the Hub. Else the Hub is asked what the repository holds, and
exactly the needed files come: safetensors only, each component in one variant. Whatever the Hub does, this ends: when
nothing has arrived for `timeout_s`, the fetching is given up.
"""

import errno
import logging
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub import errors as hub_errors

try:
    import httpx2 as httpx  # what huggingface_hub speaks through
except ModuleNotFoundError:  # before its 2.0, with the same names of errors
    import httpx

logger = logging.getLogger(__name__)

INDEX = "model_index.json"
WEIGHTS = {  # folder -> how its weights files begin
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "safety_checker": "model",
}
CONFIGS = ("scheduler/scheduler_config.json", "feature_extractor/preprocessor_config.json")
TOKENIZER = {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"}
PARTS = (*WEIGHTS, "scheduler", "feature_extractor", "tokenizer")
WORKERS = 4  # files fetched at the same time
ATTEMPTS = 3  # of the first question, when the Hub is busy or a connection fails
SHORTEST_DELAY_S = 1.0  # before it is asked again
CHUNK_BYTES = 2**18  # what arrives is counted in these
REPORT_EVERY_S = 0.5
LOG_EVERY_S = 15.0
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk's end, the account's, and a file's


class FilesMissing(Exception):
    """A folder or repository lacks what a pipeline needs; the text says what."""


class HubSilent(Exception):
    """Nothing has arrived for too long; the text says for how long, and how much had come."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder in diffusers' layout, and the commit it was fetched from."""

    folder: Path
    commit: str | None = None


def variant_of(names: Collection[str], folder: str, wanted: str | None) -> str | None:
    """The variant in which `folder` has safetensors: the wanted one, else the plain one, else `fp16`.

    Raises FilesMissing where there is none of these, pickled weights or not.
    """
    for variant in dict.fromkeys((wanted, None, "fp16")):
        if _weights(names, folder, variant):
            return variant
    raise FilesMissing(f"no safetensors in {folder}, and nothing else is loaded")


def needed_files(names: Collection[str], wanted: str | None, weights_of: Sequence[str] = tuple(WEIGHTS)) -> list[str]:
    """Those of a repository's files that a pipeline is made of; weights only of the folders in `weights_of`.

    Raises FilesMissing when there is no pipeline in them.
    """
    if INDEX not in names:
        raise FilesMissing(f"no {INDEX}, so it is no model in diffusers' layout")
    configs = {f"{folder}/config.json" for folder in WEIGHTS} | set(CONFIGS)
    missing = sorted(configs - set(names))
    tokenizer = {name.removeprefix("tokenizer/") for name in names if name.startswith("tokenizer/")}
    if "tokenizer.json" not in tokenizer and not {"vocab.json", "merges.txt"} <= tokenizer:
        missing.append("tokenizer/vocab.json")
    if missing:
        raise FilesMissing(f"no {missing[0]}")
    needed = configs | {INDEX} | {f"tokenizer/{name}" for name in tokenizer & TOKENIZER}
    for folder in weights_of:
        needed |= set(_weights(names, folder, variant_of(names, folder, wanted)))
    return sorted(needed)


def _weights(names: Collection[str], folder: str, variant: str | None) -> list[str]:
    """The weights files of one variant, one file or all shards with their index; empty when not complete."""
    stem, dotted = f"{folder}/{WEIGHTS[folder]}", f".{variant}" if variant else ""
    whole, index = f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"
    if whole in names:
        return [whole]
    pattern = re.compile(rf"{re.escape(stem + dotted)}-\d{{5}}-of-(\d{{5}})\.safetensors")
    shards = [match for match in map(pattern.fullmatch, sorted(names)) if match]
    if index not in names or not shards or len(shards) != int(shards[0][1]):
        return []
    return [index, *(match[0] for match in shards)]


def files_in(folder: Path) -> set[str]:
    """The names of a folder's files as a repository's would be written; of folders in it those that a model has."""
    found = {path.name for path in folder.iterdir() if path.is_file()}
    for part in PARTS:
        if (folder / part).is_dir():  # which may be a link
            found |= {f"{part}/{path.name}" for path in (folder / part).iterdir() if path.is_file()}
    return found


def cached(model: str, revision: str | None) -> Snapshot | None:
    """What the cache holds of this revision, complete or not, or `None`. Asks nobody."""
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
    """The needed files of a Hub repository as a folder: the cached ones, and the others fetched.

    Without the Hub a complete cached copy of the revision is used as it is. Raises whatever went wrong
    otherwise; `operator_hint` puts that into a sentence.
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


@dataclass(frozen=True, slots=True)
class Listing:
    """What the Hub says that a revision of a repository holds: its commit, and bytes by file name."""

    commit: str
    sizes: dict[str, int]


def ask(model: str, revision: str | None, timeout_s: float = 60.0) -> Listing:
    """What the Hub holds of `revision`, and whether it would give it to us: files of a gated model it lists to anyone.

    Asks again when the Hub is busy or a connection fails, and raises what it got in the end.
    """
    each_s, delay_s, give_up_s = min(10.0, timeout_s / 4), SHORTEST_DELAY_S, time.monotonic() + timeout_s / 2
    for attempt in range(1, ATTEMPTS + 1):
        try:
            info = HfApi().model_info(model, revision=revision, files_metadata=True, timeout=each_s)
            get_hf_file_metadata(hf_hub_url(model, INDEX, revision=info.sha), timeout=each_s)
            return Listing(info.sha, {file.rfilename: file.size or 0 for file in info.siblings or ()})
        except (httpx.TransportError, hub_errors.HfHubHTTPError) as error:
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
    on_progress("asking the Hub")
    listing = ask(model, revision, timeout_s)
    names = needed_files(listing.sizes, variant, weights_of)
    wanted = [
        name for name in names if not isinstance(try_to_load_from_cache(model, name, revision=listing.commit), str)
    ]
    # The largest first: the last one to arrive should be small.
    wanted.sort(key=lambda name: -listing.sizes[name])
    total = sum(listing.sizes[name] for name in wanted)
    _check_disk(total)
    arrivals = _Arrivals(total)
    # Its own 10 MB would look like silence on a slow connection.
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    finished: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    pending = list(reversed(wanted))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not pending:
                    return
                name = pending.pop()
            try:
                hf_hub_download(model, name, revision=listing.commit, tqdm_class=arrivals.bar_class())
                finished.put(None)
            except Exception as error:
                with lock:
                    pending.clear()
                finished.put(error)

    # Daemons: one that hangs in a socket must hold up neither the fallback nor the end of the process.
    for _ in range(min(WORKERS, len(wanted))):
        threading.Thread(target=work, name="fetch", daemon=True).start()
    left, logged_s = len(wanted), time.monotonic()
    if wanted:
        logger.info("fetching %d files of %s, %s", left, model, size(total))
    while left:
        try:
            error = finished.get(timeout=REPORT_EVERY_S)
            left -= 1
            arrivals.touch()
            if error is not None:
                raise error
        except queue.Empty:
            pass
        if arrivals.silence_s > timeout_s:
            with lock:
                pending.clear()
            raise HubSilent(f"nothing has arrived for {timeout_s:.3g} s, after {arrivals}")
        on_progress(f"{arrivals} fetched")
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            logger.info("%s of %s fetched", arrivals, model)
    if revision != listing.commit:  # remembers which commit the branch or tag is, for a start without the Hub
        hf_hub_download(model, INDEX, revision=revision)
    fetched = cached(model, listing.commit)
    if fetched is None:
        raise FilesMissing("nothing in the cache although it was fetched")
    return fetched


def _check_disk(needed_bytes: int) -> None:
    """Says before the download that it would not fit."""
    folder = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OSError(errno.ENOSPC, f"{size(needed_bytes)} needed, {size(free_bytes)} free")


def size(count: float) -> str:
    """Bytes as people say them: '482 bytes', '64 kB', '246 MB', '2.74 GB'."""
    for unit, scale, digits in (("GB", 1e9, 2), ("MB", 1e6, 0), ("kB", 1e3, 0)):
        if count >= scale:
            return f"{count / scale:.{digits}f} {unit}"
    return f"{count:.0f} bytes"


class _Arrivals:
    """Counts bytes of all files together, and how long none came."""

    def __init__(self, total: int):
        self._total = total
        self._written = self._received = self._highest = 0
        self._lock = threading.Lock()
        self.touch()

    def __str__(self) -> str:
        return f"{size(min(self._highest, self._total))} of {size(self._total)}"

    @property
    def silence_s(self) -> float:
        return time.monotonic() - self._changed_s

    def touch(self) -> None:
        self._changed_s = time.monotonic()

    def _add(self, written: float, received: float) -> None:
        with self._lock:
            self._written += int(written)
            self._received += int(received)
            # A server that begins a file anew over and over makes the counts fall and rise: that is no progress.
            if max(self._written, self._received) > self._highest:
                self._highest = max(self._written, self._received)
                self.touch()

    def bar_class(self) -> type:
        """What huggingface_hub takes for a tqdm: one is made for each file, and all add up here."""
        arrivals = self

        class Bar:
            def __init__(self, *_: Any, initial: int = 0, **__: Any):
                self.update(initial)

            def __enter__(self) -> "Bar":
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def update(self, count: float | None = 1) -> None:
                arrivals._add(count or 0, 0)

            def update_transfer(self, count: float | None = 1) -> None:
                arrivals._add(0, count or 0)

            def set_postfix_str(self, *_: Any, **__: Any) -> None:
                pass

            set_transfer_postfix_str = set_postfix_str

            def close(self) -> None:
                pass

        return Bar


def operator_hint(error: BaseException, model: str, revision: str | None = None, variant: str | None = None) -> str:
    """One sentence that names the fix. Most telling causes first; subclasses before their bases."""
    causes = list(_chain(error))

    def find(*types: type[BaseException]) -> Any:
        return next((cause for cause in causes if isinstance(cause, types)), None)

    status = next((s for s in map(http_status, causes) if s), None)
    full = next((cause for cause in causes if getattr(cause, "errno", None) in DISK_FULL), None)
    if full is not None:
        return f"The disk is full ({full.strerror}); free some space or set HF_HOME to a folder on a larger disk."
    if (missing := find(FilesMissing)) is not None:
        return (
            f"{model} has {missing}; fetch or copy that again, or set SD_SPACE_MODEL and SD_SPACE_REVISION to another."
        )
    if find(hub_errors.GatedRepoError):
        return (
            f"{model} is gated: accept its licence at https://huggingface.co/{model}, "
            "and set HF_TOKEN to a token of that account."
        )
    if find(hub_errors.RevisionNotFoundError):
        return f"{model} has no revision {revision or 'main'}; set SD_SPACE_REVISION to one that exists."
    if find(hub_errors.LocalTokenNotFoundError) or status == 401:
        return (
            f"{model} is not on the Hub under this name, or asks for a token, and none or a wrong one is set; "
            "check SD_SPACE_MODEL, and set HF_TOKEN to a token of an account with access."
        )
    if status == 403:
        return f"The Hub refuses {model} to this token; set HF_TOKEN to one that may read it."
    if find(hub_errors.RepositoryNotFoundError):
        return f"{model} is not on the Hub, or the token's account cannot see it; check SD_SPACE_MODEL and HF_TOKEN."
    if status == 429:
        return "The Hub limits how often this address may ask; set HF_TOKEN, or try again in a few minutes."
    if status and status >= 500:
        return f"The Hub answered with error {status}; try again later."
    if find(hub_errors.OfflineModeIsEnabled):
        return f"{model} is not cached completely, and HF_HUB_OFFLINE is set; unset it once, so that it can be fetched."
    if (silent := find(HubSilent)) is not None:
        return f"The Hub went silent: {silent}; check the network, or raise SD_SPACE_HUB_TIMEOUT_S on a slow one."
    if find(hub_errors.EntryNotFoundError):
        return f"{model} lacks a file that is needed, in variant {variant or 'none'}; check SD_SPACE_MODEL."
    if find(httpx.TimeoutException, TimeoutError):
        return f"The Hub does not answer at {constants.ENDPOINT}; check the network, or HF_ENDPOINT."
    if find(httpx.TransportError, ConnectionError):
        return f"The Hub cannot be reached at {constants.ENDPOINT}; check the network, or HF_ENDPOINT."
    if find(hub_errors.LocalEntryNotFoundError):
        return f"{model} is not cached completely and the Hub cannot be reached; check the network."
    if any("Consistency check failed" in str(cause) for cause in causes):
        return f"A file of {model} came shorter than the Hub said; try again later."
    if any(type(cause).__name__ == "SafetensorError" for cause in causes):
        return f"A weights file of {model} is damaged or cut short; delete it, and have it fetched or copied again."
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{model} could not be loaded ({type(error).__name__}: {first_line}); fetch or copy its files again."


def http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it: the libraries wrap every fault of the Hub in a bare OSError."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
