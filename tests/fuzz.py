"""Fuzz the frame cutter: damaged and cut streams give events or a FrameError, and never anything else.

    python -m tests.fuzz [--minutes 10] [--seed N]

Each round damages a real conversation, cuts it at every point or into random pieces, and compares what comes out with
the uncut stream. It prints its seed, so that a failure can be had again.
"""

import argparse
import random
import sys
import time

from amqp_lane import frames
from amqp_lane.frames import Event, FrameError, Splitter, consumer_and_tag, tag_and_multiple
from amqp_lane.properties import locate
from tests.unit.test_frames import stream_of_everything

KEEP = (frames.BASIC_DELIVER, frames.BASIC_RETURN, frames.BASIC_ACK, frames.BASIC_NACK)
WATCH = (frames.CHANNEL_CLOSE, frames.BASIC_CANCEL)
MAX_BODY_BYTES = 64
Outcome = tuple[list[Event], bytes, bool]


def cut(pieces: list[bytes]) -> Outcome:
    """The events and the passed bytes of a stream in pieces, and whether it ended in a FrameError."""
    splitter, events, passed = Splitter(KEEP, WATCH, MAX_BODY_BYTES), [], b""
    try:
        for piece in pieces:
            found, other = splitter.feed(piece)
            events += found
            passed += other
            read(found)
    except FrameError:
        return events, passed, True
    return events, passed, False


def read(events: list[Event]) -> None:
    """What the inbox and the outbox do with events."""
    for method, arguments, header, _ in events:
        if method == frames.BASIC_DELIVER:
            consumer_and_tag(arguments)
            locate(header, {b"deadline", b"k"})
        elif method != frames.BASIC_RETURN and method in KEEP:
            tag_and_multiple(arguments)


def damaged(stream: bytes, source: random.Random) -> bytes:
    """A stream with some octets changed, lost, doubled or moved."""
    data = bytearray(stream)
    for _ in range(source.randint(0, 6)):
        at = source.randrange(len(data))
        match source.randrange(4):
            case 0:
                data[at] = source.randrange(256)
            case 1:
                del data[at : at + source.randint(1, 20)]
            case 2:
                data[at:at] = data[at : at + source.randint(1, 40)]
            case _:
                data[at:at] = source.randbytes(source.randint(1, 12))
        if not data:
            break
    return bytes(data)


def round_of(stream: bytes, source: random.Random) -> int:
    """One damaged stream, cut in many ways; how many ways."""
    data = damaged(stream, source)
    events, passed, failed = cut([data])
    ways = 0
    points = range(1, len(data)) if source.random() < 0.05 else [source.randrange(len(data) + 1) for _ in range(8)]
    for point in points:
        ways += 1
        other, other_passed, other_failed = cut([data[:point], data[point:]])
        # Up to the damage everything is the same; how much is seen of a stream that fails depends on the cut.
        assert other_failed == failed, "a cut decides whether the stream is damaged"
        if not failed:
            assert (other, other_passed) == (events, passed), "a cut changes what comes out"
    return ways


def main() -> None:
    """Run until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    given = parser.parse_args()
    source = random.Random(given.seed)
    stream, _ = stream_of_everything()
    ends_at = time.monotonic() + given.minutes * 60
    rounds = ways = 0
    said_at = time.monotonic()
    try:
        while time.monotonic() < ends_at:
            rounds += 1
            ways += round_of(stream, source)
            if time.monotonic() - said_at > 30:
                said_at = time.monotonic()
                print(f"{rounds} damaged streams, {ways} cuts", file=sys.stderr)
    except BaseException:
        print(f"seed {given.seed}, round {rounds}", file=sys.stderr)
        raise
    print(f"{rounds} damaged streams, {ways} cuts, no crash (seed {given.seed})")


if __name__ == "__main__":
    main()
