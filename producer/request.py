"""What a call sends."""

import json
import time
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from lane import Message, Template, header_field
from producer.errors import InvalidArgument, PayloadTooLarge, UnknownModel

MAX_BODY_BYTES = 16 * 2**20  # RabbitMQ 4 takes no more
MAX_NAME_BYTES = 255


class RequestWriter:
    """Makes the messages of one client; what they share is encoded once.

    Args:
        prefix: what a model's routing key begins with.
        reply_to: the client's own queue.
        user_id: see `PredictionClient`.
    """

    def __init__(self, *, prefix: str, reply_to: str, user_id: str | None = None) -> None:
        self._prefix = prefix
        self._template = Template(
            content_type=b"application/json",
            reply_to=reply_to.encode(),
            type=b"call",
            user_id=None if user_id is None else user_id.encode(),
            persistent=True,
        )
        self._routing_keys: dict[str, bytes] = {}

    def message(
        self,
        identifier: bytes,
        model: str,
        features: BaseModel | Any,
        *,
        left_s: float,
        give_up_at: float,
        cache_control: str | None,
        tenant: str | None,
    ) -> Message:
        """The request message.

        Args:
            identifier: echoed by the responder as the correlation id.
            left_s: how long the caller waits; the broker and the responder drop the request afterwards.
            give_up_at: the same, on the event loop's clock.

        Raises:
            UnknownModel: no queue can have that name.
            InvalidArgument: the input is not JSON.
            PayloadTooLarge: no broker takes it.
        """
        body = encode_input(features)
        if len(body) > MAX_BODY_BYTES:
            msg = f"the input has {len(body)} bytes, a message has {MAX_BODY_BYTES} at most"
            raise PayloadTooLarge(msg, code="PAYLOAD_TOO_LARGE")
        left_ms = max(1, round(left_s * 1000))
        fields = header_field(b"deadline", b"%d" % (time.time_ns() // 1_000_000 + left_ms))
        if cache_control is not None:
            fields += header_field(b"cache-control", cache_control.encode())
        if tenant is not None:
            fields += header_field(b"tenant", tenant.encode())
        routing_key = self._routing_keys.get(model) or self._routing_key(model)
        return Message(
            routing_key,
            body,
            self._template,
            correlation_id=identifier,
            expiration=b"%d" % left_ms,
            fields=fields,
            give_up_at=give_up_at,
            token=(identifier, model),
        )

    def _routing_key(self, model: str) -> bytes:
        key = f"{self._prefix}{model}".encode()
        if len(key) > MAX_NAME_BYTES:
            msg = f"no model has a name of {len(model)} characters"
            raise UnknownModel(msg)
        if len(self._routing_keys) < 1024:
            self._routing_keys[model] = key
        return key


def encode_input(features: BaseModel | Any) -> bytes:
    """The JSON text of an input: a pydantic model (by its field names), or anything that pydantic can write as JSON.

    Raises:
        InvalidArgument: it cannot be written, or it holds a number that JSON does not have.
    """
    try:
        plain = features.model_dump(mode="json") if isinstance(features, BaseModel) else features
        body = to_json(plain, by_alias=False, inf_nan_mode="constants")
        if b"NaN" in body or b"Infinity" in body:  # perhaps only inside a string
            json.dumps(json.loads(body), allow_nan=False)
    except (PydanticSerializationError, ValueError) as error:
        msg = f"the input cannot be written as JSON: {error}"
        raise InvalidArgument(msg, code="INVALID_ARGUMENT") from error
    return body
