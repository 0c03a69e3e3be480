"""Splits a stream of AMQP 0-9-1 frames into events (sections 2.3 and 4.2 of the specification). No I/O."""

import struct
from collections.abc import Collection

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

FRAME_HEAD = struct.Struct(">BHI")
SIZE_AND_FLAGS = struct.Struct(">QH")
_TAG_AND_BITS = struct.Struct(">QB")
_U64 = struct.Struct(">Q")
_KIND_AND_SIZE = struct.Struct(">BxxI")
CONTENT_FRAME_HEAD = struct.Struct(">BHIHHQH")


class FrameError(Exception):
    """The stream is not AMQP; nothing after this point can be trusted."""


# A kept or watched method: its name, its arguments, and the header and body of its content. The header is empty
# if there is no content; the body is None if it was over the limit. A tuple is cheap, and one is made per message.
Event = tuple[bytes, bytes, bytes, bytes | None]


class Splitter:
    """Splits a stream into the events that were asked for and the bytes of all other frames.

    Args:
        keep: methods that become events and are not passed on.
        watch: methods that become events and are passed on as well.
        max_body_bytes: a larger body is skipped as it arrives, and never held in memory.
    """

    def __init__(self, keep: Collection[bytes], watch: Collection[bytes], max_body_bytes: int) -> None:
        self._keep = frozenset(keep)
        self._watch = frozenset(watch)
        self._max_body_bytes = max_body_bytes
        self._rest = b""
        self._method = b""  # the method whose content has not arrived completely
        self._arguments = b""
        self._header = b""
        self._left = 0
        self._is_skipped = False
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> tuple[list[Event], bytes]:  # noqa: C901 - a call per frame would be too slow
        """Return the events, and all frames to pass on, whole and in order.

        Content directly follows its method on a channel, and there is only one channel.

        Raises:
            FrameError: a frame does not end where its head says, or is too short for its type.
        """
        if self._rest:
            data = self._rest + data
        events: list[Event] = []
        passed: list[bytes] = []
        keep, method, left = self._keep, self._method, self._left
        position, size = 0, len(data)
        if data.startswith(b"AMQP"):  # a server of another protocol version answers with this header, not a frame
            return events, data
        while size - position >= OVERHEAD:
            kind, _, length = FRAME_HEAD.unpack_from(data, position)
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
                    # The common case: all of the content is here, in one body frame. Take it in one step.
                    if size - end > CONTENT_FRAME_HEAD.size:
                        kind, _, length, _, _, content, _ = CONTENT_FRAME_HEAD.unpack_from(data, end + 1)
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
                left = self._content(kind, data[begin:end], left)
                if left <= 0:
                    events.append((method, self._arguments, self._header, self._take_body()))
                    method = b""
            position = end + 1
        self._method, self._left = method, left
        self._rest = data[position:] if position else data
        return events, b"".join(passed)

    def _content(self, kind: int, payload: bytes, left: int) -> int:
        """Add a header or body frame of content that came in pieces; return the octets of the body still to come."""
        if kind == BODY:
            if not self._is_skipped:
                self._parts.append(payload)
            return left - len(payload)
        if len(payload) < SIZE_AND_FLAGS.size + 4:
            msg = "a content header is too short"
            raise FrameError(msg)
        self._header, self._parts = payload, []
        (left,) = _U64.unpack_from(payload, 4)
        self._is_skipped = left > self._max_body_bytes
        return left

    def _take_body(self) -> bytes | None:
        if self._is_skipped:
            return None
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)


def consumer_and_tag(arguments: bytes) -> tuple[bytes, int, bool]:
    """Read the consumer tag, delivery tag and redelivered bit of `basic.deliver` (class 60, method 60).

    Raises:
        FrameError: the arguments are truncated.
    """
    try:
        end = 1 + arguments[0]
        tag, redelivered = _TAG_AND_BITS.unpack_from(arguments, end)
    except (IndexError, struct.error) as error:
        msg = "a delivery is truncated"
        raise FrameError(msg) from error
    return arguments[1:end], tag, redelivered & 1 == 1


def tag_and_multiple(arguments: bytes) -> tuple[int, bool]:
    """Read the delivery tag and multiple bit of `basic.ack` or `basic.nack`.

    Raises:
        FrameError: the arguments are truncated.
    """
    try:
        tag, multiple = _TAG_AND_BITS.unpack_from(arguments)
    except struct.error as error:
        msg = "a confirm is truncated"
        raise FrameError(msg) from error
    return tag, multiple & 1 == 1
