"""Encodes settlements and publishes as AMQP 0-9-1 frames. No I/O."""

import struct

from amqp_lane.frames import BODY, CONTENT_FRAME_HEAD, FRAME_END, FRAME_HEAD, HEADER, METHOD, OVERHEAD
from amqp_lane.template import Template, short

_U16, _U32 = struct.Struct(">H"), struct.Struct(">I")
_SETTLE = struct.Struct(">BHIHHQBB")
_CONTENT_HEAD_SIZE = 14


def encode_settlement(method: bytes, channel: int, tag: int, bits: int) -> bytes:
    """Encode `basic.ack` (bits: 1 multiple), `basic.nack` (1 multiple, 2 requeue) or `basic.reject` (1 requeue)."""
    class_id, method_id = _U16.unpack_from(method)[0], _U16.unpack_from(method, 2)[0]
    return _SETTLE.pack(METHOD, channel, 13, class_id, method_id, tag, bits, FRAME_END)


def encode_publish(channel: int, exchange: bytes, routing_key: bytes, *, mandatory: bool) -> bytes:
    """Encode `basic.publish` (class 60, method 40) as a whole frame.

    Raises:
        ValueError: a name has more than 255 octets.
    """
    payload = b"\x00\x3c\x00\x28\x00\x00%s%s%c" % (short(exchange), short(routing_key), mandatory)
    return _frame(METHOD, channel, payload)


def encode_content(
    channel: int,
    template: Template,
    body: bytes,
    frame_max: int,
    *,
    correlation_id: bytes | None = None,
    expiration: bytes | None = None,
    message_id: bytes | None = None,
    fields: bytes = b"",
) -> bytes:
    """Encode the header frame of a message and as many body frames as `frame_max` requires.

    Args:
        template: the properties that it shares with other messages.
        correlation_id, expiration, message_id: its own properties.
        fields: its headers, each encoded by `header_field`.

    Raises:
        ValueError: a short string has more than 255 octets, or the properties do not fit into one frame.
    """
    flags = template.flags
    parts = [template.head]
    if fields:
        flags |= 0x2000
        parts += (_U32.pack(len(fields)), fields)
    parts.append(template.mode)
    if correlation_id is not None:
        flags |= 0x0400
        parts.append(short(correlation_id))
    parts.append(template.reply_to)
    if expiration is not None:
        flags |= 0x0100
        parts.append(short(expiration))
    if message_id is not None:
        flags |= 0x0080
        parts.append(short(message_id))
    parts.append(template.tail)
    values, size, most = b"".join(parts), len(body), frame_max - OVERHEAD
    head_size = _CONTENT_HEAD_SIZE + len(values)
    if head_size > most:
        msg = f"the properties take {head_size} octets, a frame holds {most}"
        raise ValueError(msg)
    head = CONTENT_FRAME_HEAD.pack(HEADER, channel, head_size, 60, 0, size, flags)
    if 0 < size <= most:
        return b"%b%b\xce%b%b\xce" % (head, values, FRAME_HEAD.pack(BODY, channel, size), body)
    chunks = [_frame(BODY, channel, body[at : at + most]) for at in range(0, size, most)]
    return b"".join([head, values, b"\xce", *chunks])


def header_field(name: bytes, value: bytes) -> bytes:
    """Encode one field of a header table: a name, and a value as a long string."""
    return b"%c%sS%s%s" % (len(name), name, _U32.pack(len(value)), value)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%s%s\xce" % (FRAME_HEAD.pack(kind, channel, len(payload)), payload)
