"""AMQP 0-9-1 frames as pure functions on bytes: cutting a stream, locating properties, encoding publishes.

Layouts are section 2.3 and 4.2 of the AMQP 0-9-1 specification, field types are RabbitMQ's (its page
"AMQP 0-9-1 errata", section 3). Nothing here decodes what it is not asked for: a property that somebody
else has written badly costs its writer nothing.
"""

import struct
from collections.abc import Collection, Mapping

from lane.port import NO_HEADERS, Properties
from lane.template import Template, short

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
OVERHEAD = 8  # type, channel and size before the payload, one octet after it

# Class and method, as the first four octets of a method frame's payload.
CONNECTION_CLOSE = b"\x00\x0a\x00\x32"
CONNECTION_BLOCKED = b"\x00\x0a\x00\x3c"
CONNECTION_UNBLOCKED = b"\x00\x0a\x00\x3d"
CHANNEL_CLOSE = b"\x00\x14\x00\x28"
BASIC_CANCEL = b"\x00\x3c\x00\x1e"
BASIC_RETURN = b"\x00\x3c\x00\x32"
BASIC_DELIVER = b"\x00\x3c\x00\x3c"
BASIC_ACK = b"\x00\x3c\x00\x50"
BASIC_NACK = b"\x00\x3c\x00\x78"
WITH_CONTENT = frozenset({BASIC_DELIVER, BASIC_RETURN})
_CONTENT_KINDS = frozenset({HEADER, BODY})

HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_FRAME_HEAD = struct.Struct(">BHI")
_SIZE_AND_FLAGS = struct.Struct(">QH")
_TAG_AND_BITS = struct.Struct(">QB")
_U16, _U32, _U64 = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_SETTLE = struct.Struct(">BHIHHQBB")
_CONTENT_HEAD_SIZE = 14
_KIND_AND_SIZE = struct.Struct(">BxxI")
_CONTENT_FRAME_HEAD = struct.Struct(">BHIHHQH")


class FrameError(Exception):
    """The stream is not AMQP; nothing after this point can be trusted."""


# A method that was asked for: its name, its arguments, and the header and body of its content. The header is empty
# where there is no content; the body is None when it was over the limit. A tuple, because one is made per message.
Event = tuple[bytes, bytes, bytes, bytes | None]


class Splitter:
    """Cuts a stream into the events that were asked for and the bytes of all other frames.

    Args:
        keep: methods that are ours alone.
        watch: methods that are reported and passed on as well.
        max_body_bytes: a larger body is skipped as it arrives, never held.
    """

    def __init__(self, keep: Collection[bytes], watch: Collection[bytes], max_body_bytes: int) -> None:
        self._keep = frozenset(keep)
        self._watch = frozenset(watch)
        self._max_body_bytes = max_body_bytes
        self._rest = b""
        self._method = b""  # whose content is on its way
        self._arguments = b""
        self._header = b""
        self._left = 0
        self._is_skipped = False
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> tuple[list[Event], bytes]:  # noqa: C901 - every frame walks through here
        """Events, and the whole frames that are somebody else's, in their order.

        Content follows its method at once on a channel, and we have one channel.

        Raises:
            FrameError: a frame does not end where its head says, or is shorter than its kind must be.
        """
        if self._rest:
            data = self._rest + data
        events: list[Event] = []
        passed: list[bytes] = []
        keep, method, left = self._keep, self._method, self._left
        position, size = 0, len(data)
        if data.startswith(b"AMQP"):  # a server of another version says so, without a frame
            return events, data
        while size - position >= OVERHEAD:
            kind, _, length = _FRAME_HEAD.unpack_from(data, position)
            begin = position + 7
            end = begin + length
            if end >= size:
                break
            if data[end] != FRAME_END:
                msg = "a frame does not end with its end octet"
                raise FrameError(msg)
            if kind == METHOD:
                name = data[begin : begin + 4]
                if name not in keep:
                    passed.append(data[position : end + 1])
                    if name in self._watch:
                        events.append((name, data[begin + 4 : end], b"", b""))
                elif name in WITH_CONTENT:
                    method, self._arguments = name, data[begin + 4 : end]
                    # Nearly always the content is here already, in one body frame: then all of it is taken in one step.
                    if size - end > _CONTENT_FRAME_HEAD.size:
                        kind, _, length, _, _, content, _ = _CONTENT_FRAME_HEAD.unpack_from(data, end + 1)
                        head, middle = end + 8, end + 8 + length
                        stop = middle + 8 + content
                        if (
                            kind == HEADER
                            and length > 13
                            and 0 < content <= self._max_body_bytes
                            and stop < size
                            and data[middle] == data[stop] == FRAME_END
                            and _KIND_AND_SIZE.unpack_from(data, middle + 1) == (BODY, content)
                        ):
                            events.append((name, self._arguments, data[head:middle], data[middle + 8 : stop]))
                            method, position = b"", stop + 1
                            continue
                else:
                    events.append((name, data[begin + 4 : end], b"", b""))
            elif not method or kind not in _CONTENT_KINDS:
                passed.append(data[position : end + 1])
            else:
                if kind == BODY:
                    left -= length
                    if not self._is_skipped:
                        self._parts.append(data[begin:end])
                elif length < _SIZE_AND_FLAGS.size + 4:
                    msg = "a content header is too short"
                    raise FrameError(msg)
                else:
                    self._header, self._parts = data[begin:end], []
                    (left,) = _U64.unpack_from(data, begin + 4)
                    self._is_skipped = left > self._max_body_bytes
                if left <= 0:
                    events.append((method, self._arguments, self._header, self._take_body()))
                    method = b""
            position = end + 1
        self._method, self._left = method, left
        self._rest = data[position:] if position else data
        return events, b"".join(passed)

    def _take_body(self) -> bytes | None:
        if self._is_skipped:
            return None
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)


def consumer_and_tag(arguments: bytes) -> tuple[bytes, int, bool]:
    """Of `basic.deliver`: consumer tag, delivery tag, redelivered (class 60, method 60).

    Raises:
        FrameError: it is cut short.
    """
    try:
        end = 1 + arguments[0]
        tag, redelivered = _TAG_AND_BITS.unpack_from(arguments, end)
    except (IndexError, struct.error) as error:
        msg = "a delivery is cut short"
        raise FrameError(msg) from error
    return arguments[1:end], tag, redelivered & 1 == 1


def tag_and_multiple(arguments: bytes) -> tuple[int, bool]:
    """Of `basic.ack` and `basic.nack`: delivery tag, multiple.

    Raises:
        FrameError: it is cut short.
    """
    try:
        tag, multiple = _TAG_AND_BITS.unpack_from(arguments)
    except struct.error as error:
        msg = "a confirm is cut short"
        raise FrameError(msg) from error
    return tag, multiple & 1 == 1


def locate(header: bytes, wanted: Collection[bytes]) -> Properties:  # noqa: C901 - one property a line
    """Find the properties of a content header (section 4.2.6.1), and the headers with the wanted names.

    Nothing is decoded and nothing can fail to decode. What cannot be found because the header is cut short or holds
    a field type that nobody has defined is absent, and `broken` is set.
    """
    content_type = content_encoding = correlation_id = reply_to = expiration = None
    message_id = type_ = user_id = None
    headers: Mapping[bytes, bytes | None] = NO_HEADERS
    try:
        _, flags = _SIZE_AND_FLAGS.unpack_from(header, 4)
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
        if flags & 0x01F0:  # seldom, all of them
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
        broken = end > len(header)  # a slice is cut short without an error
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
    """Find wanted names in a field table without looking into values: every value's size is known from its type."""
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


def encode_settlement(method: bytes, channel: int, tag: int, bits: int) -> bytes:
    """`basic.ack` (bit 1: multiple), `basic.nack` (the same, and bit 2: requeue), `basic.reject` (bit 1: requeue)."""
    class_id, method_id = _U16.unpack_from(method)[0], _U16.unpack_from(method, 2)[0]
    return _SETTLE.pack(METHOD, channel, 13, class_id, method_id, tag, bits, FRAME_END)


def encode_publish(channel: int, exchange: bytes, routing_key: bytes, *, mandatory: bool) -> bytes:
    """`basic.publish` (class 60, method 40), a whole frame.

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
    """The header frame of a message and as many body frames as `frame_max` asks for.

    Args:
        template: the properties that it shares with others.
        correlation_id, expiration, message_id: its own.
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
        msg = f"the properties take {head_size} octets, a frame {most}"
        raise ValueError(msg)
    head = _CONTENT_FRAME_HEAD.pack(HEADER, channel, head_size, 60, 0, size, flags)
    if 0 < size <= most:
        return b"%b%b\xce%b%b\xce" % (head, values, _FRAME_HEAD.pack(BODY, channel, size), body)
    chunks = [_frame(BODY, channel, body[at : at + most]) for at in range(0, size, most)]
    return b"".join([head, values, b"\xce", *chunks])


def header_field(name: bytes, value: bytes) -> bytes:
    """One field of a table: a name, and a value written as a long string."""
    return b"%c%sS%s%s" % (len(name), name, _U32.pack(len(value)), value)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return b"%s%s\xce" % (_FRAME_HEAD.pack(kind, channel, len(payload)), payload)
