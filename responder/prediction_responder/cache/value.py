"""What may stand under the name of an answer: an answer or a mark. The first byte tells which.

    0  lease      generation, token: a replica computes the answer
    4  answer     checksum, digest, generation, times, the encoded reply body
    5  refusal    the same; its body is the error of an invalid input
    6  cool-down  generation, until when: the model failed on this input recently
    7  unshared   generation, token: too large to be kept; replicas do not wait for each other

1, 2 and 3 were formats of answers; 3 had no checksum. An answer holds the digest of its key and the generation of its
model, so a value under a wrong name, of an old generation, or damaged is a miss and never an answer.
"""

import struct
from dataclasses import dataclass, field
from zlib import crc32

from prediction_schemas import Code

_HEAD = struct.Struct(">BI16s8sQQQI")
_CHECKED_FROM = 5  # the checksum covers what follows it; its start value is the first byte
_GENERATION_AT = 21
_LEASE, _ANSWER, _REFUSAL, _COOL_DOWN, _UNSHARED = 0, 4, 5, 6, 7
_CODES: dict[int, Code | None] = {_ANSWER: None, _REFUSAL: Code.INVALID_ARGUMENT}
_UNTIL = struct.Struct(">B8sQ")
_FAILURES = struct.Struct(">8sQI")
_COPIED_BYTES = 4096  # a larger value is checked through a view; making one costs more than copying a smaller value
_MAX_U32 = 2**32 - 1

GENERATION_BYTES, TOKEN_BYTES, FENCE_BYTES = 8, 16, 8
_TOKEN_AT = 1 + GENERATION_BYTES
MARK_BYTES = _TOKEN_AT + TOKEN_BYTES
HEAD_BYTES = _HEAD.size


@dataclass(slots=True)
class Entry:
    """A cached answer. Times are milliseconds since the Unix epoch.

    Args:
        stored_at_ms: when the model had answered.
        fresh_until_ms: fresh before this moment, stale after it.
        duration_ms: how long the model took.
        body: the reply body, ready to send.
        code: INVALID_ARGUMENT for the refusal of an input; None for a result.
        head: of the value that it was read from; no other value has the same.
    """

    stored_at_ms: int
    fresh_until_ms: int
    duration_ms: int
    body: bytes
    code: Code | None = None
    head: bytes = field(default=b"", compare=False)


def encode_entry(digest: bytes, generation: bytes, entry: Entry, kept_until_ms: int = 0) -> bytes:
    """The bytes to store under the key with this digest (16 bytes), in this generation of its model (8 bytes).

    Args:
        kept_until_ms: when it expires in the cache. Recorded here, because a refresh lease prolongs the TTL in Redis.
    """
    kind = _ANSWER if entry.code is None else _REFUSAL
    times = entry.stored_at_ms, entry.fresh_until_ms, kept_until_ms, min(entry.duration_ms, _MAX_U32)
    head = _HEAD.pack(kind, 0, digest, generation, *times)
    checked = head[_CHECKED_FROM:] + entry.body
    return head[:1] + crc32(checked, kind).to_bytes(4) + checked


def decode_entry(digest: bytes, generation: bytes, value: bytes) -> Entry | None:
    """The entry; None for a mark, another key or generation, or a truncated or damaged value."""
    if len(value) <= HEAD_BYTES:
        return None
    kind, checksum, stored_for, stored_in, stored_at_ms, fresh_until_ms, _, duration_ms = _HEAD.unpack_from(value)
    if stored_for != digest or stored_in != generation or kind not in _CODES:
        return None
    checked = value if len(value) < _COPIED_BYTES else memoryview(value)
    if crc32(checked[_CHECKED_FROM:], kind) != checksum:
        return None
    head, body = value[:HEAD_BYTES], value[HEAD_BYTES:]
    return Entry(stored_at_ms, fresh_until_ms, duration_ms, body, _CODES[kind], head)


def generation_of(value: bytes) -> bytes:
    """The generation of an answer or a mark, without a check of the value."""
    start = _GENERATION_AT if is_entry(value) else 1
    return value[start : start + GENERATION_BYTES]


def is_entry(value: bytes) -> bool:
    """Whether this looks like an answer or a refusal, of any key and possibly damaged."""
    return value[:1] in (b"\4", b"\5")


def lease_mark(generation: bytes, token: bytes) -> bytes:
    """The mark in the place of an answer of this generation while the holder of this token (16 bytes) computes it."""
    return b"%c%b%b" % (_LEASE, generation, token)


def is_lease(value: bytes) -> bool:
    """Whether a replica computes the answer, or did so until recently."""
    return len(value) == MARK_BYTES and value[0] == _LEASE


def unshared_mark(lease: bytes) -> bytes:
    """The mark in the place of an answer that is too large to be kept; `lease` is the mark of its leader."""
    return b"%c%b" % (_UNSHARED, lease[1:])


def is_unshared(value: bytes) -> bool:
    """Whether replicas call the model without waiting for each other."""
    return len(value) == MARK_BYTES and value[0] == _UNSHARED


def cool_down_mark(generation: bytes, until_ms: int) -> bytes:
    """The mark in the place of an answer during a cool-down."""
    return _UNTIL.pack(_COOL_DOWN, generation, until_ms)


def cools_until_ms(generation: bytes, value: bytes) -> int | None:
    """When the model may be called again; None if this is no cool-down of this generation."""
    if len(value) != _UNTIL.size or value[0] != _COOL_DOWN or generation_of(value) != generation:
        return None
    until_ms: int = _UNTIL.unpack(value)[2]
    return until_ms


def failures_note(generation: bytes, until_ms: int, count: int) -> bytes:
    """The note of failures in a row, which is kept longer than the cool-down mark."""
    return _FAILURES.pack(generation, until_ms, count)


def read_failures(generation: bytes, note: bytes) -> tuple[int, int]:
    """How many failures in a row there were in this generation, and when the cool-down ends."""
    if len(note) != _FAILURES.size or not note.startswith(generation):
        return 0, 0
    _, until_ms, count = _FAILURES.unpack(note)
    return count, until_ms


def is_cool_down(value: bytes) -> bool:
    """Whether this is a cool-down, of any generation."""
    return len(value) == _UNTIL.size and value[0] == _COOL_DOWN


def token_of(mark: bytes) -> bytes:
    """The token of a lease or of an unshared mark."""
    return mark[_TOKEN_AT:]
