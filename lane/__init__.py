"""AMQP in batches: deliveries in, confirmed messages out. It knows nothing of predictions.

An `Inbox` yields lists of deliveries and takes their settlements; an `Outbox` takes lists of messages and
reports, in lists, what became of each. Each keeps a connection of its own and brings it back when it ends.
"""

from lane.frames import header_field
from lane.inbox import Inbox
from lane.memory import MemoryBroker
from lane.outbox import Outbox
from lane.port import Binding, Delivery, ExchangeSpec, Fate, Message, Properties, QueueSpec, Settlement
from lane.template import Template
from lane.transport import Amqp, Consumer, Publisher, Transport

__all__ = [
    "Amqp",
    "Binding",
    "Consumer",
    "Delivery",
    "ExchangeSpec",
    "Fate",
    "Inbox",
    "MemoryBroker",
    "Message",
    "Outbox",
    "Properties",
    "Publisher",
    "QueueSpec",
    "Settlement",
    "Template",
    "Transport",
    "header_field",
]
