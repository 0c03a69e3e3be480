"""The decisions of the lease protocol, as pure functions. docs/explanation/leases.md draws them.

A search claims a lease, and `step` says what to do about what the claim found. After another replica's lease has ended,
`after_following` says what to do about its result. Each branch names the race that it is for.
"""

from typing import NamedTuple

from prediction_responder.cache import Entry, Slot
from prediction_responder.cache.value import CoolDown, LeaseMark, Outdated, Standing, Unreadable, Unshared
from prediction_responder.flight.commit import MAX_COOL_DOWN_MS, Cooling
from prediction_responder.flight.follower import PushedError
from prediction_responder.flight.freshness import is_fresh


class Search(NamedTuple):
    """What a flight looks for under its key, and what it has learnt there.

    Args:
        generation: of the model; None if it is to be read (again).
        slot: where a lease is claimed.
        seen: the head of the cached answer that a lease in the refresh slot is to replace.
        only_later: take no result of a call that began before the search.
        is_later: whatever is found from now on began after the search.
        earlier: the token of the first lease that was found: its call may have begun before the search.
        unwanted: heads of cached answers that were found, and do not do.
    """

    generation: bytes | None
    slot: Slot = Slot.VALUE
    seen: bytes = b""
    only_later: bool = False
    is_later: bool = True
    earlier: bytes = b""
    unwanted: frozenset[bytes] = frozenset()


class Found(NamedTuple):
    """What a claim found.

    Args:
        place: what stands in the claimed slot; None if our own mark does, or if nothing was claimed.
        beside: what stands in the refresh slot, if the place of the value was claimed.
        moved: nothing was claimed, because the answer to be replaced was replaced or is gone.
        cools_until_ms: the end of the cool-down in the note of failures, which outlives the mark of the cool-down.
    """

    place: Standing
    beside: Standing = None
    moved: bool = False
    cools_until_ms: int = 0


# The moves: call the model under our mark; wait for the holder of a mark; replace what stands there, if the generation
# is still the model's; call the model without a lease; end the search; claim again.
class Lead(NamedTuple): ...


class Follow(NamedTuple):
    mark: LeaseMark
    search: Search


class TakeOver(NamedTuple): ...


class Alone(NamedTuple):
    mark: Unshared


class Give(NamedTuple):
    result: Entry | PushedError | Cooling


class LookAgain(NamedTuple):
    search: Search


Move = Lead | Follow | TakeOver | Alone | Give | LookAgain


def step(search: Search, found: Found, now_ms: int) -> Move:
    """What to do about what a claim found.

    Args:
        now_ms: wall clock.
    """
    if found.moved:
        # Between the look-up and the claim, another replica replaced the answer, or it expired or was invalidated.
        return LookAgain(search._replace(slot=Slot.VALUE, seen=b""))
    match found.place:
        case None:
            return _on_own_mark(search, found, now_ms)
        case LeaseMark() as mark:
            return _on_lease(search, mark)
        case Entry() as entry if search.slot is Slot.VALUE:
            return _on_entry(search, entry, now_ms)
        case CoolDown(_, until_ms):
            return Give(Cooling(until_ms))
        case Unshared() as mark:
            return Alone(mark)
        case Entry() | Outdated() | Unreadable():
            return TakeOver()


def _on_own_mark(search: Search, found: Found, now_ms: int) -> Move:
    if 0 < found.cools_until_ms - now_ms <= MAX_COOL_DOWN_MS:
        # The mark of the cool-down is gone early, e.g. by eviction. The wait is bounded, because clocks may differ.
        return Give(Cooling(found.cools_until_ms))
    if isinstance(found.beside, LeaseMark) and not search.only_later:
        # The answer expired while another replica refreshes it: follow that, to avoid a second call.
        return Follow(found.beside, search._replace(slot=Slot.REFRESH, seen=b""))
    return Lead()


def _on_lease(search: Search, mark: LeaseMark) -> Move:
    if search.only_later and search.slot is Slot.VALUE:
        # That call may have begun before this search, and then its result does not do: lead beside it.
        return LookAgain(search._replace(slot=Slot.REFRESH))
    return Follow(mark, search)


def _on_entry(search: Search, entry: Entry, now_ms: int) -> Move:
    if search.is_later and is_fresh(entry, now_ms) and entry.head not in search.unwanted:
        # It was stored between the look-up and the claim.
        return Give(entry)
    # It does not do. A lease beside it leaves it to the requests that accept it, until it is replaced.
    unwanted = search.unwanted | {entry.head}
    return LookAgain(search._replace(slot=Slot.REFRESH, seen=entry.head, unwanted=unwanted))


def after_following(search: Search, mark: LeaseMark, result: Entry | PushedError | None) -> Give | LookAgain:
    """What to do about the result of another replica's call.

    No clock decides whether a call began later than the search: the call of the first lease that was found may have
    begun earlier; that of any further lease began later.

    Args:
        result: None if the lease ended without one, was lost, or the push of its result was.
    """
    if not search.is_later and search.earlier in (b"", mark.token):
        unwanted = search.unwanted | ({result.head} if isinstance(result, Entry) else set())
        # If that call stood beside the seen answer and has ended, whatever replaces the answer now began later.
        is_later = result is not None and bool(search.seen)
        search = search._replace(earlier=mark.token, is_later=is_later, unwanted=unwanted)
    elif result is not None:
        return Give(result)
    else:
        search = search._replace(is_later=True)
        if search.slot is Slot.REFRESH:
            # A large answer is not pushed but stored: look for it in its place.
            search = search._replace(slot=Slot.VALUE, seen=b"")
    # Without a result, the model may have been invalidated: no replica follows a lease of an old generation for ever.
    return LookAgain(search._replace(generation=None) if result is None else search)
