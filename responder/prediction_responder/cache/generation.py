"""The record of a model's generation: every answer of another generation is a miss.

    1  format, current (8 bytes), previous (8 bytes, zeros for none), until (ms), at (ms)

`previous` and `until` say until when answers of the generation before count as stale instead of gone; 0 for not at all.
`at` is the store's own clock: of two records, the later one is newer. A record of another format counts as missing, and
is replaced by a new generation, so that no older answer comes back.
"""

import struct
from dataclasses import dataclass

from prediction_responder.cache.value import GENERATION_BYTES

FORMAT = 1
_RECORD = struct.Struct(f">B{GENERATION_BYTES}s{GENERATION_BYTES}sQQ")
_AT_AT = struct.calcsize(f">B{GENERATION_BYTES}s{GENERATION_BYTES}sQ")
RECORD_BYTES = _RECORD.size
_NONE = bytes(GENERATION_BYTES)


@dataclass(frozen=True, slots=True)
class Generation:
    """A model's generation.

    Args:
        current: part of every answer that counts.
        previous: the one before; zeros for none.
        until_ms: until when answers of `previous` count as stale.
        at_ms: when it began, by the store's clock.
    """

    current: bytes
    previous: bytes = _NONE
    until_ms: int = 0
    at_ms: int = 0

    @property
    def encoded(self) -> bytes:
        """The record."""
        return _RECORD.pack(FORMAT, self.current, self.previous, self.until_ms, self.at_ms)

    def followed_by(self, token: bytes, now_ms: int) -> "Generation":
        """The generation that replaces it, which is later by any clock."""
        return Generation(token, self.current, at_ms=max(now_ms, self.at_ms + 1))


def read_generation(record: bytes | None) -> Generation | None:
    """The generation in a record; None if it is missing or of another format."""
    if record is None or len(record) != RECORD_BYTES or record[0] != FORMAT:
        return None
    return Generation(*_RECORD.unpack(record)[1:])


def current_of(record: bytes | None) -> bytes | None:
    """The current generation in a record, as in `read_generation`; for each look-up, so without an object."""
    if record is None or len(record) != RECORD_BYTES or record[0] != FORMAT:
        return None
    return record[1 : 1 + GENERATION_BYTES]


# The same for the scripts of Redis: KEYS[1] is the record, `token` the new generation.
GENERATION_LUA = f"""
local function generation_there(record)
  return record and #record == {RECORD_BYTES} and string.byte(record, 1) == {FORMAT}
end
local function write_generation(token, previous, after_ms)
  local time = redis.call('TIME')
  local ms = math.max(time[1] * 1000 + math.floor(time[2] / 1000), after_ms)
  local high = math.floor(ms / 4294967296)
  local at = struct.pack('>I4I4', high, ms - high * 4294967296)
  local record = string.char({FORMAT}) .. token .. previous .. string.rep(string.char(0), 8) .. at
  redis.call('SET', KEYS[1], record)
  return record
end
local function at_of(record)
  local high, low = struct.unpack('>I4I4', string.sub(record, {_AT_AT + 1}, {RECORD_BYTES}))
  return high * 4294967296 + low
end
"""
