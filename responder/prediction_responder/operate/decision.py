"""How a request would be answered, in words for an operator, by the rules of the service."""

from collections.abc import Sequence

from prediction_responder.cache import Entry
from prediction_responder.cache.value import CoolDown, LeaseMark, Standing
from prediction_responder.flight.freshness import hit, is_better_than_an_error, is_usable, wants_refresh
from prediction_schemas import NO_DIRECTIVES, Directives


def decision(
    entry: Entry | None, directives: Directives, now_ms: int, stale_s: float, marks: Sequence[Standing] = ()
) -> str:
    """How a request would be answered, by the same rules as in the service.

    Args:
        marks: what else stands in the place of the answer, and beside it.
    """
    if entry is not None and is_usable(entry, directives, now_ms, stale_s):
        from_cache = f"answered from the cache: {hit(entry, now_ms).status.encoded.decode()}"
        refreshes = wants_refresh(entry, now_ms) and not directives.no_store and not directives.only_if_cached
        return f"{from_cache}; it is refreshed in the background" if refreshes else from_cache
    if directives.only_if_cached:
        return "412 CACHE_MISS: only-if-cached, and no acceptable answer is cached"
    kept = ""
    if entry is not None and is_better_than_an_error(entry, directives, now_ms):
        kept = hit(entry, now_ms).status.encoded.decode()
    until_ms = max([mark.until_ms for mark in marks if isinstance(mark, CoolDown)], default=0)
    if until_ms and not (directives.no_store and entry is not None):
        left = f"the cool-down of this input lasts {max(0, until_ms - now_ms) / 1000:g} s more"
        return f"answered from the cache, because {left}: {kept}" if kept else f"503 UNAVAILABLE: {left}"
    forced = directives.no_cache or (entry is not None and is_usable(entry, NO_DIRECTIVES, now_ms, stale_s))
    if directives.no_store:
        called = "the model is called for this request alone: fwd=bypass, not stored"
    elif any(isinstance(mark, LeaseMark) for mark in marks):
        called = "the request waits for the leader, a replica that is calling the model"
        if directives.no_cache:
            called += ", and then the model is called again: fwd=request"
    else:
        called = f"the model is called: fwd={'request' if forced else 'miss'}"
    return f"{called}; if it fails, the cached answer is given: {kept}" if kept else called
