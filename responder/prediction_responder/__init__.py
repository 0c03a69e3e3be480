"""A prediction responder on RabbitMQ. This module is the public API; everything below it is private."""

from typing import TYPE_CHECKING

from prediction_responder.model.answer import Answer, InvalidInput, Unavailable
from prediction_responder.model.predictor import predictor

if TYPE_CHECKING:
    from prediction_responder.app import Responder
    from prediction_responder.settings import Settings

__all__ = ["Answer", "InvalidInput", "Responder", "Settings", "Unavailable", "predictor"]


def __getattr__(name: str) -> object:
    """Import the service on first use only, so that a module of models imports in milliseconds."""
    if name == "Responder":
        from prediction_responder.app import Responder

        return Responder
    if name == "Settings":
        from prediction_responder.settings import Settings

        return Settings
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
