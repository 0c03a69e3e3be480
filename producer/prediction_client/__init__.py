"""The client library: ask for predictions over RabbitMQ."""

from prediction_client.blocking import BlockingPredictionClient
from prediction_client.client import PredictionClient
from prediction_client.errors import (
    CacheMiss,
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    NoBroker,
    OutcomeUnknown,
    PayloadTooLarge,
    PermissionDenied,
    PredictionError,
    ResourceExhausted,
    Unavailable,
    UnknownModel,
    UnsupportedMediaType,
)
from prediction_client.options import CallOptions, ClientOptions
from prediction_client.prediction import Prediction
from prediction_client.retry import NO_RETRIES, Retries, RetryBudget
from prediction_schemas import CacheStatus

__all__ = [
    "NO_RETRIES",
    "BlockingPredictionClient",
    "CacheMiss",
    "CacheStatus",
    "CallOptions",
    "ClientOptions",
    "DeadlineExceeded",
    "InvalidArgument",
    "ModelFailed",
    "NoBroker",
    "OutcomeUnknown",
    "PayloadTooLarge",
    "PermissionDenied",
    "Prediction",
    "PredictionClient",
    "PredictionError",
    "ResourceExhausted",
    "Retries",
    "RetryBudget",
    "Unavailable",
    "UnknownModel",
    "UnsupportedMediaType",
]
