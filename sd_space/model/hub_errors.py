"""What an operator reads when a model cannot be fetched or loaded: one sentence that names the fix."""

import errno
from collections.abc import Callable, Iterator

import httpx2
from huggingface_hub import constants, errors

from sd_space.errors import ModelUnavailable
from sd_space.languages import Phrase
from sd_space.model.download import DownloadStalled
from sd_space.model.files import FilesMissing

VISITORS_SENTENCE = Phrase(
    "The model cannot be loaded at the moment, so no pictures can be made; the operator has been told."
)
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk's end, the account's, and a file's

Matches = Callable[[BaseException], bool]


def http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is(*types: type[BaseException]) -> Matches:
    return lambda error: isinstance(error, types)


def _has_status(number: int) -> Matches:
    return lambda error: http_status(error) == number


# The first line that matches the error or one of its causes is the hint: the most telling first, and classes before
# their bases.
HINTS: tuple[tuple[Matches, str], ...] = (
    (
        lambda error: getattr(error, "errno", None) in DISK_FULL,
        "The disk is full ({error.strerror}); free some space or set HF_HOME to a folder on a larger disk.",
    ),
    (
        _is(FilesMissing),
        "{model} has {error}; fetch or copy that again, or set SD_SPACE_MODEL and SD_SPACE_REVISION to another.",
    ),
    (
        _is(errors.GatedRepoError),
        "{model} is gated: accept its licence at https://huggingface.co/{model}, "
        "and set HF_TOKEN to a token of that account.",
    ),
    (
        _is(errors.RevisionNotFoundError),
        "{model} has no revision {revision}; set SD_SPACE_REVISION to one that exists.",
    ),
    (
        lambda error: isinstance(error, errors.LocalTokenNotFoundError) or http_status(error) == 401,
        "{model} is not on the Hub under this name, or asks for a token, and none or a wrong one is set; "
        "check SD_SPACE_MODEL, and set HF_TOKEN to a token of an account with access.",
    ),
    (_has_status(403), "The Hub refuses {model} to this token; set HF_TOKEN to one that may read it."),
    (
        _is(errors.RepositoryNotFoundError),
        "{model} is not on the Hub, or the token's account cannot see it; check SD_SPACE_MODEL and HF_TOKEN.",
    ),
    (
        _has_status(429),
        "The Hub limits how often this address may ask; set HF_TOKEN, or try again in a few minutes.",
    ),
    (
        lambda error: (http_status(error) or 0) >= 500,
        "The Hub answered with error {status}; try again later.",
    ),
    (
        _is(errors.OfflineModeIsEnabled),
        "{model} is not cached completely, and HF_HUB_OFFLINE is set; unset it once, so that it can be fetched.",
    ),
    (
        _is(DownloadStalled),
        "The Hub went silent: {error}; check the network, or raise SD_SPACE_HUB_TIMEOUT_S on a slow one.",
    ),
    (
        _is(errors.EntryNotFoundError),
        "{model} lacks a file that is needed, in variant {variant}; check SD_SPACE_MODEL.",
    ),
    (
        _is(httpx2.TimeoutException, TimeoutError),
        "The Hub does not answer at {endpoint}; check the network, or HF_ENDPOINT.",
    ),
    (
        _is(httpx2.TransportError, ConnectionError),
        "The Hub cannot be reached at {endpoint}; check the network, or HF_ENDPOINT.",
    ),
    (
        _is(errors.LocalEntryNotFoundError),
        "{model} is not cached completely and the Hub cannot be reached; check the network.",
    ),
    (
        lambda error: "Consistency check failed" in str(error),
        "A file of {model} came shorter than the Hub said; try again later.",
    ),
    (
        lambda error: type(error).__name__ == "SafetensorError",
        "A weights file of {model} is damaged or cut short; delete it, and have it fetched or copied again.",
    ),
)


def operator_hint(error: BaseException, model: str, revision: str | None = None, variant: str | None = None) -> str:
    """The sentence of HINTS for this error, or its type and first line."""
    causes = list(_chain(error))
    for matches, sentence in HINTS:
        for cause in filter(matches, causes):
            return sentence.format(
                error=cause,
                status=http_status(cause),
                model=model,
                revision=revision or "main",
                variant=variant or "none",
                endpoint=constants.ENDPOINT,
            )
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{model} could not be loaded ({type(error).__name__}: {first_line}); fetch or copy its files again."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes: the libraries wrap every fault of the Hub in a bare OSError."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def unavailable(operator_hint: str) -> ModelUnavailable:
    return ModelUnavailable(VISITORS_SENTENCE, operator_hint)
