"""The codec, against pamqp's in both directions, and on streams cut anywhere."""

import random
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, header

from amqp_lane import Properties, Template, frames, header_field
from amqp_lane.encoding import encode_content, encode_publish, encode_settlement
from amqp_lane.frames import FrameError, Splitter
from amqp_lane.properties import locate

short = st.text(min_size=1, max_size=20).map(str.encode)
properties = st.builds(
    Properties,
    content_type=st.none() | short,
    content_encoding=st.none() | short,
    correlation_id=st.none() | short,
    message_id=st.none() | short,
    reply_to=st.none() | short,
    expiration=st.none() | short,
    type=st.none() | short,
    user_id=st.none() | short,
    headers=st.dictionaries(st.text(min_size=1, max_size=8).map(str.encode), short, max_size=4),
)
_KEEP = (frames.BASIC_DELIVER, frames.BASIC_RETURN, frames.BASIC_ACK, frames.BASIC_NACK)


def written(channel: int, given: Properties, content: bytes, frame_max: int, *, persistent: bool = False) -> bytes:
    """A message with these properties, as the outbox writes it."""
    template = Template(
        content_type=given.content_type,
        content_encoding=given.content_encoding,
        reply_to=given.reply_to,
        type=given.type,
        user_id=given.user_id,
        persistent=persistent,
    )
    return encode_content(
        channel,
        template,
        content,
        frame_max,
        correlation_id=given.correlation_id,
        expiration=given.expiration,
        message_id=given.message_id,
        fields=b"".join(header_field(name, value) for name, value in given.headers.items() if value is not None),
    )


def theirs(given: Properties, *, persistent: bool = False) -> commands.Basic.Properties:
    """The same in pamqp's words."""

    def text(value: bytes | None) -> str | None:
        return None if value is None else value.decode()

    return commands.Basic.Properties(
        content_type=text(given.content_type),
        content_encoding=text(given.content_encoding),
        correlation_id=text(given.correlation_id),
        message_id=text(given.message_id),
        reply_to=text(given.reply_to),
        expiration=text(given.expiration),
        message_type=text(given.type),
        user_id=text(given.user_id),
        delivery_mode=2 if persistent else None,
        headers={name.decode(): value.decode() for name, value in given.headers.items() if value is not None} or None,
    )


@given(properties, st.binary(max_size=3000), st.integers(1024, 4096), st.booleans())
def test_pamqp_reads_what_we_write(given: Properties, content: bytes, frame_max: int, persistent: bool) -> None:  # noqa: FBT001
    """A publish, its header and its body frames, none larger than agreed."""
    stream = encode_publish(7, b"ex", b"key", mandatory=True) + written(
        7, given, content, frame_max, persistent=persistent
    )
    received = []
    while stream:
        count, channel, frame = pamqp.frame.unmarshal(stream)
        received.append((count, channel, frame))
        stream = stream[count:]
    (_, channel, method), (_, _, head), *parts = received
    assert channel == 7
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == ("ex", "key", True)
    assert isinstance(head, header.ContentHeader)
    assert head.body_size == len(content)
    assert dict(head.properties) == dict(theirs(given, persistent=persistent))
    assert b"".join(part.value for _, _, part in parts if isinstance(part, body.ContentBody)) == content
    assert all(count <= frame_max for count, _, _ in received[2:])


@given(properties)
def test_we_locate_what_pamqp_writes(given: Properties) -> None:
    """Every property that we know, and the wanted headers."""
    written = pamqp.frame.marshal(header.ContentHeader(0, 5, theirs(given)), 1)
    found = locate(written[7:-1], set(given.headers))
    assert found == given


fields = (
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.floats(width=32)
    | st.text(max_size=5)
    | st.binary(max_size=5).map(bytearray)
    | st.lists(st.integers(0, 9), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
)


@given(st.dictionaries(st.text(min_size=1, max_size=6), fields, max_size=6))
def test_a_wanted_header_is_found_among_fields_of_any_type(table: dict[str, Any]) -> None:
    """Values are stepped over by their size and never decoded."""
    table = {**table, "zz-wanted": "yes", "zz-number": 7}
    written = pamqp.frame.marshal(header.ContentHeader(0, 0, commands.Basic.Properties(headers=table)), 1)
    found = locate(written[7:-1], {b"zz-wanted", b"zz-number"})
    assert found.headers == {b"zz-wanted": b"yes", b"zz-number": None}
    assert not found.broken


@given(st.binary(max_size=200))
def test_no_bytes_make_locating_raise(noise: bytes) -> None:
    """What cannot be found is absent, and said to be broken."""
    locate(noise, {b"deadline"})
    locate(bytes(12) + b"\xff\xfe" + noise, {b"deadline"})


@pytest.mark.parametrize(
    "flags_and_fields",
    [
        b"\x00\x40" + b"\xff" * 8,  # a timestamp of 2^64 - 1
        b"\x04\x00\x02\xff\xfe",  # a correlation id that is not UTF-8
        b"\x20\x00\x00\x00\x00\x0a\x02\xff\xfeT" + b"\xff" * 6,  # a header name that is not UTF-8, cut short
    ],
)
def test_what_makes_pamqp_raise_is_a_message_like_any_other(flags_and_fields: bytes) -> None:
    """Each of these stops every aio-pika consumer for ever."""
    locate(bytes(12) + flags_and_fields, {b"deadline"})


def stream_of_everything() -> tuple[bytes, int]:
    """A conversation of deliveries, confirms, returns and other frames; and how many of them are ours."""
    out, ours = [], 0
    for number in range(1, 12):
        deliver = commands.Basic.Deliver("lane-0", number, redelivered=False, exchange="ex", routing_key="key")
        head = header.ContentHeader(0, number * 7, commands.Basic.Properties(correlation_id=str(number)))
        out.append(pamqp.frame.marshal(deliver, 1) + pamqp.frame.marshal(head, 1))
        out += [pamqp.frame.marshal(body.ContentBody(b"1234567"), 1) for _ in range(number)]
        out.append(pamqp.frame.marshal(commands.Queue.DeclareOk("q", 0, 0), 1))
        out.append(encode_settlement(frames.BASIC_ACK, 1, number, 1))
        out.append(frames.HEARTBEAT_FRAME)
        ours += 2
    returned = commands.Basic.Return(312, "NO_ROUTE", "", "gone")
    empty = header.ContentHeader(0, 0, commands.Basic.Properties(message_id="m-1"))
    out.append(pamqp.frame.marshal(returned, 1) + pamqp.frame.marshal(empty, 1))
    return b"".join(out), ours + 1


def test_a_stream_cut_at_every_point_gives_the_same_events() -> None:
    """Sockets deliver bytes, not frames."""
    stream, ours = stream_of_everything()
    events, passed = Splitter(_KEEP, (), 2**20).feed(stream)
    assert len(events) == ours
    for cut in range(len(stream) + 1):
        splitter = Splitter(_KEEP, (), 2**20)
        first, before = splitter.feed(stream[:cut])
        second, after = splitter.feed(stream[cut:])
        assert first + second == events
        assert before + after == passed


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_a_stream_in_any_pieces_gives_the_same_events(sizes: list[int]) -> None:
    """Down to one byte at a time."""
    stream, ours = stream_of_everything()
    splitter, events, passed, at = Splitter(_KEEP, (), 2**20), 0, b"", 0
    turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found, other = splitter.feed(stream[at : at + size])
        events, passed, at, turn = events + len(found), passed + other, at + size, turn + 1
    assert events == ours
    assert passed == Splitter(_KEEP, (), 2**20).feed(stream)[1]


def test_an_oversized_body_is_skipped_and_its_neighbours_are_not() -> None:
    """Its delivery comes without a body; the next one is whole."""
    stream, ours = stream_of_everything()
    events, _ = Splitter(_KEEP, (), 21).feed(stream)
    bodies = [content for method, _, _, content in events if method == frames.BASIC_DELIVER]
    assert bodies == [b"1234567" * number for number in (1, 2, 3)] + [None] * 8
    assert len(events) == ours


def test_noise_is_a_frame_error_or_nothing_and_never_another_exception() -> None:
    """A fuzz with a fixed seed; the long form is `make fuzz`."""
    source = random.Random(7)
    stream, _ = stream_of_everything()
    for _ in range(3000):
        damaged = bytearray(stream)
        for _ in range(source.randint(1, 8)):
            damaged[source.randrange(len(damaged))] = source.randrange(256)
        try:
            for _, _, head, _ in Splitter(_KEEP, (), 2**20).feed(bytes(damaged))[0]:
                locate(head, {b"deadline"})
        except FrameError:
            continue


def test_a_name_that_is_too_long_is_refused_before_it_is_written() -> None:
    """A short string has 255 octets at most."""
    with pytest.raises(ValueError, match="255"):
        encode_publish(1, b"", b"x" * 256, mandatory=False)


def test_properties_that_do_not_fit_into_a_frame_are_refused_before_they_are_written() -> None:
    """The broker would close the connection, and the retry would close the next one."""
    with pytest.raises(ValueError, match="a frame holds 120"):
        encode_content(1, Template(), b"", 128, fields=header_field(b"traceparent", b"x" * 200))
