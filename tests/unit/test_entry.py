"""A cached value that is not exactly ours is a miss, and never an answer."""

from hypothesis import given
from hypothesis import strategies as st

from prediction_responder.cache import Entry, decode_entry, encode_entry
from prediction_responder.cache.value import (
    cool_down_mark,
    cools_until_ms,
    failures_note,
    generation_of,
    is_entry,
    is_lease,
    is_unshared,
    lease_mark,
    read_failures,
    token_of,
    unshared_mark,
)
from prediction_schemas import Code

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


@given(st.integers(0, 60))
def test_a_value_cut_short_is_a_miss(length: int) -> None:
    """A head without a body is no answer either."""
    assert decode_entry(DIGEST, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)[:length]) is None


# What responders of other ages meet in a Redis that they share: frozen.
GOLDEN = {
    "answer": (
        "04"  # format
        "d07de5e9"  # crc32 of what follows
        "64646464646464646464646464646464"  # key digest
        "6767676767676767"  # generation
        "00000000000003e8"  # stored at
        "0000000000001770"  # fresh until
        "0000000000002328"  # kept until
        "0000000c"  # duration
        "7b22726573756c74223a317d"  # body
    ),
    "refusal": (
        "05"  # format
        "5ec7ebc8"  # crc32 of what follows
        "64646464646464646464646464646464"  # key digest
        "6767676767676767"  # generation
        "00000000000003e8"  # stored at
        "0000000000001770"  # fresh until
        "0000000000000000"  # kept until
        "0000000c"  # duration
        "7b226572726f72223a317d"  # body
    ),
    "lease": (
        "00"  # format
        "6767676767676767"  # generation
        "74747474747474747474747474747474"  # token
    ),
    "cool-down": (
        "06"  # format
        "6767676767676767"  # generation
        "0000018bcfe56800"  # until
    ),
    "unshared": (
        "07"  # format
        "6767676767676767"  # generation
        "74747474747474747474747474747474"  # token
    ),
}


def test_values_and_marks_are_written_as_ever() -> None:
    """A change here needs a new first byte."""
    refusal = Entry(1_000, 6_000, 12, b'{"error":1}', Code.INVALID_ARGUMENT)
    mark = lease_mark(GENERATION, b"t" * 16)
    written = {
        "answer": encode_entry(DIGEST, GENERATION, ENTRY, 9_000),
        "refusal": encode_entry(DIGEST, GENERATION, refusal),
        "lease": mark,
        "cool-down": cool_down_mark(GENERATION, 1_700_000_000_000),
        "unshared": unshared_mark(mark),
    }
    assert {kind: value.hex() for kind, value in written.items()} == GOLDEN
    assert decode_entry(DIGEST, GENERATION, written["refusal"]) == refusal
    assert [cools_until_ms(GENERATION, value) for value in written.values()] == [
        None,
        None,
        None,
        1_700_000_000_000,
        None,
    ]
    assert cools_until_ms(b"other ge", written["cool-down"]) is None
    note = failures_note(GENERATION, 1_700_000_000_000, 3)
    assert read_failures(GENERATION, note) == (3, 1_700_000_000_000)
    assert read_failures(b"other ge", note) == read_failures(GENERATION, b"") == (0, 0)
    assert [is_unshared(value) for value in written.values()] == [False] * 4 + [True]
    assert [is_entry(value) for value in written.values()] == [True, True, False, False, False]
