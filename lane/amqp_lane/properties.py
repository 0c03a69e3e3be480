"""Locates the properties of a message without decoding them (AMQP 0-9-1 section 4.2.6.1).

Field types are RabbitMQ's (its page "AMQP 0-9-1 errata", section 3). The values of unwanted headers are never read, so
a badly encoded one does not fail the request.
"""

import struct
from collections.abc import Collection, Mapping

from amqp_lane.frames import SIZE_AND_FLAGS
from amqp_lane.port import NO_HEADERS, Properties

_U32 = struct.Struct(">I")


def locate(header: bytes, wanted: Collection[bytes]) -> Properties:  # noqa: C901 - one property a line
    """Find the properties of a content header (section 4.2.6.1), and the headers with the wanted names.

    Nothing is decoded, so nothing can fail to decode. When the header is truncated or has an unknown field type, the
    properties that cannot be found are absent and `broken` is set.
    """
    content_type = content_encoding = correlation_id = reply_to = expiration = None
    message_id = type_ = user_id = None
    headers: Mapping[bytes, bytes | None] = NO_HEADERS
    try:
        _, flags = SIZE_AND_FLAGS.unpack_from(header, 4)
        end = 14
        if flags & 0x8000:
            content_type = header[end + 1 : (end := end + 1 + header[end])]
        if flags & 0x4000:
            content_encoding = header[end + 1 : (end := end + 1 + header[end])]
        if flags & 0x2000:
            begin = end + 4
            end = begin + _U32.unpack_from(header, end)[0]
            headers = _walk(header, begin, end, wanted)
        if flags & 0x1800:  # delivery mode and priority have one octet each
            end += (flags & 0x1000 > 0) + (flags & 0x0800 > 0)
        if flags & 0x0400:
            correlation_id = header[end + 1 : (end := end + 1 + header[end])]
        if flags & 0x0200:
            reply_to = header[end + 1 : (end := end + 1 + header[end])]
        if flags & 0x01F0:  # these are rare
            if flags & 0x0100:
                expiration = header[end + 1 : (end := end + 1 + header[end])]
            if flags & 0x0080:
                message_id = header[end + 1 : (end := end + 1 + header[end])]
            if flags & 0x0040:  # the timestamp
                end += 8
            if flags & 0x0020:
                type_ = header[end + 1 : (end := end + 1 + header[end])]
            if flags & 0x0010:
                user_id = header[end + 1 : (end := end + 1 + header[end])]
        broken = end > len(header)  # slicing past the end raises no error
    except (IndexError, struct.error):
        broken = True
    return Properties(
        content_type,
        content_encoding,
        correlation_id,
        message_id,
        reply_to,
        expiration,
        type_,
        user_id,
        headers,
        broken,
    )


_FIELD_SIZES = dict(zip(b"tbBsuIilLfdDTV", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))
_LONG_FIELDS = frozenset(b"SxAF")  # a 32-bit length, then that many octets


def _walk(data: bytes, position: int, end: int, wanted: Collection[bytes]) -> dict[bytes, bytes | None]:
    """Find wanted names in a field table without reading values: the type of a value tells its size."""
    headers: dict[bytes, bytes | None] = {}
    while position < end:
        name_end = position + 1 + data[position]
        name = data[position + 1 : name_end]
        kind = data[name_end]
        begin = name_end + 1
        if kind in _LONG_FIELDS:
            length = _U32.unpack_from(data, begin)[0]
            begin += 4
        else:
            length = _FIELD_SIZES.get(kind, -1)
        position = begin + length
        if length < 0 or position > end:
            raise IndexError
        if name in wanted:
            headers[name] = data[begin:position] if kind in b"Sx" else None
    return headers
