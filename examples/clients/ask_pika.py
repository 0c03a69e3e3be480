"""Ask for a prediction with pika: `python ask_pika.py price '{"pair": "ETH/EUR"}'`. AMQP_URL is the broker's URL."""

import json
import os
import sys
import time
import uuid
from typing import Any

import pika

TIMEOUT_S = 10


def ask(url: str, model: str, features: bytes) -> dict[str, Any]:
    """Send a request; return the body and the `cache-status` of the reply."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        replies = channel.queue_declare("", exclusive=True).method.queue
        identifier = str(uuid.uuid4())
        properties = pika.BasicProperties(
            content_type="application/json",
            reply_to=replies,
            correlation_id=identifier,
            expiration=str(TIMEOUT_S * 1000),
            headers={"deadline": str(round((time.time() + TIMEOUT_S) * 1000))},
        )
        # Mandatory: a request for a model without a queue fails at once instead of timing out.
        channel.basic_publish("", f"predictions.{model}", features, properties, mandatory=True)
        for method, given, body in channel.consume(replies, auto_ack=True, inactivity_timeout=TIMEOUT_S):
            if method is None:
                raise TimeoutError(f"no answer from {model} within {TIMEOUT_S} s")
            if given.correlation_id == identifier:
                reply: dict[str, Any] = json.loads(body) | {"cache-status": given.headers["cache-status"]}
                return reply
        raise TimeoutError("the broker ended the consumer")
    finally:
        connection.close()


if __name__ == "__main__":
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/%2F")
    try:
        reply = ask(url, sys.argv[1], sys.argv[2].encode())
    except (TimeoutError, pika.exceptions.UnroutableError) as error:
        sys.exit(f"no answer: {error!r}")
    print(json.dumps(reply))
    sys.exit("error" in reply)
