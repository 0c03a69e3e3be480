"""Marks, values and commits for the tests of lease stores."""

import time
from typing import Any

from prediction_responder.cache import Commit, Entry, Held, LeaseStore, Place, encode_entry
from prediction_responder.cache.value import LeaseMark

GENERATION, DIGEST = b"g" * 8, b"d" * 16
HOUR_MS = 3_600_000
NOW_MS = round(time.time() * 1000)


def answer(body: bytes = b"{}", generation: bytes = GENERATION, kept_until_ms: int = NOW_MS + HOUR_MS) -> bytes:
    """A value as it is stored."""
    return encode_entry(DIGEST, generation, Entry(NOW_MS, NOW_MS + HOUR_MS, 1, body), kept_until_ms)


ANSWER = answer()
OURS, THEIRS = (LeaseMark(GENERATION, token * 16).encoded for token in (b"o", b"t"))
Both = tuple[LeaseStore, LeaseStore]


def ending(place: Place, value: bytes = b"value", ttl_ms: int = 60_000, fence: bytes = b"", **more: Any) -> Commit:
    """A commit of ours."""
    return Commit(Held(place, OURS, fence), value, ttl_ms, b"V", DIGEST, **more)
