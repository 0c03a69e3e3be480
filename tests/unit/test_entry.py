"""A cached value that is not exactly ours is a miss, and never an answer."""

from hypothesis import given
from hypothesis import strategies as st

from prediction_responder.cache import Entry, encode_entry
from prediction_responder.cache.generation import Generation, current_of, read_generation
from prediction_responder.cache.push import ERROR, VALUE, Push, read_push
from prediction_responder.cache.value import (
    UNREADABLE,
    CoolDown,
    LeaseMark,
    Outdated,
    Standing,
    Unshared,
    failures_note,
    generation_of,
    is_entry,
    read,
    read_failures,
    start_id,
    start_ids,
    token_of,
)
from prediction_schemas import Code

ENTRY = Entry(1_000, 6_000, 12, b'{"result":1}')
DIGEST, OTHER = b"d" * 16, b"e" * 16
GENERATION = b"g" * 8
MARKS = (
    LeaseMark(GENERATION, b"t" * 16),
    Unshared(GENERATION, b"t" * 16),
    CoolDown(GENERATION, 1_700_000_000_000),
)


def test_an_entry_survives_the_cache() -> None:
    """Times, duration and body, byte for byte; and it knows its generation."""
    entry = read(DIGEST, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY))
    assert entry == ENTRY
    assert isinstance(entry, Entry)
    assert entry.generation == GENERATION


def test_a_value_under_a_wrong_name_is_unreadable() -> None:
    """Two values swapped in Redis: neither is served."""
    assert read(OTHER, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)) is UNREADABLE


def test_whatever_is_of_another_generation_is_outdated() -> None:
    """Its model was invalidated: answers and marks alike."""
    assert read(DIGEST, b"h" * 8, encode_entry(DIGEST, GENERATION, ENTRY)) == Outdated(ENTRY)
    for mark in MARKS:
        assert read(DIGEST, b"h" * 8, mark.encoded) == Outdated(mark)


def test_every_mark_is_read_as_it_was_written() -> None:
    """And a lease names its replica."""
    assert [read(DIGEST, GENERATION, mark.encoded) for mark in MARKS] == list(MARKS)
    assert LeaseMark(GENERATION, b"replica1" + b"t" * 8).replica == b"replica1"


def test_a_value_of_another_format_is_unreadable() -> None:
    """An older or a newer one, after a roll-back or a roll-out."""
    for kind in (b"\x01", b"\x02", b"\x03", b"\x08", b"\xff"):
        assert read(DIGEST, GENERATION, kind + encode_entry(DIGEST, GENERATION, ENTRY)[1:]) is UNREADABLE


@given(st.binary(max_size=80))
def test_garbage_is_no_answer_and_never_an_exception(value: bytes) -> None:
    """Whatever somebody else wrote under our name."""
    standing: Standing = read(DIGEST, GENERATION, value)
    assert not isinstance(standing, Entry)
    assert (standing is None) == (value == b"")


@given(st.integers(1, 60))
def test_a_value_cut_short_is_unreadable(length: int) -> None:
    """A head without a body is no answer either."""
    assert read(DIGEST, GENERATION, encode_entry(DIGEST, GENERATION, ENTRY)[:length]) is UNREADABLE


@given(st.integers(0, 68), st.integers(1, 255))
def test_a_damaged_value_is_no_answer(at: int, flip: int) -> None:
    """Wherever the damage is."""
    value = bytearray(encode_entry(DIGEST, GENERATION, ENTRY))
    value[at] ^= flip
    assert not isinstance(read(DIGEST, GENERATION, bytes(value)), Entry)


@given(st.binary(min_size=1, max_size=1), st.binary(max_size=70))
def test_a_push_is_taken_apart_as_it_was_put_together(kind: bytes, content: bytes) -> None:
    """And what is too short for one is found by nobody."""
    push = Push(kind, DIGEST, b"t" * 16, content)
    assert read_push(push.encoded) == push
    assert read_push(content).digest == content[1:17]
    assert Push(VALUE, DIGEST, b"t" * 16).encoded.hex() == "56" + "64" * 16 + "74" * 16
    assert ERROR == b"E"


@given(st.binary(max_size=40))
def test_a_generation_is_read_as_it_was_written_and_nothing_else_is_one(garbage: bytes) -> None:
    """Frozen, as replicas of other versions read it; an older record counts as none."""
    first = Generation(b"1" * 8, at_ms=1_000)
    second = first.followed_by(b"2" * 8, 500)
    assert second.encoded.hex() == "01" + "32" * 8 + "31" * 8 + "00" * 8 + "00000000000003e9"
    assert read_generation(second.encoded) == second
    assert current_of(second.encoded) == b"2" * 8
    if len(garbage) != 33 or garbage[0] != 1:
        assert read_generation(garbage) is None
        assert current_of(garbage) is None
    assert read_generation(None) is None
    assert current_of(None) is None


def test_a_record_of_starts_names_replicas_and_their_workers() -> None:
    """Twelve bytes each."""
    ids = (start_id(b"replica1"), start_id(b"replica1", 7), start_id(b"replica2"))
    assert start_ids(b"".join(ids)) == ids
    assert len(set(ids)) == 3
    assert start_ids(None) == ()


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
    lease, unshared, cool_down = MARKS
    written = {
        "answer": encode_entry(DIGEST, GENERATION, ENTRY, 9_000),
        "refusal": encode_entry(DIGEST, GENERATION, refusal),
        "lease": lease.encoded,
        "cool-down": cool_down.encoded,
        "unshared": unshared.encoded,
    }
    assert {kind: value.hex() for kind, value in written.items()} == GOLDEN
    assert read(DIGEST, GENERATION, written["refusal"]) == refusal
    note = failures_note(GENERATION, 1_700_000_000_000, 3)
    assert read_failures(GENERATION, note) == (3, 1_700_000_000_000)
    assert read_failures(b"other ge", note) == read_failures(GENERATION, b"") == (0, 0)
    assert [is_entry(value) for value in written.values()] == [True, True, False, False, False]
    assert {generation_of(value) for value in written.values()} == {GENERATION}
    assert token_of(lease.encoded) == b"t" * 16
