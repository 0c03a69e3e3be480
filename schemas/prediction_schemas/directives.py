"""Reads and writes the headers `cache-control` of requests and `cache-status` of replies, with the syntax of HTTP.

Requests carry the directives of RFC 9111 section 5.2.1 and RFC 5861's `stale-if-error`. Replies carry RFC 9211's
`Cache-Status` with one cache, named `responder`.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

_MAX_SECONDS = 2**31  # RFC 9111 section 1.2.2: larger delta-seconds count as 2^31
_FLAGS = frozenset({"no-cache", "no-store", "only-if-cached"})
_SECONDS = frozenset({"max-age", "max-stale", "stale-if-error"})


@dataclass(frozen=True, slots=True)
class Directives:
    """The cache directives of a request. Durations are in seconds; None means not given.

    `malformed` counts the parts that were ignored because they could not be parsed.
    """

    max_age_s: int | None = None
    max_stale_s: int | None = None
    stale_if_error_s: int | None = None
    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    malformed: int = 0


NO_DIRECTIVES = Directives()


def parse_cache_control(header: bytes) -> Directives:
    """Parse a `cache-control` header. Unknown directives are ignored; malformed ones are ignored and counted.

    If a directive is given twice, the stricter value applies (RFC 9111 section 4.2.1 allows either).
    """
    try:
        text = header.decode("ascii").lower()
    except UnicodeDecodeError:
        return Directives(malformed=1)
    flags: set[str] = set()
    seconds: dict[str, int] = {}
    malformed = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, has_value, value = (piece.strip() for piece in part.partition("="))
        if name in _FLAGS and not has_value:
            flags.add(name)
        elif name in _SECONDS and (delta := _delta_seconds(value)) is not None:
            seconds[name] = min(delta, seconds.get(name, _MAX_SECONDS))
        elif name == "max-stale" and not has_value:
            seconds.setdefault(name, _MAX_SECONDS)  # RFC 9111 section 5.2.1.2: without a value, any staleness
        elif name in _FLAGS or name in _SECONDS or not name:
            malformed += 1
    return Directives(
        max_age_s=seconds.get("max-age"),
        max_stale_s=seconds.get("max-stale"),
        stale_if_error_s=seconds.get("stale-if-error"),
        no_cache="no-cache" in flags,
        no_store="no-store" in flags,
        only_if_cached="only-if-cached" in flags,
        malformed=malformed,
    )


def _delta_seconds(text: str) -> int | None:
    """Parse delta-seconds (RFC 9111 section 1.2.2). A quoted number is accepted, as section 5.2 asks of recipients."""
    digits = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not digits.isascii() or not digits.isdigit():
        return None
    return min(int(digits[:11]), _MAX_SECONDS)


@dataclass(frozen=True)
class CacheStatus:
    """Where an answer came from (RFC 9211 section 2). Frequent statuses are cached objects: see `hit_status`.

    Args:
        hit: the answer was in the cache.
        fwd: why the request went to the model: `miss`, `request` (a directive forced it) or `bypass`; None for a hit.
        ttl_s: seconds of freshness left; negative for a stale answer.
        stored: the answer was stored in the cache.
        collapsed: the answer is from a model call that another request had begun.
        extra: parameters of a parsed header that this version does not know.
    """

    hit: bool = False
    fwd: str | None = None
    ttl_s: int | None = None
    stored: bool = False
    collapsed: bool = False
    extra: tuple[str, ...] = field(default=(), compare=False)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Computed once, because statuses are the keys of caches of encoded headers."""
        return hash((self.hit, self.fwd, self.ttl_s, self.stored, self.collapsed))

    @cached_property
    def encoded(self) -> bytes:
        """The value of the header, e.g. `responder; fwd=miss; stored`."""
        parts = ["responder"]
        if self.hit:
            parts.append("hit")
        if self.fwd:
            parts.append(f"fwd={self.fwd}")
        if self.ttl_s is not None:
            parts.append(f"ttl={self.ttl_s}")
        if self.stored:
            parts.append("stored")
        if self.collapsed:
            parts.append("collapsed")
        return "; ".join(parts).encode("ascii")

    @cached_property
    def kind(self) -> str:
        """One word for tables and labels: hit, stale, collapsed, miss, request, bypass or none."""
        if self.hit:
            return "stale" if self.ttl_s is not None and self.ttl_s < 0 else "hit"
        if self.collapsed:
            return "collapsed"
        return self.fwd or "none"


@lru_cache(maxsize=4096)
def hit_status(ttl_s: int) -> CacheStatus:
    """The status of a cached answer with this many seconds of freshness left."""
    return CacheStatus(hit=True, ttl_s=ttl_s)


@lru_cache(maxsize=64)
def forwarded_status(fwd: str, *, stored: bool = False, collapsed: bool = False) -> CacheStatus:
    """The status of an answer that came from the model."""
    return CacheStatus(fwd=fwd, stored=stored, collapsed=collapsed)


# The status of a reply that came neither from the cache nor from a model, such as most errors.
NO_STATUS = CacheStatus()


def parse_cache_status(header: str) -> CacheStatus:
    """Parse a `cache-status` header as the responder writes it; unknown parameters are kept in `extra`."""
    _, *parameters = (part.strip() for part in header.split(";"))
    named = dict(part.partition("=")[::2] for part in parameters)
    ttl = named.get("ttl", "")
    return CacheStatus(
        hit="hit" in named,
        fwd=named.get("fwd"),
        ttl_s=int(ttl) if _TTL.fullmatch(ttl) else None,
        stored="stored" in named,
        collapsed="collapsed" in named,
        extra=tuple(part for part in parameters if part.partition("=")[0] not in _STATUS_PARAMETERS),
    )


_TTL = re.compile(r"-?[0-9]{1,10}")
_STATUS_PARAMETERS = frozenset({"hit", "fwd", "ttl", "stored", "collapsed"})
