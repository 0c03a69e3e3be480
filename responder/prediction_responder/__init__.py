"""A prediction responder on RabbitMQ. This module is the public API; everything below it is private."""

import importlib
from typing import TYPE_CHECKING

from prediction_responder.model.answer import Answer, InvalidInput, Unavailable
from prediction_responder.model.predictor import AnyPredictor, Predictor, predictor
from prediction_responder.model.signature import InvalidPredictor
from prediction_responder.observe.events import Call, Observer, Oddity, Refreshed
from prediction_schemas.canonical import exclude_from_key

if TYPE_CHECKING:
    from prediction_responder.app import Responder
    from prediction_responder.execution.served import ModelNotLoaded
    from prediction_responder.settings import InvalidSettings, Settings

__all__ = [
    "Answer",
    "AnyPredictor",
    "Call",
    "InvalidInput",
    "InvalidPredictor",
    "InvalidSettings",
    "ModelNotLoaded",
    "Observer",
    "Oddity",
    "Predictor",
    "Refreshed",
    "Responder",
    "Settings",
    "Unavailable",
    "exclude_from_key",
    "predictor",
]

_LATER = {
    "InvalidSettings": "prediction_responder.settings",
    "ModelNotLoaded": "prediction_responder.execution.served",
    "Responder": "prediction_responder.app",
    "Settings": "prediction_responder.settings",
}


def __getattr__(name: str) -> object:
    """Import the service on first use only, so that a module of models imports in milliseconds."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_LATER[name]), name)
