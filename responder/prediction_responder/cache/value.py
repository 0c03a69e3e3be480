"""What may stand under the name of an answer: an answer or a mark. The first byte tells which.

    0  lease      generation, token: a replica computes the answer
    4  answer     checksum, digest, generation, times, the encoded reply body
    5  refusal    the same; its body is the error of an invalid input
    6  cool-down  generation, until when: the model failed on this input recently
    7  unshared   generation, token: too large to be kept; replicas do not wait for each other

1, 2 and 3 were formats of answers; 3 had no checksum. An answer holds the digest of its key and the generation of its
model, so a value under a wrong name, of an old generation, or damaged is a miss and never an answer.

`read` tells them apart, here and nowhere else. The scripts of Redis take their offsets from here.
"""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from prediction_schemas import Code

GENERATION_BYTES, TOKEN_BYTES, FENCE_BYTES, REPLICA_BYTES = 8, 16, 8, 8
START_BYTES = REPLICA_BYTES + 4

_LEASE, _ANSWER, _REFUSAL, _COOL_DOWN, _UNSHARED = 0, 4, 5, 6, 7
_CODES: dict[int, Code | None] = {_ANSWER: None, _REFUSAL: Code.INVALID_ARGUMENT}
ENTRY_KINDS = tuple(_CODES)

_BEFORE_GENERATION, _BEFORE_KEPT_UNTIL = ">BI16s", ">BI16s8sQQ"
_HEAD = struct.Struct(f"{_BEFORE_KEPT_UNTIL}QI")
_MARK = struct.Struct(f">B{GENERATION_BYTES}s{TOKEN_BYTES}s")
_UNTIL = struct.Struct(f">B{GENERATION_BYTES}sQ")
_FAILURES = struct.Struct(f">{GENERATION_BYTES}sQI")
_CHECKED_FROM = 5  # the checksum covers what follows it; its start value is the first byte
_COPIED_BYTES = 4096  # a larger value is checked through a view; making one costs more than copying a smaller value
_MAX_U32 = 2**32 - 1

HEAD_BYTES, MARK_BYTES = _HEAD.size, _MARK.size
GENERATION_AT, KEPT_UNTIL_AT = struct.calcsize(_BEFORE_GENERATION), struct.calcsize(_BEFORE_KEPT_UNTIL)  # in an answer
MARK_GENERATION_AT = 1
TOKEN_AT = MARK_GENERATION_AT + GENERATION_BYTES


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

    @property
    def generation(self) -> bytes:
        """The generation of the value that it was read from."""
        return generation_of(self.head)


class LeaseMark(NamedTuple):
    """A replica computes the answer, or did so until recently. The token's first bytes are the replica's id."""

    generation: bytes
    token: bytes

    @property
    def replica(self) -> bytes:
        """The replica that computes."""
        return self.token[:REPLICA_BYTES]

    @property
    def encoded(self) -> bytes:
        """The bytes that stand in the place of the answer."""
        return _MARK.pack(_LEASE, self.generation, self.token)


class Unshared(NamedTuple):
    """The answer is too large to be kept: replicas call the model without waiting for each other."""

    generation: bytes
    token: bytes

    @property
    def encoded(self) -> bytes:
        """The bytes that stand in the place of the answer."""
        return _MARK.pack(_UNSHARED, self.generation, self.token)


class CoolDown(NamedTuple):
    """The model failed on this input recently, and is not called before `until_ms`."""

    generation: bytes
    until_ms: int

    @property
    def encoded(self) -> bytes:
        """The bytes that stand in the place of the answer."""
        return _UNTIL.pack(_COOL_DOWN, self.generation, self.until_ms)


@dataclass(frozen=True, slots=True)
class Outdated:
    """Something of another generation than the model's."""

    content: Entry | LeaseMark | Unshared | CoolDown


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Damaged, of another key, or of another version of the responder."""


UNREADABLE = Unreadable()
Standing = Entry | LeaseMark | CoolDown | Unshared | Outdated | Unreadable | None


def read(digest: bytes, generation: bytes, value: bytes | None) -> Standing:
    """What stands under the name of an answer; None if nothing does.

    Args:
        digest: of the key (16 bytes).
        generation: of the key's model (8 bytes).
    """
    if not value:
        return None
    if value[0] in _CODES:  # in line, because every hit comes here
        if len(value) <= HEAD_BYTES:
            return UNREADABLE
        kind, checksum, stored_for, stored_in, stored_at_ms, fresh_until_ms, _, duration_ms = _HEAD.unpack_from(value)
        checked = value if len(value) < _COPIED_BYTES else memoryview(value)
        if stored_for != digest or crc32(checked[_CHECKED_FROM:], kind) != checksum:
            return UNREADABLE
        head, body = value[:HEAD_BYTES], value[HEAD_BYTES:]
        entry = Entry(stored_at_ms, fresh_until_ms, duration_ms, body, _CODES[kind], head)
        return entry if stored_in == generation else Outdated(entry)
    mark = _mark(value)
    if mark is None:
        return UNREADABLE
    return mark if mark.generation == generation else Outdated(mark)


def _mark(value: bytes) -> LeaseMark | Unshared | CoolDown | None:
    kind, size = value[0], len(value)
    if kind == _COOL_DOWN and size == _UNTIL.size:
        return CoolDown(*_UNTIL.unpack(value)[1:])
    if kind in (_LEASE, _UNSHARED) and size == MARK_BYTES:
        return (LeaseMark if kind == _LEASE else Unshared)(*_MARK.unpack(value)[1:])
    return None


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


def is_entry(value: bytes) -> bool:
    """For stores: whether this looks like an answer or a refusal, of any key and possibly damaged."""
    return bool(value) and value[0] in _CODES


def generation_of(value: bytes) -> bytes:
    """For stores: the generation of an answer or a mark, without a check of the value."""
    start = GENERATION_AT if is_entry(value) else MARK_GENERATION_AT
    return value[start : start + GENERATION_BYTES]


def token_of(mark: bytes) -> bytes:
    """For stores: the token of a lease mark."""
    return mark[TOKEN_AT:MARK_BYTES]


def failures_note(generation: bytes, until_ms: int, count: int) -> bytes:
    """The note of failures in a row, which is kept longer than the cool-down mark."""
    return _FAILURES.pack(generation, until_ms, count)


def read_failures(generation: bytes, note: bytes) -> tuple[int, int]:
    """How many failures in a row there were in this generation, and when the cool-down ends."""
    if len(note) != _FAILURES.size or not note.startswith(generation):
        return 0, 0
    _, until_ms, count = _FAILURES.unpack(note)
    return count, until_ms


def start_id(replica: bytes, incarnation: int = 0) -> bytes:
    """Who started a model call: a replica (8 bytes), and which of its worker processes; 0 for the replica itself."""
    return replica + incarnation.to_bytes(4)


def start_ids(record: bytes | None) -> tuple[bytes, ...]:
    """The ids in a record of starts."""
    record = record or b""
    return tuple(record[at : at + START_BYTES] for at in range(0, len(record), START_BYTES))
