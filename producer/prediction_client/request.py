"""The request messages of a client."""

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from amqp_lane import Message, Template, header_field
from prediction_client.errors import InvalidArgument, PayloadTooLarge, UnknownModel
from prediction_schemas.wire import CACHE_CONTROL, CALL, DEADLINE, JSON, RESERVED_MODELS, TENANT

MAX_BODY_BYTES = 16 * 2**20  # RabbitMQ 4 accepts no larger message
MAX_NAME_BYTES = 255
MAX_HEADER_BYTES = 1024
MAX_TTL_MS = 2**31  # RabbitMQ closes the channel for twice this value


class RequestWriter:
    """Makes the messages of one client; their common properties are encoded once.

    Args:
        prefix: the part of the routing key before the model's name.
        reply_to: the client's reply queue.
        user_id: see `PredictionClient`.
    """

    def __init__(self, *, prefix: str, reply_to: str, user_id: str | None = None) -> None:
        self._prefix = prefix
        user = None if user_id is None else user_id.encode()
        shared = partial(Template, content_type=JSON, type=CALL, user_id=user, persistent=True)
        self._template, self._unanswered = shared(reply_to=reply_to.encode()), shared()
        self._routing_keys: dict[str, bytes] = {}

    def message(
        self,
        identifier: bytes,
        model: str,
        body: bytes,
        *,
        left_s: float,
        give_up_at: float,
        cache_control: str | None,
        tenant: str | None,
        trace: Mapping[str, str],
    ) -> Message:
        """The request message.

        Args:
            identifier: echoed by the responder as the correlation id.
            body: see `encode_input`.
            left_s: how long the caller waits; the broker and the responder drop the request afterwards.
            give_up_at: the same moment on the event loop's clock.
            trace: headers that carry the caller's trace.

        Raises:
            UnknownModel: not a valid model name.
            InvalidArgument: `cache_control` or `tenant` is too long, or not valid Unicode.
        """
        left_ms = _milliseconds(left_s)
        fields = header_field(DEADLINE, b"%d" % (time.time_ns() // 1_000_000 + left_ms))
        if cache_control is not None:
            fields += header_field(CACHE_CONTROL, _short("cache_control", cache_control))
        if tenant is not None:
            fields += header_field(TENANT, _short("tenant", tenant))
        for name, value in trace.items():
            fields += header_field(name.encode(), value.encode())
        return Message(
            self._routing_keys.get(model) or self._routing_key(model),
            body,
            self._template,
            correlation_id=identifier,
            expiration=b"%d" % left_ms,
            fields=fields,
            give_up_at=give_up_at,
            token=(identifier, model),
        )

    def unanswered(self, model: str, body: bytes, *, left_s: float, give_up_at: float, tenant: str | None) -> Message:
        """A request without a reply, whose answer is only cached. Raises as `message`."""
        fields = b"" if tenant is None else header_field(TENANT, _short("tenant", tenant))
        return Message(
            self._routing_key(model),
            body,
            self._unanswered,
            expiration=b"%d" % _milliseconds(left_s),
            fields=fields,
            give_up_at=give_up_at,
        )

    def _routing_key(self, model: str) -> bytes:
        key = f"{self._prefix}{model}".encode(errors="replace")
        if not model or model in RESERVED_MODELS or len(key) > MAX_NAME_BYTES:
            msg = f"not a valid model name: {model[:40]!r}{'...' * (len(model) > 40)}"
            raise UnknownModel(msg)
        if len(self._routing_keys) < 1024:
            self._routing_keys[model] = key
        return key


def _milliseconds(left_s: float) -> int:
    return min(MAX_TTL_MS, max(1, round(left_s * 1000)))


def _short(name: str, text: str) -> bytes:
    """Encode a header's value."""
    try:
        value = text.encode()
    except UnicodeEncodeError as error:
        msg = f"{name} is not valid Unicode: {error.reason}"
        raise InvalidArgument(msg, code="INVALID_ARGUMENT") from None
    if len(value) > MAX_HEADER_BYTES:
        msg = f"{name} has {len(value)} bytes; the limit is {MAX_HEADER_BYTES}"
        raise InvalidArgument(msg, code="INVALID_ARGUMENT")
    return value


def encode_input(features: BaseModel | Any) -> bytes:
    """The JSON text of an input: a pydantic model (by its field names), or anything that pydantic can write as JSON.

    Raises:
        InvalidArgument: it cannot be written as JSON, e.g. because it holds NaN or an infinite number.
        PayloadTooLarge: it is larger than any message that the broker accepts.
    """
    try:
        # First to Python values: written directly, a nested model would silently write NaN as null.
        if isinstance(features, BaseModel):
            plain = features.model_dump(mode="json", exclude_computed_fields=True)
        else:
            plain = to_jsonable_python(features, by_alias=False)
        body = to_json(plain, inf_nan_mode="constants")
        if b"NaN" in body or b"Infinity" in body:  # perhaps only inside a string
            json.dumps(json.loads(body), allow_nan=False)
    except (PydanticSerializationError, ValueError) as error:
        msg = f"the input cannot be written as JSON: {error}"
        raise InvalidArgument(msg, code="INVALID_ARGUMENT") from error
    if len(body) > MAX_BODY_BYTES:
        msg = f"the input has {len(body)} bytes; the limit is {MAX_BODY_BYTES}"
        raise PayloadTooLarge(msg, code="PAYLOAD_TOO_LARGE")
    return body
