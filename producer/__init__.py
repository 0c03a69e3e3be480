"""The client library: ask for predictions over RabbitMQ."""

from producer.blocking import BlockingPredictionClient
from producer.client import PredictionClient
from producer.errors import (
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
from producer.prediction import Prediction
from producer.retry import NO_RETRIES, Retries, RetryBudget

__all__ = [
    "NO_RETRIES",
    "BlockingPredictionClient",
    "CacheMiss",
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
