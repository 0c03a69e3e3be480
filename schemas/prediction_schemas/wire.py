"""The names of the wire contract in AMQP: headers, message types and addresses, each written once.

The bodies are in `messages`, the values of the headers `cache-control` and `cache-status` in `directives`.
"""

from dataclasses import dataclass

WIRE_VERSION = b"1"
JSON = b"application/json"

# The property `type`. A request may also have none.
CALL, RESULT, ERROR = b"call", b"result", b"error"
REPLY_TYPES = frozenset({RESULT, ERROR})

# Headers of a request.
DEADLINE, CACHE_CONTROL, TENANT = b"deadline", b"cache-control", b"tenant"
TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"  # W3C Trace Context
REQUEST_HEADERS = (DEADLINE, CACHE_CONTROL, TENANT, TRACEPARENT, TRACESTATE)

# Headers of a reply. It also carries the `traceparent` of its request.
CACHE_STATUS, AGE, DURATION_MS, RETRY_AFTER_MS = b"cache-status", b"age", b"duration-ms", b"retry-after-ms"
MODEL, MODEL_VERSION, WIRE = b"model", b"model-version", b"wire"
REPLY_HEADERS = (CACHE_STATUS, AGE, MODEL, MODEL_VERSION, WIRE, DURATION_MS, RETRY_AFTER_MS)

# Addresses that the broker makes for direct reply-to: RabbitMQ's pseudo-queue, and those of RabbitMQ 4.2 and later.
DIRECT_REPLY_TO = (b"amq.rabbitmq.reply-to", b"amq.direct.reply-to")

REPLY_PREFIX = "replies."  # of the names of reply queues
RESERVED_MODELS = frozenset({"dead"})  # a model of this name would have the dead-letter queue as its request queue


@dataclass(frozen=True)
class Addresses:
    """The exchange and the queues of one deployment.

    Args:
        namespace: the prefix of all names; see RESPONDER_NAMESPACE.
    """

    namespace: str = ""

    @property
    def exchange(self) -> str:
        """The direct exchange of requests; the routing key is the model's name."""
        return f"{self.namespace}predictions"

    @property
    def queue_prefix(self) -> str:
        """What all queues of the deployment begin with."""
        return f"{self.exchange}."

    @property
    def dead_letters(self) -> str:
        """The queue of requests that could not be answered."""
        return f"{self.queue_prefix}dead"

    def requests(self, model: str) -> str:
        """The request queue of a model, which is also its routing key in the default exchange."""
        return f"{self.queue_prefix}{model}"

    def model_of(self, queue: str) -> str:
        """The model whose request queue this is; empty if it is another queue."""
        model = queue.removeprefix(self.queue_prefix)
        return "" if model == queue or model in RESERVED_MODELS else model
