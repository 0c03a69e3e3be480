"""The options of a client and of a call, for type checkers, and those that the environment gives."""

import os
from typing import TypedDict

from amqp_lane import Transport
from prediction_client.retry import Retries, RetryBudget

LOCAL = "amqp://guest:guest@localhost/"


class CallOptions(TypedDict, total=False):
    """The options of one call; see `PredictionClient.ask`."""

    timeout_s: float | None
    cache_control: str | None
    tenant: str | None


class ClientOptions(TypedDict, total=False):
    """The options of a client; see `PredictionClient`."""

    timeout_s: float
    connect_timeout_s: float
    namespace: str
    max_in_flight: int
    retries: Retries | None
    retry_budget: RetryBudget | None
    user_id: str | None
    exchange: str
    reply_exchange: str
    reply_prefix: str
    transport: Transport | None


def environment_options(given: ClientOptions) -> tuple[str, ClientOptions]:
    """The broker's URL and the options: those given, else those of the environment.

    It reads AMQP_URL, RESPONDER_NAMESPACE and RESPONDER_REPLY_EXCHANGE, which the responders read as well.
    """
    options: ClientOptions = {
        "namespace": os.environ.get("RESPONDER_NAMESPACE", ""),
        "reply_exchange": os.environ.get("RESPONDER_REPLY_EXCHANGE", ""),
    }
    options.update(given)
    return os.environ.get("AMQP_URL") or LOCAL, options
