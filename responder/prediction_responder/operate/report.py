"""What a replica reports of itself."""

import os
import socket
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

from prediction_responder.execution.served import ServedModel


class State(Protocol):
    """How a responder is; `app.Responder` is one."""

    @property
    def missing(self) -> list[str]:
        """What keeps it from answering."""

    @property
    def degraded(self) -> list[str]:
        """What is wrong besides."""

    @property
    def unsettled(self) -> int:
        """How many requests it has received and not settled."""

    @property
    def unconfirmed(self) -> int:
        """How many of its replies have no known fate yet."""


def report(replica: str, models: Sequence[ServedModel], state: State) -> dict[str, Any]:
    """The report, as JSON values."""
    return {
        "replica": replica,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": version("prediction-responder"),
        "models": {one.name: one.version for one in models if one.is_loaded},
        "missing": state.missing,
        "degraded": state.degraded,
        "unsettled": state.unsettled,
        "unconfirmed": state.unconfirmed,
    }
