"""Errors in the shape of OpenAI's API, which its clients turn into exceptions of their own."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from sd_space.errors import InvalidRequest, LicenceNotAccepted, ModelUnavailable, QueueFull, SpaceError
from sd_space.fields import shown
from sd_space.served_model import ModelInfo
from sd_space.serving.answers import refusal
from sd_space.serving.envelope import Refusal
from sd_space.serving.limits import RETRY_AFTER_S
from sd_space.serving.openai_request import OURS

ROOT = "/v1/"  # all that is below answers in this shape
_RETRY = {"Retry-After": str(RETRY_AFTER_S)}
_CODES = {401: "invalid_api_key", 404: "not_found", 413: "body_too_large", 429: "rate_limit_exceeded"}


class ApiRefusal(Refusal):
    """A refusal that names the parameter which it is about."""

    def __init__(self, status: int, sentence: str, param: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(status, sentence, headers)
        self.param = param


def error_object(refused: Refusal) -> dict[str, Any]:
    """What answers and streams hold."""
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": refused.sentence,
            "type": "rate_limit_error" if refused.status == 429 else kind,
            "param": refused.param if isinstance(refused, ApiRefusal) else None,
            "code": _CODES.get(refused.status),
        }
    }


def refused_at(path: str, refused: Refusal) -> JSONResponse:
    """The answer at this address: the page and Gradio's clients read another shape than those of OpenAI's API."""
    if path.startswith(ROOT):
        answer = JSONResponse(error_object(refused), refused.status)
    else:
        answer = refusal(refused.status, refused.sentence)
    answer.headers.update(refused.headers)
    return answer


def refused_by(error: SpaceError, asked: Mapping[str, object], info: ModelInfo | None) -> ApiRefusal:
    """The same in the words of this API; `asked` are the parameters as they came."""
    match error:
        case InvalidRequest(field="width" | "height") if info is not None:
            return ApiRefusal(400, _size_sentence(asked.get("size"), info), "size")
        case InvalidRequest():
            names = {ours: theirs for theirs, ours in OURS.items()}
            sentence = error.message
            for ours, theirs in names.items():
                sentence = sentence.replace(ours, theirs)
            return ApiRefusal(400, sentence, names.get(error.field, error.field))
        case LicenceNotAccepted():
            return ApiRefusal(401, str(error))
        case QueueFull():
            return ApiRefusal(429, str(error), headers=_RETRY)
        case ModelUnavailable():
            return ApiRefusal(503, str(error), headers=_RETRY)
    return ApiRefusal(500, str(error))


def _size_sentence(asked: object, info: ModelInfo) -> str:
    limits, own = info.limits, info.defaults
    return (
        f"size must be auto, or WIDTHxHEIGHT with sides from {limits.min_size} to {limits.max_size} pixels that are "
        f"multiples of {limits.size_step}, such as {own.width}x{own.height}, not {shown(asked)}."
    )
