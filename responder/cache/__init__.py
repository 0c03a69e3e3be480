"""The cache: what the service asks of it, and what a cached value is made of."""

from responder.cache.answers import CachedAnswers
from responder.cache.entry import Entry, decode_entry, encode_entry
from responder.cache.port import Cache, CacheUnavailable

__all__ = ["Cache", "CachedAnswers", "CacheUnavailable", "Entry", "decode_entry", "encode_entry"]
