"""Who is guilty of a closed channel: whoever fails alone while others can be sent, and nobody where nobody can."""

from hypothesis import given
from hypothesis import strategies as st

from amqp_lane import Message
from amqp_lane.quarantine import LONE_FAILURES, Quarantine


def message(name: bytes, give_up_at: float = 1e9) -> Message:
    """One."""
    return Message(name, b"", give_up_at=give_up_at)


def tried(quarantine: Quarantine, culprits: set[bytes], *, by_the_broker: bool = True) -> str:
    """Send the next one alone; how that ended."""
    one = quarantine.next()
    if one.routing_key in culprits:
        return "guilty" if quarantine.is_at_fault(by_the_broker=by_the_broker) else "failed"
    quarantine.note_confirms(1)
    quarantine.release()
    return "sent"


@given(st.sets(st.integers(0, 9), max_size=9))
def test_culprits_are_found_and_innocents_sent(numbers: set[int]) -> None:
    """However many of each: every innocent is sent once, every culprit is given up after its second lone failure."""
    culprits = {b"%d" % number for number in numbers}
    quarantine = Quarantine()
    quarantine.hold(message(b"%d" % number) for number in range(10))
    endings: list[str] = []
    while quarantine.waiting and len(endings) < 100:
        endings.append(tried(quarantine, culprits))
        quarantine.note_confirms(1)  # others have their turn
    assert endings.count("sent") == 10 - len(culprits)
    assert endings.count("guilty") == len(culprits)
    assert endings.count("failed") == len(culprits)


def test_where_nobody_can_be_sent_nobody_is_at_fault() -> None:
    """A right was lost, say; and when it is back, all are sent."""
    quarantine = Quarantine()
    quarantine.hold(message(name) for name in (b"a", b"b", b"c"))
    assert {tried(quarantine, {b"a", b"b", b"c"}) for _ in range(300)} == {"failed"}
    assert [tried(quarantine, set()) for _ in range(3)] == ["sent"] * 3
    assert quarantine.waiting == 0


def test_a_single_culprit_waits_for_a_witness() -> None:
    """Alone in the world, it may be innocent; the first message that can be sent convicts it."""
    quarantine = Quarantine()
    quarantine.hold([message(b"a")])
    assert [tried(quarantine, {b"a"}) for _ in range(3)] == ["failed"] * 3
    quarantine.note_confirms(1)
    assert tried(quarantine, {b"a"}) == "guilty"


def test_a_lost_socket_proves_less_than_a_closed_channel() -> None:
    """Sockets are lost for many reasons."""
    quarantine = Quarantine()
    quarantine.hold([message(b"a")])
    endings: list[str] = []
    while quarantine.waiting and len(endings) < 100:
        endings.append(tried(quarantine, {b"a"}, by_the_broker=False))
        quarantine.note_confirms(1)
    assert endings == ["failed"] * (LONE_FAILURES - 1) + ["guilty"]


def test_what_is_late_leaves() -> None:
    """Nobody waits for it."""
    quarantine = Quarantine()
    late, later = message(b"a", give_up_at=1.0), message(b"b", give_up_at=3.0)
    quarantine.hold([late, later])
    assert quarantine.give_up(2.0) == [late]
    assert quarantine.next() is later
