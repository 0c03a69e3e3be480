"""Reply bodies: exactly one of a result and an error, and the codes that an error may have.

A body carries no caller: who asked is in the AMQP properties. So equal questions have byte-identical
answers, and a cached body is sent as it is.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator
from pydantic_core import from_json

_RESULT_HEAD = b'{"result":'
_TAIL = b"}"


class Code(Enum):
    """Every error code of the wire contract: its HTTP status, whether a retry may help, and when it is sent.

    The numbers are what gateways map, the names are what programs switch on.
    """

    INVALID_ARGUMENT = 400, False, "not JSON, too deep, or fails the input schema"
    PERMISSION_DENIED = 403, False, "the request has no validated user, or one that is not on the list"
    CACHE_MISS = 412, False, "only-if-cached, and nothing usable is cached"
    PAYLOAD_TOO_LARGE = 413, False, "the body or the reply is over its limit"
    UNSUPPORTED_MEDIA_TYPE = 415, False, "the content type or encoding is not ours"
    RESOURCE_EXHAUSTED = 429, True, "too many misses are waiting"
    MODEL_ERROR = 500, False, "the model raised"
    MODEL_OUTPUT_INVALID = 500, False, "the output does not fit its schema or is not strict JSON"
    MODEL_CRASHED = 500, False, "this input has killed its process three times"
    INTERNAL = 500, False, "a fault of the responder"
    UNAVAILABLE = 503, True, "the model is not available now"
    DEADLINE_EXCEEDED = 504, False, "too late, before or during the work"

    def __init__(self, status: int, retryable: bool, when: str) -> None:  # noqa: FBT001 - a column of the table above
        self.status = status
        self.retryable = retryable
        self.when = when


class Failure(BaseModel):
    """The error half of a reply, as it stands on the wire."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: str
    status: int
    message: str
    retryable: bool = False
    details: dict[str, JsonValue] = {}


@dataclass(frozen=True, slots=True)
class Result:
    """The answer half of a reply: the model's output as a JSON value."""

    value: Any


class MalformedReply(ValueError):
    """A reply body that is neither a result nor an error."""


class _Reply(BaseModel):
    """The wire form: later versions may add fields beside these two, so unknown ones are ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    result: JsonValue = None
    error: Failure | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "_Reply":
        if len(self.model_fields_set & {"result", "error"}) != 1 or ("error" in self.model_fields_set) != bool(
            self.error
        ):
            msg = "a reply has exactly one of 'result' and 'error'"
            raise ValueError(msg)
        return self


def encode_result(output_json: bytes) -> bytes:
    """Wrap a model's output, already strict JSON, as a reply body."""
    return _RESULT_HEAD + output_json + _TAIL


def encode_failure(code: Code, message: str, details: dict[str, Any] | None = None) -> bytes:
    """Build an error reply body.

    Args:
        code: decides `status` and `retryable`.
        message: one sentence for people; no traceback, class path or configuration.
        details: JSON values for programs, e.g. the fields at fault.
    """
    failure = Failure(
        code=code.name, status=code.status, message=message, retryable=code.retryable, details=details or {}
    )
    return b'{"error":' + failure.model_dump_json().encode() + _TAIL


def decode_reply(body: bytes) -> Result | Failure:
    """Read a reply body of this or any earlier version.

    Raises:
        MalformedReply: the body is not JSON, or has not exactly one of `result` and `error`.
    """
    if body.startswith(_RESULT_HEAD) and body.endswith(_TAIL):
        # Most replies are what `encode_result` writes: when all between the ends is one JSON value, that is the reply.
        try:
            return Result(from_json(body[len(_RESULT_HEAD) : -len(_TAIL)], allow_inf_nan=False))
        except ValueError:
            pass
    try:
        reply = _Reply.model_validate_json(body)
    except ValidationError as error:
        msg = f"not a prediction reply: {error.errors(include_url=False, include_input=False)[0]['msg']}"
        raise MalformedReply(msg) from None
    return reply.error if reply.error is not None else Result(value=reply.result)
