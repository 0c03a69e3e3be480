"""The errors of a call, by cause.

PredictionError
├── InvalidArgument, PayloadTooLarge, UnsupportedMediaType, PermissionDenied, UnknownModel   the request
├── CacheMiss                                                                                `only-if-cached`
├── ModelFailed                                                                              the model
├── ResourceExhausted, Unavailable                                                           temporary: try again
├── DeadlineExceeded                                                                         too late
└── NoBroker, OutcomeUnknown                                                                 the connection
"""

from typing import Any

from prediction_schemas import CacheStatus, Code, Failure


class PredictionError(Exception):
    """A call failed.

    Attributes:
        code: the wire contract's code, or a code of the client if there was no reply.
        retryable: whether the same call may succeed later.
        retry_after_s: how long to wait before that, if the responder said so.
        details: e.g. the invalid fields.
        status: the HTTP status for a gateway to answer with.
        model: the model that was asked.
        correlation_id: of the request, as it stands in the broker's and the responder's traces; None if none was made.
        cache_status: where the reply came from (RFC 9211); None without a reply.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        details: dict[str, Any] | None = None,
        cache_status: CacheStatus | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.details = details or {}
        self.cache_status = cache_status
        self.model: str | None = None
        self.correlation_id: str | None = None

    @property
    def status(self) -> int:
        """The HTTP status for a gateway to answer with; 502 for an unknown code or a malformed reply."""
        return _OWN_STATUS.get(self.code) or (Code[self.code].status if self.code in Code.__members__ else 502)


class InvalidArgument(PredictionError):
    """400: the input does not fit the model's schema, or the model refused it."""


class PermissionDenied(PredictionError):
    """403: the user is not allowed to send requests."""


class CacheMiss(PredictionError):
    """412: `only-if-cached`, and nothing usable is cached."""


class PayloadTooLarge(PredictionError):
    """413: the input or the answer is over its limit."""


class UnsupportedMediaType(PredictionError):
    """415: the request was not plain JSON."""


class ResourceExhausted(PredictionError):
    """429: too many requests wait, or the model's queue is full."""

    code = "RESOURCE_EXHAUSTED"


class ModelFailed(PredictionError):
    """500: the model or the responder failed on this input."""


class Unavailable(PredictionError):
    """503: the model is not available now."""


class DeadlineExceeded(PredictionError):
    """504: no answer in time. The model may have run all the same."""

    code = "DEADLINE_EXCEEDED"


class UnknownModel(PredictionError):
    """No queue takes requests for this model: its name is wrong, or no responder has ever served it."""

    code = "UNKNOWN_MODEL"


class NoBroker(PredictionError):
    """The broker cannot be reached, or the client is not open."""

    code = "NO_BROKER"


class OutcomeUnknown(PredictionError):
    """The connection was lost, or the client closed, before the reply came: the model may or may not have run."""

    code = "OUTCOME_UNKNOWN"


_OWN_STATUS = {"UNKNOWN_MODEL": 404, "NO_BROKER": 503, "OUTCOME_UNKNOWN": 503}
_BY_STATUS: dict[int, type[PredictionError]] = {
    400: InvalidArgument,
    403: PermissionDenied,
    412: CacheMiss,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    429: ResourceExhausted,
    500: ModelFailed,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_of(failure: Failure, retry_after_s: float | None, cache_status: CacheStatus) -> PredictionError:
    """The typed error for an error reply; an unknown status becomes a plain PredictionError."""
    return _BY_STATUS.get(failure.status, PredictionError)(
        failure.message,
        code=failure.code,
        retryable=failure.retryable,
        retry_after_s=retry_after_s,
        details=dict(failure.details),
        cache_status=cache_status,
    )
