"""Reply bodies, which hold exactly one of a result and an error, and the error codes.

A body says nothing of the caller, who is identified in the AMQP properties. So equal requests have byte-identical
bodies, and a cached body is sent unchanged.
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

    Gateways map the numbers; programs switch on the names.
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
    """The error of a reply, as on the wire."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    code: str
    status: int
    message: str
    retryable: bool = False
    details: dict[str, JsonValue] = {}


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a reply: the model's output as a JSON value."""

    value: Any


class MalformedReply(ValueError):
    """A reply body is neither a result nor an error."""


class _Reply(BaseModel):
    """The wire form. Later versions may add fields, so unknown fields are ignored."""

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
    """Wrap a model's output, which is strict JSON already, as a reply body."""
    return _RESULT_HEAD + output_json + _TAIL


def encode_failure(code: Code, message: str, details: dict[str, Any] | None = None) -> bytes:
    """Build an error reply body.

    Args:
        code: determines `status` and `retryable`.
        message: one sentence for people, without a traceback, class path or configuration.
        details: JSON values for programs, e.g. the invalid fields.
    """
    failure = Failure(
        code=code.name, status=code.status, message=message, retryable=code.retryable, details=details or {}
    )
    return b'{"error":' + failure.model_dump_json().encode() + _TAIL


def decode_reply(body: bytes) -> Result | Failure:
    """Parse a reply body of this or any earlier version.

    Raises:
        MalformedReply: the body is not JSON, or does not have exactly one of `result` and `error`.
    """
    if body.startswith(_RESULT_HEAD) and body.endswith(_TAIL):
        # The common case: `encode_result` wrote the body. If the text between head and tail is one JSON value, it is
        # the result.
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
