"""AMQP in batches: deliveries in, confirmed messages out. It knows nothing of predictions.

An `Inbox` yields lists of deliveries and takes their settlements. An `Outbox` takes lists of messages and reports
the fate of each, also in lists. Each has its own connection and reconnects when that connection ends.
"""

from amqp_lane.encoding import header_field
from amqp_lane.inbox import Inbox
from amqp_lane.memory import MemoryBroker
from amqp_lane.options import InboxOptions, OutboxOptions
from amqp_lane.outbox import Outbox
from amqp_lane.port import Binding, Delivery, ExchangeSpec, Fate, Message, Properties, QueueSpec, Settlement
from amqp_lane.template import Template
from amqp_lane.transport import Amqp, Consumer, Publisher, Transport

__all__ = [
    "Amqp",
    "Binding",
    "Consumer",
    "Delivery",
    "ExchangeSpec",
    "Fate",
    "Inbox",
    "InboxOptions",
    "MemoryBroker",
    "Message",
    "Outbox",
    "OutboxOptions",
    "Properties",
    "Publisher",
    "QueueSpec",
    "Settlement",
    "Template",
    "Transport",
    "header_field",
]
