"""What may stand under the name of an answer: a value or a lease; told apart by the first byte.

A value's head says whose answer it is, of which generation, and how fresh; then comes the encoded reply body. It names
the key that it was stored for, so that a value under a wrong name is a miss and never an answer.
"""

import struct
from dataclasses import dataclass

_HEAD = struct.Struct(">B16s8sQQI")
_LEASE, _VALUE = 0, 3
_MAX_U32 = 2**32 - 1

GENERATION_BYTES, TOKEN_BYTES, FENCE_BYTES = 8, 16, 8
_TOKEN_AT = 1 + GENERATION_BYTES
MARK_BYTES = _TOKEN_AT + TOKEN_BYTES


@dataclass(slots=True)
class Entry:
    """A cached answer. Times are milliseconds since the Unix epoch.

    Args:
        stored_at_ms: when the model had answered.
        fresh_until_ms: fresh before this moment, stale after it.
        duration_ms: how long the model took.
        body: the reply body, ready to send.
    """

    stored_at_ms: int
    fresh_until_ms: int
    duration_ms: int
    body: bytes


def encode_entry(digest: bytes, generation: bytes, entry: Entry) -> bytes:
    """The bytes to store under the key with this digest (16 bytes), in this generation of its model (8 bytes)."""
    duration_ms = min(entry.duration_ms, _MAX_U32)
    head = _HEAD.pack(_VALUE, digest, generation, entry.stored_at_ms, entry.fresh_until_ms, duration_ms)
    return head + entry.body


def decode_entry(digest: bytes, generation: bytes, value: bytes) -> Entry | None:
    """The entry, or None for what is no value or one of another key or generation, cut short, or damaged."""
    if len(value) <= _HEAD.size:
        return None
    kind, stored_for, stored_in, stored_at_ms, fresh_until_ms, duration_ms = _HEAD.unpack_from(value)
    if kind != _VALUE or stored_for != digest or stored_in != generation or fresh_until_ms < stored_at_ms:
        return None
    return Entry(stored_at_ms, fresh_until_ms, duration_ms, value[_HEAD.size :])


def generation_of(value: bytes) -> bytes:
    """The generation of a value or a lease; for looking at it, not for trusting it."""
    return value[17 : 17 + GENERATION_BYTES] if value[:1] == bytes([_VALUE]) else value[1:_TOKEN_AT]


def lease_mark(generation: bytes, token: bytes) -> bytes:
    """What stands where an answer of this generation will be, while the holder of this token (16 bytes) works on it."""
    return b"%c%b%b" % (_LEASE, generation, token)


def is_lease(value: bytes) -> bool:
    """Whether somebody works on the answer, or did until lately."""
    return len(value) == MARK_BYTES and value[0] == _LEASE


def token_of(mark: bytes) -> bytes:
    """The token of a lease."""
    return mark[_TOKEN_AT:]
