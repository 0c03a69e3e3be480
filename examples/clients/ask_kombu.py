"""Ask for a prediction with kombu, as Celery does: `python ask_kombu.py price '{"pair": "ETH/EUR"}'`."""

import json
import os
import sys
import time
import uuid
from typing import Any

from kombu import Connection, Consumer, Producer, Queue

TIMEOUT_S = 10


def ask(url: str, model: str, features: bytes) -> dict[str, Any]:
    """Send a request; return the body and the `cache-status` of the reply."""
    identifier = str(uuid.uuid4())
    received: list[dict[str, Any]] = []

    def on_message(message: Any) -> None:
        if message.properties["correlation_id"] == identifier:
            received.append(json.loads(message.body) | {"cache-status": message.headers["cache-status"]})

    with Connection(url) as connection, connection.channel() as channel:
        replies = Queue(f"replies.{identifier}", exclusive=True, auto_delete=True, durable=False)
        with Consumer(channel, [replies], on_message=on_message, no_ack=True):
            Producer(channel).publish(
                features,
                routing_key=f"predictions.{model}",
                content_type="application/json",
                content_encoding="utf-8",
                reply_to=replies.name,
                correlation_id=identifier,
                expiration=TIMEOUT_S,
                headers={"deadline": str(round((time.time() + TIMEOUT_S) * 1000))},
            )
            give_up_at = time.monotonic() + TIMEOUT_S
            while not received:
                connection.drain_events(timeout=max(0.001, give_up_at - time.monotonic()))
    return received[0]


if __name__ == "__main__":
    try:
        reply = ask(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/%2F"), sys.argv[1], sys.argv[2].encode())
    except TimeoutError as error:
        sys.exit(f"no answer: {error!r}")
    print(json.dumps(reply))
    sys.exit("error" in reply)
