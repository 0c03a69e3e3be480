"""The lease protocol as a table: what a search does about what it finds, for every race."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_responder.cache import Entry, Slot
from prediction_responder.cache.value import UNREADABLE, CoolDown, LeaseMark, Outdated, Standing, Unshared
from prediction_responder.flight.commit import MAX_COOL_DOWN_MS, Cooling
from prediction_responder.flight.follower import PushedError
from prediction_responder.flight.step import (
    Alone,
    Follow,
    Found,
    Give,
    Lead,
    LookAgain,
    Move,
    Search,
    TakeOver,
    after_following,
    step,
)

NOW_MS = 1_000_000
G = b"g" * 8
HEAD = b"\4" + b"h" * 56
MARK, OTHER = LeaseMark(G, b"m" * 16), LeaseMark(G, b"o" * 16)
FRESH = Entry(NOW_MS - 10, NOW_MS + 10, 1, b"{}", head=HEAD)
STALE = replace(FRESH, fresh_until_ms=NOW_MS)
UNSHARED = Unshared(G, b"u" * 16)
ERROR = PushedError(b"why")

PLAIN = Search(G)
BESIDE = Search(G, Slot.REFRESH, b"seen", unwanted=frozenset({b"seen"}))
LATER = Search(G, only_later=True, is_later=False)
LATER_BESIDE = LATER._replace(slot=Slot.REFRESH, seen=b"seen")


def beside(search: Search, head: bytes = HEAD) -> Search:
    """The search, now for a lease beside the answer with this head."""
    return search._replace(slot=Slot.REFRESH, seen=head, unwanted=search.unwanted | {head})


STEPS: dict[str, tuple[Search, Found, Move]] = {
    "nothing is there": (PLAIN, Found(None), Lead()),
    "nothing stands beside the answer that does not do": (BESIDE, Found(None), Lead()),
    "the answer to be replaced was replaced meanwhile": (
        BESIDE,
        Found(None, moved=True),
        LookAgain(BESIDE._replace(slot=Slot.VALUE, seen=b"")),
    ),
    "a cool-down is noted, though its mark was evicted": (
        PLAIN,
        Found(None, cools_until_ms=NOW_MS + 1),
        Give(Cooling(NOW_MS + 1)),
    ),
    "a noted cool-down has ended": (PLAIN, Found(None, cools_until_ms=NOW_MS), Lead()),
    "a cool-down is noted by a clock that is far ahead": (
        PLAIN,
        Found(None, cools_until_ms=NOW_MS + MAX_COOL_DOWN_MS + 1),
        Lead(),
    ),
    "the answer expired while another replica refreshes it": (
        PLAIN,
        Found(None, beside=MARK),
        Follow(MARK, PLAIN._replace(slot=Slot.REFRESH)),
    ),
    "a refresh that began earlier is of no use": (LATER, Found(None, beside=MARK), Lead()),
    "a refresh of an old generation is of no use": (PLAIN, Found(None, beside=Outdated(MARK)), Lead()),
    "the model cools down": (PLAIN, Found(CoolDown(G, NOW_MS + 5)), Give(Cooling(NOW_MS + 5))),
    "the answer is too large to be shared": (PLAIN, Found(UNSHARED), Alone(UNSHARED)),
    "another replica leads": (PLAIN, Found(MARK), Follow(MARK, PLAIN)),
    "another replica refreshes": (BESIDE, Found(MARK), Follow(MARK, BESIDE)),
    "another replica leads, and began earlier": (
        LATER,
        Found(MARK),
        LookAgain(LATER._replace(slot=Slot.REFRESH)),
    ),
    "another replica leads beside that": (
        LATER._replace(slot=Slot.REFRESH),
        Found(OTHER),
        Follow(OTHER, LATER._replace(slot=Slot.REFRESH)),
    ),
    "an answer was stored meanwhile": (PLAIN, Found(FRESH), Give(FRESH)),
    "an answer was stored meanwhile, and is stale already": (PLAIN, Found(STALE), LookAgain(beside(PLAIN))),
    "the answer that does not do is still there": (
        PLAIN._replace(unwanted=frozenset({HEAD})),
        Found(FRESH),
        LookAgain(beside(PLAIN)),
    ),
    "an answer is there that may be of an earlier call": (LATER, Found(FRESH), LookAgain(beside(LATER))),
    "an answer of a later call is there": (
        LATER._replace(is_later=True),
        Found(FRESH),
        Give(FRESH),
    ),
    "the answer is of another generation": (PLAIN, Found(Outdated(FRESH)), TakeOver()),
    "the lease is of another generation": (PLAIN, Found(Outdated(MARK)), TakeOver()),
    "the cool-down is of another generation": (PLAIN, Found(Outdated(CoolDown(G, 5))), TakeOver()),
    "something unreadable is there": (PLAIN, Found(UNREADABLE), TakeOver()),
    "an answer stands where only marks do": (BESIDE, Found(FRESH), TakeOver()),
}

ENDS: dict[str, tuple[Search, LeaseMark, Entry | PushedError | None, Move]] = {
    "its answer": (PLAIN, MARK, FRESH, Give(FRESH)),
    "its error": (PLAIN, MARK, ERROR, Give(ERROR)),
    "it ended without a result": (PLAIN, MARK, None, LookAgain(PLAIN._replace(generation=None))),
    "a refresh ended without a push: a large answer is stored": (
        BESIDE,
        MARK,
        None,
        LookAgain(BESIDE._replace(generation=None, slot=Slot.VALUE, seen=b"")),
    ),
    "the first call may have begun earlier": (
        LATER,
        MARK,
        FRESH,
        LookAgain(LATER._replace(earlier=MARK.token, unwanted=frozenset({HEAD}))),
    ),
    "the first call may have begun earlier, and failed": (
        LATER,
        MARK,
        ERROR,
        LookAgain(LATER._replace(earlier=MARK.token)),
    ),
    "the first call beside the answer has ended: its successor began later": (
        LATER_BESIDE,
        MARK,
        FRESH,
        LookAgain(LATER_BESIDE._replace(earlier=MARK.token, is_later=True, unwanted=frozenset({HEAD}))),
    ),
    "the first call beside the answer was lost": (
        LATER_BESIDE,
        MARK,
        None,
        LookAgain(LATER_BESIDE._replace(generation=None, earlier=MARK.token)),
    ),
    "the same call again": (
        LATER._replace(earlier=MARK.token),
        MARK,
        FRESH,
        LookAgain(LATER._replace(earlier=MARK.token, unwanted=frozenset({HEAD}))),
    ),
    "another call than the first began later": (LATER._replace(earlier=MARK.token), OTHER, FRESH, Give(FRESH)),
    "another call than the first ended without a result": (
        LATER._replace(earlier=MARK.token),
        OTHER,
        None,
        LookAgain(LATER._replace(generation=None, earlier=MARK.token, is_later=True)),
    ),
}


@pytest.mark.parametrize("race", STEPS)
def test_what_a_claim_found_decides_the_move(race: str) -> None:
    """One row for each race."""
    search, found, move = STEPS[race]
    assert step(search, found, NOW_MS) == move


@pytest.mark.parametrize("race", ENDS)
def test_what_another_s_call_gave_decides_the_move(race: str) -> None:
    """One row for each ending."""
    search, mark, result, move = ENDS[race]
    assert after_following(search, mark, result) == move


searches = st.builds(
    Search,
    generation=st.just(G),
    slot=st.sampled_from(Slot),
    seen=st.sampled_from([b"", HEAD, b"seen"]),
    only_later=st.booleans(),
    is_later=st.booleans(),
    earlier=st.sampled_from([b"", MARK.token, OTHER.token]),
    unwanted=st.frozensets(st.sampled_from([b"", HEAD, b"seen"])),
)
standings: st.SearchStrategy[Standing] = st.sampled_from(
    [None, FRESH, STALE, MARK, OTHER, UNSHARED, CoolDown(G, NOW_MS + 5), Outdated(MARK), Outdated(FRESH), UNREADABLE]
)


finds = st.builds(
    Found,
    place=standings,
    beside=standings,
    moved=st.booleans(),
    cools_until_ms=st.integers(NOW_MS - 10, NOW_MS + 10_000),
)


@given(searches, finds)
def test_no_search_is_given_what_it_refused_or_what_began_too_early(search: Search, found: Found) -> None:
    """Whatever stands where; and our mark leads only where nothing else stands."""
    move = step(search, found, NOW_MS)
    if isinstance(move, Give) and isinstance(move.result, Entry):
        assert search.is_later
        assert move.result.head not in search.unwanted
        assert move.result.fresh_until_ms > NOW_MS
    if isinstance(move, Lead):
        assert found.place is None
        assert not found.moved
    if isinstance(move, Follow):
        assert move.mark in (found.place, found.beside)


@given(searches, standings)
def test_a_search_comes_to_a_move_where_nothing_changes(search: Search, place: Standing) -> None:
    """It never looks again more than twice in a row; in the refresh slot stands nothing."""
    for _ in range(3):
        move = step(search, Found(place if search.slot is Slot.VALUE else None), NOW_MS)
        if not isinstance(move, LookAgain):
            return
        search = move.search
    pytest.fail(f"still looking: {search}")
