"""How fresh an answer is given, and when it is computed anew: RFC 9111, RFC 5861 and the directives of the request."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_responder import Answer, InvalidInput, Unavailable
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.value import Entry, encode_entry, generation_of, is_entry, read
from prediction_responder.flight.leader import cool_down_ms
from prediction_responder.operate.decision import decision
from prediction_schemas import NO_DIRECTIVES, Code, Directives
from tests.fakes import Clock, Echo, Replies, asker, serving
from tests.house import KEEP_S, STALE_S, TTL_S, House, Model, settle


@dataclass
class Expected:
    """What the table of the design says of one request."""

    kind: str
    code: str
    calls: int
    stored: bool


def by_the_table(age: int, asked: Directives, *, fails: bool) -> Expected:
    """The table "who reads, joins, leads, stores", written down once more and more simply, in whole seconds."""
    is_there, is_fresh, stale_for = age < TTL_S + KEEP_S, age < TTL_S, age - TTL_S
    found = "hit" if age <= TTL_S else "stale"
    for_all = is_there and (is_fresh or stale_for <= STALE_S)
    reads = for_all
    if asked.max_age_s is not None:
        reads = is_there and is_fresh
    if asked.max_stale_s is not None:
        reads = reads or (is_there and stale_for <= asked.max_stale_s)
    if asked.no_cache or (asked.max_age_s is not None and age > asked.max_age_s):
        reads = False
    may_refresh = not asked.only_if_cached and not asked.no_store
    if reads:
        early = age > TTL_S * 4 // 5 and may_refresh
        return Expected(found, "ok", int(early), early and not fails)
    if asked.only_if_cached:
        return Expected("none", "CACHE_MISS", 0, stored=False)
    forced = for_all or asked.no_cache
    if not fails:
        led = "bypass" if asked.no_store else "request" if forced else "miss"
        return Expected(led, "ok", 1, not asked.no_store)
    limit = asked.stale_if_error_s
    if limit is not None and is_there and (is_fresh or stale_for <= limit):
        return Expected(found, "ok", 1, stored=False)
    led = "bypass" if asked.no_store else "request" if forced else "miss"
    return Expected(led, "UNAVAILABLE", 1, stored=False)


seconds = st.none() | st.integers(0, 40)
directives = st.builds(
    Directives,
    max_age_s=seconds,
    max_stale_s=seconds,
    stale_if_error_s=seconds,
    no_cache=st.booleans(),
    no_store=st.booleans(),
    only_if_cached=st.booleans(),
)


@given(age=st.integers(0, 40), asked=directives, fails=st.booleans(), at=st.sampled_from([0, 1]))
def test_every_request_is_answered_by_the_table(age: int, asked: Directives, fails: bool, at: int) -> None:  # noqa: FBT001
    """Whatever it asks, whatever is there, whether the model works, on the replica that stored it and on another."""

    async def check() -> None:
        house = await House.built({"stale_s": STALE_S, "keep_s": KEEP_S})
        await house.reply()
        house.model.outcome = lambda: Echo(text="new")
        if fails:
            house.model.fails()
        house.clock.now += age
        house.model.calls = 0
        [reply] = await house.reply(asked, at=at)
        code = reply.outcome.code.name if reply.outcome.code else "ok"
        calls = house.model.calls
        [after] = await house.reply(Directives(only_if_cached=True), at=1 - at)
        stored = b"new" in after.outcome.body
        assert Expected(reply.status.kind, code, calls, stored) == by_the_table(age, asked, fails=fails)
        if reply.status.hit:
            assert reply.status.ttl_s == TTL_S - age
            assert reply.outcome.age_s == age

    asyncio.run(check())


@given(age=st.integers(0, 40), asked=directives, fails=st.booleans())
def test_explain_says_what_the_service_does(age: int, asked: Directives, fails: bool) -> None:  # noqa: FBT001
    """Its words for a decision are made of the same rules."""

    async def check() -> None:
        house = await House.built({"stale_s": STALE_S, "keep_s": KEEP_S})
        await house.reply()
        house.clock.now += age
        [name] = [name for name in house.cache._values if name.endswith(":v")]
        [value] = await house.cache.get_many([name])
        standing = None if value is None else read(value[5:21], generation_of(value), value)
        entry = standing if isinstance(standing, Entry) else None
        assert entry is standing
        said = decision(entry, asked, house.clock.now_ms(), STALE_S)
        if fails:
            house.model.fails()
        house.model.calls = 0
        [reply] = await house.reply(asked)
        status = reply.status.encoded.decode()
        if said.startswith("answered"):
            refreshed = "; it is refreshed in the background" if house.model.calls else ""
            assert said == f"answered from the cache: {status}{refreshed}"
        elif said.startswith("412"):
            assert reply.outcome.code is Code.CACHE_MISS
        elif reply.status.hit:
            assert fails
            assert said.endswith(f"; if it fails, the cached answer is given: {status}")
        else:
            assert f"fwd={reply.status.fwd}" in said
            assert house.model.calls == 1

    asyncio.run(check())


@pytest.mark.parametrize(
    ("asked", "joins"),
    [
        (Directives(), True),
        (Directives(max_age_s=0), True),
        (Directives(max_stale_s=9), True),
        (Directives(stale_if_error_s=9), True),
        (Directives(no_cache=True), False),
        (Directives(no_store=True), False),
        (Directives(only_if_cached=True), None),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("there", [False, True])
async def test_who_joins_a_flight_in_the_air(asked: Directives, joins: bool | None, at: int, there: bool) -> None:  # noqa: FBT001
    """Here and on another replica, beside an answer that is there and where none is."""
    house = await House.built({"keep_s": KEEP_S})
    if there:
        await house.reply()
        house.clock.now += TTL_S + 1
    house.model.calls = 0
    house.model.gate.clear()
    await house.services[0].handle([house.ask()])
    await house.model.called(1)
    later = asyncio.ensure_future(house.reply(asked, at=at))
    await settle()
    # Where a refresh is in the air, the next one begins when that has ended.
    waits = joins is not False or (there and asked.no_cache)
    assert house.model.calls == (1 if waits else 2)
    house.model.gate.set()
    reply = (await later)[-1]
    assert (reply.outcome.code is None) is (joins is not None)
    assert house.model.calls == (1 if joins is not False else 2)


async def test_those_of_one_batch_that_want_a_new_answer_share_it() -> None:
    """`no-cache` joins a flight that has begun after its receipt."""
    house = await House.built()
    await house.reply()
    replies = await house.reply(*[Directives(no_cache=True)] * 5)
    assert sorted(one.status.kind for one in replies) == ["collapsed"] * 4 + ["request"]
    assert house.model.calls == 2


async def test_a_hot_answer_is_replaced_before_it_is_stale() -> None:
    """One call in the last fifth of its life; those who ask meanwhile, everywhere, get the old one at once."""
    house = await House.built()
    await house.reply()
    house.clock.now += 8.5
    house.model.gate.clear()
    for at in (0, 1, 0, 1):
        await house.services[at].handle([house.ask(), house.ask()])
    assert [one.kinds() for one in house.all] == [["miss"] + ["hit"] * 4, ["hit"] * 4]
    await house.model.called(2)
    house.model.gate.set()
    await house.services[0].idle()
    await house.services[1].idle()
    assert house.model.calls == 2
    house.clock.now += 2
    assert await house.kind() == "hit"
    assert house.model.calls == 2
    assert house.refreshes.count("done") == 1
    assert set(house.refreshes) == {"done", "elsewhere"}


async def test_a_request_that_comes_when_the_answer_is_stale_boards_the_refresh() -> None:
    """It waits for the rest of the call, and not for one of its own; on another replica too."""
    house = await House.built()
    await house.reply()
    house.clock.now += 9
    house.model.gate.clear()
    await house.services[0].handle([house.ask()])
    await house.model.called(2)
    house.clock.now += 2
    here, there = (asyncio.ensure_future(house.reply(at=at)) for at in (0, 1))
    await settle()
    house.model.gate.set()
    assert [one.status.kind for one in [*await here, *await there]] == ["collapsed", "collapsed"]
    assert house.model.calls == 2


@pytest.mark.parametrize(
    ("duration_s", "left_s", "early"),
    [(0, 2.1, False), (0, 1.9, True), (2, 3.1, False), (2, 2.9, True), (30, 5.1, False), (30, 4.9, True)],
)
def test_a_refresh_begins_as_early_as_the_model_needs(duration_s: float, left_s: float, early: bool) -> None:  # noqa: FBT001
    """A fifth of the life, or one and a half calls, but not before half of the life is over."""
    from prediction_responder.flight.freshness import wants_refresh

    entry = Entry(0, 10_000, round(duration_s * 1000), b"{}")
    assert wants_refresh(entry, 10_000 - round(left_s * 1000)) is early


async def test_a_refresh_yields_to_misses() -> None:
    """It takes no permit while there is none to spare, and is asked for again by the next hit."""
    house = await House.built({"concurrency": 1})
    await house.reply()
    house.clock.now += 9
    house.model.gate.clear()
    await house.services[0].handle([house.ask("b")])
    await house.model.called(2)
    await house.services[0].handle([house.ask()])
    assert house.all[0].kinds() == ["miss", "hit"]
    house.model.gate.set()
    await house.services[0].idle()
    assert (house.model.calls, house.refreshes) == (2, [])
    await house.reply()
    assert (house.model.calls, house.refreshes) == (3, ["done"])


async def test_refreshes_are_no_more_than_permits_and_take_no_place_of_a_miss() -> None:
    """Ten answers to refresh, two permits, one pending miss allowed: it is taken, and two are refreshed."""
    house = await House.built({"concurrency": 2}, pending=1)
    for number in range(10):
        await house.reply(text=str(number))
    house.clock.now += 9
    house.model.calls = 0
    house.model.gate.clear()
    await house.services[0].handle([house.ask(str(number)) for number in range(10)])
    assert [flights.background for flights in house.services[0]._flights.values()] == [2]
    await settle()
    assert house.model.calls == 2
    await house.services[0].handle([house.ask("new")])
    assert "RESOURCE_EXHAUSTED" not in house.all[0].codes()
    house.model.gate.set()
    await house.services[0].idle()
    assert house.all[0].kinds()[10:] == ["hit"] * 10 + ["miss"]


async def test_a_drain_drops_refreshes_first() -> None:
    """Those that have not started: nobody waits for them. What has started, or somebody has boarded, is finished."""
    house = await House.built()
    for text in ("a", "b", "c"):
        await house.reply(text=text)
    house.clock.now += 9
    house.model.gate.clear()
    await house.services[0].handle([house.ask("a")])
    await house.model.called(4)
    await house.services[0].handle([house.ask("b")])  # has not come to its claim yet
    await house.services[0].handle([house.ask("c"), house.ask("c", directives=Directives(max_age_s=3))])
    boarded = house.services[0].hand_back(started=False)
    assert [one.directives.max_age_s for one in boarded] == [3]
    await settle()
    assert house.refreshes == ["dropped"]
    house.model.gate.set()
    await house.services[0].idle()
    assert house.refreshes.count("done") == 1
    assert house.model.calls == 4


async def test_without_the_cache_nothing_is_refreshed() -> None:
    """Who leads cannot be known; the answer is there for as long as it lives."""
    house = await House.built()
    await house.reply()
    house.clock.now += 9
    [request] = [house.ask()]
    await house.services[0].handle([request])
    house.brittle.is_down = True
    await house.services[0].idle()
    assert house.model.calls == 1
    assert house.refreshes == ["dropped"]


async def test_a_failing_model_is_tried_less_and_less_often() -> None:
    """0.25 s doubling to 8 s, for each input; meanwhile 503 with the time that is left; a success forgets it."""
    house = await House.built()
    house.model.fails(ZeroDivisionError())
    assert await house.kind() == "MODEL_ERROR"
    expected_ms = [250, 500, 1000, 2000, 4000, 8000, 8000]
    assert [cool_down_ms(failures) for failures in range(7)] == expected_ms
    for tries, cool_ms in enumerate(expected_ms, 1):
        house.clock.now += (cool_ms - 2) / 1000
        for at in (0, 1):
            [reply] = await house.reply(Directives(no_cache=at == 1), at=at)
            assert (reply.outcome.code and reply.outcome.code.name, reply.outcome.retry_after_ms) == ("UNAVAILABLE", 2)
        assert house.model.calls == tries
        assert await house.kind(Directives(only_if_cached=True)) == "CACHE_MISS"
        house.clock.now += 0.003
        assert await house.kind() == "MODEL_ERROR"
    assert (await house.reply(text="b"))[0].outcome.code is not None  # another input has a count of its own
    assert house.model.calls == 9
    house.clock.now += 8.1
    house.model.outcome = lambda: Answer(Echo(text="a"), ttl_s=0)
    assert await house.kind() == "miss"
    house.model.fails()
    [reply] = await house.reply()
    assert reply.outcome.retry_after_ms == 250


async def test_a_failing_refresh_cools_down_too() -> None:
    """The stale answer is given as long as it may be, and the model is tried no more often for that."""
    house = await House.built({"stale_s": 60})
    await house.reply()
    house.model.fails()
    house.clock.now += TTL_S
    for _ in range(200):
        house.clock.now += 0.1
        assert await house.kind() == "stale"
    assert 1 + 6 <= house.model.calls <= 1 + 7  # 0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75 s


async def test_a_model_s_own_hint_is_kept_when_it_is_longer() -> None:
    """It knows better."""
    house = await House.built()
    house.model.fails(Unavailable(retry_after_s=7))
    [reply] = await house.reply()
    assert reply.outcome.retry_after_ms == 7000


async def test_a_refused_input_is_refused_from_the_cache_for_a_while() -> None:
    """Deterministic failures are answers; nothing stale is made of them."""
    house = await House.built({"stale_s": 60})
    house.model.fails(InvalidInput("too dull", field="text"))
    [first] = await house.reply()
    [second] = await house.reply(at=1)
    assert (first.status.encoded, second.status.encoded) == (b"responder; fwd=miss; stored", b"responder; hit; ttl=5")
    assert first.outcome.body == second.outcome.body
    assert [one.outcome.code and one.outcome.code.name for one in (first, second)] == ["INVALID_ARGUMENT"] * 2
    assert house.model.calls == 1
    house.clock.now += 5
    assert await house.kind() == "INVALID_ARGUMENT"
    assert house.model.calls == 2
    for options in ({"negative_ttl_s": 0}, {"ttl_s": 0}):
        house = await House.built(options)
        house.model.fails(InvalidInput("too dull"))
        assert [await house.kind(), await house.kind()] == ["INVALID_ARGUMENT"] * 2
        assert house.model.calls == 2


async def test_an_answer_that_is_too_large_to_be_kept_is_shared_by_those_who_wait() -> None:
    """For a minute after it nobody of another replica waits for anybody; then it is tried again."""
    house = await House.built(max_stored_bytes=30)
    house.model.outcome = lambda: Echo(text="a" * 100_000)
    house.model.gate.clear()
    asked = [asyncio.ensure_future(house.reply(*[NO_DIRECTIVES] * 3, at=at)) for at in (0, 1)]
    await settle()
    assert house.model.calls == 1
    house.model.gate.set()
    replies = [reply for one in asked for reply in await one]
    assert {len(one.outcome.body) for one in replies} == {len(b'{"result":{"text":""}}') + 100_000}
    assert (
        sorted(one.status.encoded for one in replies)
        == [b"responder; fwd=miss"] + [b"responder; fwd=miss; collapsed"] * 5
    )
    house.model.gate.clear()
    asked = [asyncio.ensure_future(house.reply(*[NO_DIRECTIVES] * 3, at=at)) for at in (0, 1)]
    await settle()
    late = asyncio.ensure_future(house.reply())
    await settle()
    assert house.model.calls == 3  # one on each replica, which the late one shares
    house.model.gate.set()
    await asyncio.gather(*asked, late)
    assert house.model.calls == 3
    house.clock.now += 61
    house.model.outcome = lambda: Echo(text="a")
    assert [await house.kind(), await house.kind(at=1)] == ["miss", "hit"]


async def test_what_is_not_kept_is_shared_by_those_who_wait() -> None:
    """A time to live of 0, and `store=False`, for small answers and for large ones."""
    for length in (1, 100_000):
        for answer in (Answer(Echo(text="a" * length), ttl_s=0), Answer(Echo(text="a" * length), store=False)):
            house = await House.built()
            house.model.outcome = lambda answer=answer: answer  # type: ignore[misc]
            house.model.gate.clear()
            asked = [asyncio.ensure_future(house.reply(*[NO_DIRECTIVES] * 3, at=at)) for at in (0, 1)]
            await settle()
            house.model.gate.set()
            replies = [reply for one in asked for reply in await one]
            assert {len(one.outcome.body) for one in replies} == {len(b'{"result":{"text":""}}') + length}
            assert house.model.calls == 1
            assert await house.kind() == "miss"


@given(
    ttl_s=st.sampled_from([0.0, 1e-9, 0.0004, 0.001]) | st.floats(0, 1e8),
    stale_s=st.floats(0, 1e8),
    keep_s=st.floats(0, 1e8),
    factor=st.floats(0.9, 1.1),
)
def test_no_answer_lives_for_ever(ttl_s: float, stale_s: float, keep_s: float, factor: float) -> None:
    """What is stored lives for its time and the longer window, and what may not be stored is not."""

    class Noted(MemoryCache):
        """Remembers the times to live."""

        def _set(self, name: str, value: bytes, ttl_ms: float) -> None:
            if name.endswith(":v") and is_entry(value):
                lives.append(ttl_ms)
            super()._set(name, value, ttl_ms)

    lives: list[float] = []

    async def check() -> None:
        replies, clock, model = Replies(), Clock(), Model()
        service = serving(Noted(clock=clock), replies, clock)
        service._leader._ttl_factor = lambda: factor
        ask = asker(await model.served(ttl_s=ttl_s, stale_s=stale_s, keep_s=keep_s))
        await service.handle([ask()])
        await service.idle()

    asyncio.run(check())
    if ttl_s == 0:
        assert lives == []
    else:
        [lived] = lives
        exact = ttl_s * 1000 * factor + max(stale_s, keep_s) * 1000
        assert lived >= 1
        assert abs(lived - exact) <= 1.5


def damaged(value: bytes, kind: int, at: int) -> bytes:
    """A value with something wrong: a bit, its end, its beginning, its format, or everything."""
    at %= len(value)
    return [
        value[:at] + bytes([value[at] ^ 1 << at % 8]) + value[at + 1 :],
        value[:at],
        value[at:] if at else b"?",
        bytes([1 + at % 3]) + value[1:],
        bytes(at * 7 % 256 for at in range(len(value))),
    ][kind]


@given(kind=st.integers(0, 4), at=st.integers(0, 10_000))
def test_a_damaged_value_is_counted_and_never_served(kind: int, at: int) -> None:
    """Flipped, cut, shifted, of an older format, or no value at all: the model is asked, and nobody notices."""

    async def check() -> None:
        house = await House.built()
        [first] = await house.reply()
        [name] = [name for name in house.cache._values if name.endswith(":v")]
        value = house.cache._values[name][0]
        bad = damaged(value, kind, at)
        if bad[:1] in (b"\0", b"\6", b"\7") or not bad:  # a mark, not a value
            return
        await house.cache.put(name, bad, 60_000)
        [reply] = await house.reply(at=1)
        assert reply.outcome.body == first.outcome.body
        assert reply.status.encoded == b"responder; fwd=miss; stored"
        assert house.odd == ["unusable_value"]

    asyncio.run(check())


async def test_an_answer_under_another_s_name_is_counted_and_never_served() -> None:
    """And an answer of an older generation is a miss like any other."""
    house = await House.built()
    await house.reply()
    await house.reply(text="b")
    (one, (value_1, _)), (other, (value_2, _)) = ((n, v) for n, v in house.cache._values.items() if n.endswith(":v"))
    await house.cache.put(one, value_2, 60_000)
    await house.cache.put(other, value_1, 60_000)
    assert await house.kind() == "miss"
    assert house.odd == ["unusable_value"]
    entry = Entry(0, 2**50, 0, b"{}")
    digest = value_1[5:21]
    old = encode_entry(digest, b"older...", entry)
    assert generation_of(old) == b"older..."
    await house.cache.put(one, old, 60_000)
    assert await house.kind() == "miss"
    assert house.odd == ["unusable_value"]
    assert beside_name(one, Part.REFRESH) not in house.cache._values
