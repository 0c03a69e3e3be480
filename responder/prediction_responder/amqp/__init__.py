"""Requests and replies over AMQP. The rest of the responder uses `amqp_lane` through this package only."""

from amqp_lane import Amqp, Consumer, Publisher, Transport

__all__ = ["Amqp", "Consumer", "Publisher", "Transport"]
