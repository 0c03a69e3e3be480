"""Which cached answer a request may have, by RFC 9111 section 4 and the directives of the request."""

from responder.cache import Entry
from responder.messages import Outcome
from schemas import Directives, hit_status


def is_fresh(entry: Entry, now_ms: int) -> bool:
    """Whether an answer is within its time to live."""
    return now_ms < entry.fresh_until_ms


def is_usable(entry: Entry, directives: Directives, now_ms: int) -> bool:
    """Whether a request takes this answer: fresh, and not older than it accepts. Ages count in whole seconds."""
    young = directives.max_age_s is None or age_s(entry, now_ms) <= directives.max_age_s
    return young and is_fresh(entry, now_ms)


def age_s(entry: Entry, now_ms: int) -> int:
    """RFC 9111 section 5.1."""
    return max(0, now_ms - entry.stored_at_ms) // 1000


def hit(entry: Entry, now_ms: int) -> Outcome:
    """A cached answer as an outcome; `ttl` counts down and is negative once it is stale."""
    status = hit_status((entry.fresh_until_ms - now_ms) // 1000)
    return Outcome(entry.body, None, 0.0, 0, None, status, age_s(entry, now_ms))
