"""Which cached answer a request may have, by RFC 9111 section 4, RFC 5861 and the directives of the request.

An answer is fresh for its time to live. After that it is stale: given all the same for as long as its model allows
(`stale_s`), and after that to those who ask for it. It stays in the cache for as long as somebody may want it.
"""

from prediction_responder.cache import Entry
from prediction_responder.messages import Outcome
from prediction_schemas import NO_DIRECTIVES, Code, Directives, hit_status

# The codes for which `stale-if-error` holds. An input that kills its process is not hidden: it is dead-lettered.
FAILURES = frozenset(code for code in Code if code.status >= 500) - {Code.MODEL_CRASHED}
EARLY = 5  # a refresh begins when less than a fifth of the life is left ...
EARLY_DURATIONS = 1.5  # ... or so many model calls, of which at most half of a life is spent


def is_fresh(entry: Entry, now_ms: int) -> bool:
    """Whether an answer is within its time to live."""
    return now_ms < entry.fresh_until_ms


def is_usable(entry: Entry, directives: Directives, now_ms: int, stale_s: float) -> bool:
    """Whether a request takes this answer as it stands. Ages count in whole seconds.

    Args:
        stale_s: for how long a stale answer of this model is given to everybody. A request with `max-age` wants none,
            unless it says `max-stale` as well (RFC 9111 section 5.2.1.1).
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
    """Whether a request takes this answer when the model fails, whatever else it asks for (RFC 5861 section 4)."""
    limit_s = directives.stale_if_error_s
    return limit_s is not None and (is_fresh(entry, now_ms) or _is_stale_by(entry, now_ms, limit_s))


def _is_stale_by(entry: Entry, now_ms: int, limit_s: float) -> bool:
    """Whether a stale answer is so by no more than this. The refusal of an input is given while it is fresh only."""
    return entry.code is None and now_ms - entry.fresh_until_ms <= limit_s * 1000


def wants_refresh(entry: Entry, now_ms: int) -> bool:
    """Whether it is time to replace an answer, so that those who ask for it often never wait for the model.

    A fifth of its life is early enough for quick models; slow ones need as much time as they take, and some more. A
    model that takes longer than half of a life is not called all the time for that.
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
