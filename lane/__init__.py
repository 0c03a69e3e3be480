"""AMQP in batches: deliveries in, confirmed messages out. It knows nothing of predictions.

An `Inbox` yields lists of deliveries and takes their settlements; an `Outbox` takes lists of messages and
reports, in lists, what became of each. Each keeps a connection of its own and brings it back when it ends.
"""

from lane.frames import header_field
from lane.inbox import Inbox
from lane.outbox import Outbox
from lane.port import Binding, Delivery, ExchangeSpec, Fate, Message, Properties, QueueSpec, Settlement
from lane.template import Template

__all__ = [
    "Binding",
    "Delivery",
    "ExchangeSpec",
    "Fate",
    "Inbox",
    "Message",
    "Outbox",
    "Properties",
    "QueueSpec",
    "Settlement",
    "Template",
    "header_field",
]
