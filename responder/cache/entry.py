"""The bytes of a cached value: a head that says whose answer it is and how fresh, then the encoded reply body.

The head names the key it was stored for, so that a value under a wrong name is a miss and never an answer.
"""

import struct
from dataclasses import dataclass

_HEAD = struct.Struct(">B16sQQI")
_FORMAT = 1
_MAX_U32 = 2**32 - 1


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


def encode_entry(digest: bytes, entry: Entry) -> bytes:
    """The bytes to store under the key with this digest (16 bytes)."""
    duration_ms = min(entry.duration_ms, _MAX_U32)
    return _HEAD.pack(_FORMAT, digest, entry.stored_at_ms, entry.fresh_until_ms, duration_ms) + entry.body


def decode_entry(digest: bytes, value: bytes) -> Entry | None:
    """The entry, or None for a value of another format, of another key, cut short, or damaged in its head."""
    if len(value) <= _HEAD.size:
        return None
    kind, stored_for, stored_at_ms, fresh_until_ms, duration_ms = _HEAD.unpack_from(value)
    if kind != _FORMAT or stored_for != digest or fresh_until_ms < stored_at_ms:
        return None
    return Entry(stored_at_ms, fresh_until_ms, duration_ms, value[_HEAD.size :])
