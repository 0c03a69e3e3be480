"""Which cached answer a request may have, by RFC 9111 section 4, RFC 5861 and the directives of the request.

An answer is fresh for its TTL, then stale. For `stale_s` past the TTL, requests are still served it by default; for
`keep_s`, only those that accept it (`max-stale`, `stale-if-error`). Then it leaves the cache.
"""

from prediction_responder.cache import Entry
from prediction_responder.messages import Outcome
from prediction_schemas import NO_DIRECTIVES, Code, Directives, hit_status

# The codes for which `stale-if-error` holds. Not MODEL_CRASHED: no old answer may hide a crashing input.
FAILURES = frozenset(code for code in Code if code.status >= 500) - {Code.MODEL_CRASHED}
EARLY = 5  # a refresh begins when less than a fifth of the TTL is left ...
EARLY_DURATIONS = 1.5  # ... or less than so many model calls, but never in the first half of the TTL


def is_fresh(entry: Entry, now_ms: int) -> bool:
    """Whether an answer is within its TTL."""
    return now_ms < entry.fresh_until_ms


def is_usable(entry: Entry, directives: Directives, now_ms: int, stale_s: float) -> bool:
    """Whether a request accepts this answer without a model call. Ages count in whole seconds.

    Args:
        stale_s: seconds past the TTL in which every request is served this model's answer. A request with `max-age`
            accepts no stale answer unless it says `max-stale` as well (RFC 9111 section 5.2.1.1).
    """
    if directives is not NO_DIRECTIVES:
        if directives.no_cache:
            return False
        if directives.max_age_s is not None:
            stale_s = 0.0
            if age_s(entry, now_ms) > directives.max_age_s:
                return False
        if directives.max_stale_s is not None:
            stale_s = max(stale_s, directives.max_stale_s)
    return is_fresh(entry, now_ms) or (stale_s > 0 and _is_stale_by(entry, now_ms, stale_s))


def is_better_than_an_error(entry: Entry, directives: Directives, now_ms: int) -> bool:
    """Whether a request accepts this answer when the model fails; only `stale-if-error` counts (RFC 5861 section 4)."""
    limit_s = directives.stale_if_error_s
    return limit_s is not None and (is_fresh(entry, now_ms) or _is_stale_by(entry, now_ms, limit_s))


def _is_stale_by(entry: Entry, now_ms: int, limit_s: float) -> bool:
    """Whether an answer is past its TTL by at most `limit_s`. A refusal is served only while it is fresh."""
    return entry.code is None and now_ms - entry.fresh_until_ms <= limit_s * 1000


def wants_refresh(entry: Entry, now_ms: int) -> bool:
    """Whether a refresh should begin, so that requests for a popular answer never wait for the model.

    The last fifth of the TTL is early enough for a fast model. A slow one needs as long as its call takes, and a
    margin. None begins in the first half of the TTL, or a model slower than that would be called all the time.
    """
    left_ms, life_ms = entry.fresh_until_ms - now_ms, entry.fresh_until_ms - entry.stored_at_ms
    if left_ms * 2 >= life_ms or entry.code is not None:
        return False
    return left_ms * EARLY < life_ms or left_ms < EARLY_DURATIONS * entry.duration_ms


def age_s(entry: Entry, now_ms: int) -> int:
    """RFC 9111 section 5.1."""
    return max(0, now_ms - entry.stored_at_ms) // 1000


def hit(entry: Entry, now_ms: int) -> Outcome:
    """A cached answer as an outcome; `ttl` counts down and is negative once it is stale."""
    status = hit_status((entry.fresh_until_ms - now_ms) // 1000)
    return Outcome(entry.body, entry.code, 0.0, 0, None, status, age_s(entry, now_ms))
