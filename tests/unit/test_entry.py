"""A cached value that is not exactly ours is a miss, and never an answer."""

from hypothesis import given
from hypothesis import strategies as st

from responder.cache import Entry, decode_entry, encode_entry
from responder.cache.entry import generation_of, is_lease, lease_mark, token_of

ENTRY = Entry(1_000, 6_000, 12, b'{"result":1}')
DIGEST, OTHER = b"d" * 16, b"e" * 16
GENERATION = b"g" * 8


def test_an_entry_survives_the_cache() -> None:
    """Times, duration and body, byte for byte."""
    assert decode_entry(DIGEST, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)) == ENTRY


def test_a_value_under_a_wrong_name_is_a_miss() -> None:
    """Two values swapped in Redis: neither is served."""
    assert decode_entry(OTHER, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)) is None


def test_a_value_of_another_generation_is_a_miss() -> None:
    """Its model was invalidated."""
    assert decode_entry(DIGEST, b"h" * 8, encode_entry(DIGEST, GENERATION, ENTRY)) is None


def test_a_lease_is_no_value() -> None:
    """Nor is a value one."""
    mark = lease_mark(GENERATION, b"t" * 16)
    assert is_lease(mark)
    assert (token_of(mark), generation_of(mark)) == (b"t" * 16, GENERATION)
    assert decode_entry(DIGEST, GENERATION, mark) is None
    value = encode_entry(DIGEST, GENERATION, ENTRY)
    assert not is_lease(value)
    assert generation_of(value) == GENERATION


def test_a_value_of_another_format_is_a_miss() -> None:
    """An older or a newer one, after a roll-back or a roll-out."""
    assert decode_entry(DIGEST, GENERATION, b"\x02" + encode_entry(DIGEST, GENERATION, ENTRY)[1:]) is None


@given(st.binary(max_size=80))
def test_garbage_is_a_miss_and_never_an_exception(value: bytes) -> None:
    """Whatever somebody else wrote under our name."""
    assert decode_entry(DIGEST, GENERATION, value) is None


@given(st.integers(0, 45))
def test_a_value_cut_short_in_its_head_is_a_miss(length: int) -> None:
    """A head without a body is no answer either."""
    assert decode_entry(DIGEST, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)[: min(length, 45)]) is None
