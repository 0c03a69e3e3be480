"""The cache: what the service asks of it, and what a cached value is made of."""

from prediction_responder.cache.answers import CachedAnswers, Gap
from prediction_responder.cache.port import (
    Cache,
    CacheRefused,
    CacheUnavailable,
    Claimed,
    Commit,
    Held,
    Inspected,
    LeaseStore,
    Place,
    Slot,
)
from prediction_responder.cache.value import Entry, encode_entry

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
    "Inspected",
    "LeaseStore",
    "Place",
    "Slot",
    "encode_entry",
]
