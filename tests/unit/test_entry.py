"""A cached value that is not exactly ours is a miss, and never an answer."""

from hypothesis import given
from hypothesis import strategies as st

from responder.cache import Entry, decode_entry, encode_entry

ENTRY = Entry(1_000, 6_000, 12, b'{"result":1}')
DIGEST, OTHER = b"d" * 16, b"e" * 16


def test_an_entry_survives_the_cache() -> None:
    """Times, duration and body, byte for byte."""
    assert decode_entry(DIGEST, encode_entry(DIGEST, ENTRY)) == ENTRY


def test_a_value_under_a_wrong_name_is_a_miss() -> None:
    """Two values swapped in Redis: neither is served."""
    assert decode_entry(OTHER, encode_entry(DIGEST, ENTRY)) is None


def test_a_value_of_another_format_is_a_miss() -> None:
    """An older or a newer one, after a roll-back or a roll-out."""
    assert decode_entry(DIGEST, b"\x02" + encode_entry(DIGEST, ENTRY)[1:]) is None


@given(st.binary(max_size=80))
def test_garbage_is_a_miss_and_never_an_exception(value: bytes) -> None:
    """Whatever somebody else wrote under our name."""
    assert decode_entry(DIGEST, value) is None


@given(st.integers(0, 37))
def test_a_value_cut_short_in_its_head_is_a_miss(length: int) -> None:
    """A head without a body is no answer either."""
    assert decode_entry(DIGEST, encode_entry(DIGEST, ENTRY)[: min(length, 37)]) is None
