"""The cache: what the service asks of it, and what a cached value is made of."""

from prediction_responder.cache.answers import CachedAnswers, Gap
from prediction_responder.cache.port import (
    Cache,
    CacheRefused,
    CacheUnavailable,
    Claimed,
    Commit,
    Held,
    LeaseStore,
    Place,
    Slot,
)
from prediction_responder.cache.value import Entry, decode_entry, encode_entry

__all__ = [
    "Cache",
    "CacheRefused",
    "CachedAnswers",
    "CacheUnavailable",
    "Claimed",
    "Commit",
    "Entry",
    "Gap",
    "Held",
    "LeaseStore",
    "Place",
    "Slot",
    "decode_entry",
    "encode_entry",
]
