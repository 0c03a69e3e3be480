"""The cache: what the service asks of it, and what a cached value is made of."""

from responder.cache.answers import CachedAnswers, Gap
from responder.cache.entry import Entry, decode_entry, encode_entry
from responder.cache.port import Cache, CacheRefused, CacheUnavailable, Claimed, Commit, Held, LeaseStore, Place, Slot

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
