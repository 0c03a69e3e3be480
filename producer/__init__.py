"""The client library: ask for predictions over RabbitMQ."""

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

__all__ = [
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
    "Unavailable",
    "UnknownModel",
    "UnsupportedMediaType",
]
