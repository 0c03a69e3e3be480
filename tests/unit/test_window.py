"""The acknowledgement window, against a broker that closes the channel on any mistake."""

from hypothesis import given
from hypothesis import strategies as st

from amqp_lane.window import AckWindow


class StrictBroker:
    """Knows which tags are open; a settled or unknown one is a channel error (RabbitMQ: 406, unknown delivery tag)."""

    def __init__(self, delivered: int) -> None:
        self.open = set(range(1, delivered + 1))

    def ack(self, tag: int, *, multiple: bool) -> None:
        """As `basic.ack`."""
        assert tag in self.open
        self.open = {one for one in self.open if one > tag} if multiple else self.open - {tag}


@given(st.data(), st.integers(1, 30))
def test_any_order_of_settlements_is_written_correctly(data: st.DataObject, count: int) -> None:
    """Every tag is settled exactly once, no tag that was not settled is acknowledged, and nothing stays behind."""
    window, broker = AckWindow(), StrictBroker(count)
    window.delivered = count
    settled: set[int] = set()
    for tag in data.draw(st.permutations(range(1, count + 1))):
        if data.draw(st.booleans()):
            window.ack([tag])
            window.ack([tag])
        else:
            assert window.settle(tag)
            assert not window.settle(tag)
            broker.open.discard(tag)
        settled.add(tag)
        if data.draw(st.booleans()):
            for number, multiple in window.take():
                broker.ack(number, multiple=multiple)
            assert broker.open == set(range(1, count + 1)) - settled
            assert window.unsettled == len(broker.open)
    for number, multiple in window.take():
        broker.ack(number, multiple=multiple)
    assert broker.open == set()
    assert window.unsettled == 0
    assert window.take() == []


def test_a_run_is_one_frame_and_a_slow_request_holds_nobody_back() -> None:
    """Contiguous tags in one `multiple`; beyond a gap each at once."""
    window = AckWindow()
    window.delivered = 10
    for tag in range(1, 5):
        window.ack([tag])
    assert window.take() == [(4, True)]
    for tag in (6, 7, 8):
        window.ack([tag])
    assert window.take() == [(6, False), (7, False), (8, False)]
    window.ack([5])
    assert window.take() == [(5, False)]
    window.ack([9])
    window.ack([10])
    assert window.take() == [(10, True)]


def test_one_slow_request_costs_no_room_however_much_is_answered_meanwhile() -> None:
    """What is settled beyond a gap is a run with two ends, and closing the gap jumps over it."""
    window, count = AckWindow(), 100_000
    window.delivered = count
    for first in range(2, count, 1000):
        window.ack(range(first, min(first + 1000, count + 1)))
        window.take()
    assert repr(window) == "<AckWindow low=0 runs=1 unsettled=1>"
    window.ack([1])
    assert window.take() == [(1, False)]
    assert repr(window) == f"<AckWindow low={count} runs=0 unsettled=0>"


def test_neighbours_beyond_a_gap_become_one_run_in_whatever_order_they_come() -> None:
    """Before it, after it, and between two."""
    window = AckWindow()
    window.delivered = 10
    for tag, runs in ((5, 1), (4, 1), (8, 2), (7, 2), (6, 1), (10, 2), (9, 1), (3, 1)):
        window.ack([tag])
        assert window.take() == [(tag, False)]
        assert f" runs={runs} " in repr(window)
