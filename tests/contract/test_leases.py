"""What every lease store promises: the steps of the protocol, each atomic, and what they tell to whom."""

import asyncio
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from prediction_responder.cache import (
    CacheRefused,
    Claimed,
    Commit,
    Held,
    LeaseStore,
    Place,
    Slot,
)
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.push import PUSH_MAX_BYTES
from prediction_responder.cache.redis import RedisCache, UnsuitableCache
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.value import CoolDown, LeaseMark, start_id
from tests.marks import ANSWER, DIGEST, GENERATION, OURS, THEIRS, Both, answer, ending
from tests.real import own_redis, until


class Heard:
    """What an inbox was told."""

    def __init__(self, store: LeaseStore) -> None:
        self.pushes: list[bytes] = []
        self.gaps = 0
        store.listen(self.pushes.append, self._gap)

    def _gap(self) -> None:
        self.gaps += 1


async def test_one_of_all_who_claim_leads(stores: Both, place: Place) -> None:
    """The others find its mark; who repeats a claim finds its own, so that a lost reply costs nothing."""
    one, other = stores
    assert await one.claim(place, OURS, 5000) == Claimed(None)
    assert await other.claim(place, THEIRS, 5000) == Claimed(OURS)
    assert await one.claim(place, OURS, 5000) == Claimed(OURS)


async def test_a_lease_ends_by_itself(stores: Both, place: Place) -> None:
    """Of a holder that has died nothing is left."""
    await stores[0].claim(place, OURS, 30)
    async with asyncio.timeout(5):
        while (await stores[1].claim(place, THEIRS, 60_000)).found == OURS:
            pass


async def test_a_value_is_stored_and_pushed_to_those_who_registered(stores: Both, place: Place) -> None:
    """With the key's digest and the leader's token before it; to nobody else, and once."""
    one, other = stores
    heard, silent = Heard(other), Heard(one)
    await one.claim(place, OURS, 5000)
    left_ms = await other.register(place, OURS, 20_000)
    assert left_ms is not None
    assert 0 < left_ms <= 5000
    assert await one.commit(ending(place))
    assert await other.get_many([place.name]) == [b"value"]
    await until(lambda: heard.pushes == [b"V" + DIGEST + b"o" * 16 + b"value"])
    assert await other.claim(place, THEIRS, 5000) == Claimed(b"value")
    assert silent.pushes == []


async def test_who_comes_to_register_too_late_is_told_so(stores: Both, place: Place) -> None:
    """The holder has ended, or another one leads: look again."""
    one, other = stores
    assert await other.register(place, OURS, 20_000) is None
    await one.claim(place, OURS, 5000)
    assert await other.register(place, THEIRS, 20_000) is None
    await one.commit(ending(place))
    assert await other.register(place, OURS, 20_000) is None


async def test_a_large_value_is_announced_and_not_pushed(stores: Both, place: Place) -> None:
    """A pub/sub client that is sent too much is thrown out by Redis. One that is not kept is laid beside."""
    one, other = stores
    heard = Heard(other)
    for size in (PUSH_MAX_BYTES, PUSH_MAX_BYTES + 1):
        await one.claim(place, OURS, 5000)
        await other.register(place, OURS, 20_000)
        await one.commit(ending(place, b"x" * size, 0))
    await until(lambda: len(heard.pushes) == 2)
    assert [push[:1] for push in heard.pushes] == [b"V", b"H"]
    assert [len(push) for push in heard.pushes] == [33 + PUSH_MAX_BYTES, 33]
    assert await other.get_many([beside_name(place.name, Part.HANDED_OVER)]) == [b"x" * (PUSH_MAX_BYTES + 1)]
    await one.claim(place, OURS, 5000)
    await other.register(place, OURS, 20_000)
    await one.commit(ending(place, b"x" * (PUSH_MAX_BYTES + 1)))
    await until(lambda: len(heard.pushes) == 3)
    assert heard.pushes[2] == b"P" + DIGEST + b"o" * 16


async def test_what_must_not_be_kept_is_handed_over_and_leaves_nothing(stores: Both, place: Place) -> None:
    """No value, no lease."""
    one, other = stores
    heard = Heard(other)
    await one.claim(place, OURS, 5000)
    await other.register(place, OURS, 20_000)
    assert await one.commit(ending(place, ttl_ms=0))
    await until(lambda: len(heard.pushes) == 1)
    assert await other.get_many([place.name]) == [None]


@pytest.mark.parametrize("there", [THEIRS, b"newer value"])
async def test_a_commit_changes_nothing_once_something_else_stands_there(
    stores: Both, place: Place, there: bytes
) -> None:
    """The late leader is fenced: the newer value or lease stays, and nobody is told."""
    one, other = stores
    heard = Heard(other)
    await one.claim(place, OURS, 5000)
    await other.register(place, OURS, 20_000)
    await other.put(place.name, there, 60_000)
    assert not await one.commit(ending(place))
    assert await one.get_many([place.name]) == [there]
    await one.get_many([place.name])
    assert heard.pushes == []


async def test_a_commit_into_an_empty_place_stands(stores: Both, place: Place) -> None:
    """Redis has lost the lease, and nobody has claimed since."""
    assert await stores[0].commit(ending(place))
    assert await stores[1].get_many([place.name]) == [b"value"]


async def test_a_renewal_keeps_a_lease_and_puts_back_a_lost_one(stores: Both, place: Place) -> None:
    """And says so when another one stands there."""
    here, other = stores
    lost, taken = (
        Place(place.name.replace("{a}", "{b}"), Slot.VALUE),
        Place(place.name.replace("{a}", "{c}"), Slot.REFRESH),
    )
    await here.claim(place, OURS, 200)
    await other.claim(taken, THEIRS, 5000)
    assert await here.renew([Held(one, OURS, b"") for one in (place, lost, taken)], 60_000) == [True, True, False]
    assert (await other.claim(lost, THEIRS, 5000)).found == OURS
    left_ms = await other.register(place, OURS, 20_000)
    assert left_ms is not None
    assert left_ms > 5000
    assert await here.renew([], 5000) == []


async def test_a_key_that_was_invalidated_ends_every_lease_that_was_claimed_before(stores: Both, place: Place) -> None:
    """In its place and beside it: no commit and no renewal stands, whatever was stored or expired since."""
    one, other = stores
    heard, beside = Heard(other), Place(place.name, Slot.REFRESH)
    for where in (place, beside):
        await one.claim(where, OURS, 60_000)
        await other.register(where, OURS, 60_000)
        one.write_starts(where, [start_id(b"replica1"), start_id(b"replica2")], 60_000)
    assert not await other.fence(place.name)
    assert await one.renew([Held(place, OURS, b""), Held(beside, OURS, b"")], 5000) == [False, False]
    assert not await one.commit(ending(place))
    assert not await one.commit(ending(beside))
    assert await other.get_many([place.name]) == [None]
    assert heard.pushes == []
    claimed = await other.claim(place, OURS, 5000)
    assert (claimed.found, claimed.starts, len(claimed.fence)) == (None, (), 8)
    assert await other.renew([Held(place, OURS, claimed.fence)], 5000) == [True]
    assert await other.commit(ending(place, ANSWER, fence=claimed.fence))
    assert await one.fence(place.name)
    assert await one.get_many([place.name]) == [None]


async def test_a_take_over_replaces_exactly_what_was_seen(stores: Both, place: Place) -> None:
    """Of two who saw the same, one wins; a value is compared by its beginning."""
    one, other = stores
    seen = b"value of an old generation" * 10
    await one.put(place.name, seen, 60_000)
    assert await one.take_over(place, seen, OURS, 5000)
    assert not await other.take_over(place, seen, THEIRS, 5000)
    assert await other.get_many([place.name]) == [OURS]


async def test_a_refresh_leaves_the_value_until_it_is_replaced(stores: Both, place: Place) -> None:
    """It leads beside the value; it is fenced when its own mark is gone, even though the value is nobody's."""
    one, other = stores
    new = answer(b"new")
    heard, beside = Heard(other), Place(place.name, Slot.REFRESH)
    await one.put(place.name, ANSWER, 60_000)
    assert (await one.claim(beside, OURS, 5000)).found is None
    assert (await other.claim(beside, THEIRS, 5000)).found == OURS
    await other.register(beside, OURS, 20_000)
    assert await other.get_many([place.name]) == [ANSWER]
    assert await one.commit(ending(beside, new))
    await until(lambda: heard.pushes == [b"V" + DIGEST + b"o" * 16 + new])
    assert await other.get_many([place.name]) == [new]
    assert not await one.commit(ending(beside, b"late"))
    assert await other.get_many([place.name]) == [new]
    assert (await other.claim(beside, THEIRS, 5000)).found is None


async def test_a_refresh_begins_only_beside_the_value_that_was_seen(stores: Both, place: Place) -> None:
    """Who saw the one before it is too late: the answer has been replaced, or is gone."""
    one, other = stores
    beside = Place(place.name, Slot.REFRESH)
    assert (await one.claim(beside, OURS, 5000, ANSWER)).moved
    await one.put(place.name, ANSWER, 60_000)
    assert (await one.claim(beside, OURS, 5000, answer(b"another")[:53])).moved
    assert (await one.claim(beside, OURS, 5000, ANSWER[:5])).found is None
    there = await other.claim(beside, THEIRS, 5000, ANSWER)
    assert (there.found, there.moved) == (OURS, False)
    assert 0 < there.left_ms <= 5000


async def test_a_value_outlives_its_refresh(stores: Both, place: Place, soon_ms: int) -> None:
    """Who finds no value would begin a call of its own beside the one that refreshes it. A mark is not prolonged."""
    one, other = stores
    beside = Place(place.name, Slot.REFRESH)
    await one.put(place.name, ANSWER, soon_ms)
    await one.claim(beside, OURS, 60_000, ANSWER)
    await other.put(f"{place.name}2", b"x", soon_ms + 10)
    async with asyncio.timeout(5):
        while await other.get_many([f"{place.name}2"]) != [None]:
            pass
    assert await other.get_many([place.name]) == [ANSWER]
    await one.put(place.name, ANSWER, soon_ms)
    await other.put(f"{place.name}2", b"x", soon_ms + 10)
    assert await one.renew([Held(beside, OURS, b"")], 60_000) == [True]
    async with asyncio.timeout(5):
        while await other.get_many([f"{place.name}2"]) != [None]:
            pass
    assert await other.get_many([place.name]) == [ANSWER]
    await one.put(place.name, THEIRS, soon_ms)
    assert await one.renew([Held(beside, OURS, b"")], 60_000) == [True]
    async with asyncio.timeout(5):
        while await other.get_many([place.name]) != [None]:
            pass


async def test_a_value_that_is_not_replaced_ends_as_it_was_to(stores: Both, place: Place, soon_ms: int) -> None:
    """Refreshes that come to nothing do not keep it for ever."""
    one, other = stores
    beside = Place(place.name, Slot.REFRESH)
    soon = answer(kept_until_ms=round(time.time() * 1000) + soon_ms)
    await one.put(place.name, soon, soon_ms)
    await one.claim(beside, OURS, 60_000, soon)
    assert await one.commit(ending(beside, b"error", 0))
    async with asyncio.timeout(5):
        while await other.get_many([place.name]) != [None]:
            pass
    await one.put(place.name, ANSWER, 60_000)
    await one.claim(beside, OURS, 5_000, ANSWER)
    assert await one.commit(ending(beside, b"error", 0))
    assert await other.get_many([place.name]) == [ANSWER]


async def test_a_refresh_of_an_older_generation_stores_nothing(stores: Both, place: Place) -> None:
    """Its model was invalidated: neither the new answer nor the lease of who works on it gives way."""
    one, other = stores
    beside = Place(place.name, Slot.REFRESH)
    for there in (answer(generation=b"G" * 8), LeaseMark(b"G" * 8, b"t" * 16).encoded):
        heard = Heard(other)
        await one.put(place.name, ANSWER, 60_000)
        await one.claim(beside, OURS, 5000, ANSWER)
        await other.register(beside, OURS, 20_000)
        await other.put(place.name, there, 60_000)
        assert not await one.commit(ending(beside, answer(b"late")))
        assert await other.get_many([place.name]) == [there]
        assert (await other.claim(beside, THEIRS, 5000)).found is None
        await other.commit(Commit(Held(beside, THEIRS, b""), b"", 0, b"P", DIGEST))
        await until(lambda heard=heard: heard.pushes[:1] == [b"V" + DIGEST + b"o" * 16 + answer(b"late")])  # type: ignore[misc]


async def test_a_claim_sees_what_stands_beside_the_value(stores: Both, place: Place) -> None:
    """A refresh whose value has gone: somebody is at work."""
    one, other = stores
    await one.claim(Place(place.name, Slot.REFRESH), OURS, 5000)
    claimed = await other.claim(place, THEIRS, 5000)
    assert (claimed.found, claimed.beside) == (None, OURS)


async def test_what_a_commit_leaves_behind_stands_in_its_place(stores: Both, place: Place) -> None:
    """For as long as it says; failures are counted until one comes to a good end, or the key is invalidated."""
    one, other = stores
    later = CoolDown(GENERATION, 9).encoded
    await one.claim(place, OURS, 5000)
    assert await one.commit(ending(place, b"error", 0, mark=later, mark_ms=60_000, failures=b"one"))
    found = await other.claim(place, THEIRS, 5000)
    assert (found.found, found.failures) == (later, b"one")
    await one.take_over(place, later, OURS, 5000)
    assert await one.commit(ending(place, ANSWER, failures=b""))
    beside = Place(place.name, Slot.REFRESH)
    assert (await one.claim(beside, OURS, 5000, ANSWER)).failures == b""
    assert await one.commit(ending(beside, b"error", 0, mark=later, mark_ms=30, failures=b"two"))
    assert await other.get_many([place.name]) == [ANSWER]
    async with asyncio.timeout(5):
        while (found := await other.claim(beside, THEIRS, 5000, ANSWER)).found is not None:
            assert found.found == later
    assert found.failures == b"two"
    await one.fence(place.name)
    assert (await one.claim(place, OURS, 5000)).failures == b""


async def test_an_invalidated_key_has_nothing_to_hand_over(stores: Both, place: Place) -> None:
    """What was laid beside for those who wait goes too."""
    one, other = stores
    await one.claim(place, OURS, 5000)
    await other.register(place, OURS, 20_000)
    await one.commit(ending(place, b"x" * (PUSH_MAX_BYTES + 1), 0))
    assert await other.get_many([beside_name(place.name, Part.HANDED_OVER)]) != [None]
    await one.fence(place.name)
    assert await other.get_many([beside_name(place.name, Part.HANDED_OVER)]) == [None]


async def test_starts_are_counted_until_one_comes_to_an_end(stores: Both, place: Place) -> None:
    """And beyond it when the end says nothing about the input."""
    one, other = stores
    await one.claim(place, OURS, 60_000)
    one.write_starts(place, [start_id(b"replica1"), start_id(b"replica2")], 60_000)
    assert (await one.claim(place, OURS, 5000)).starts == (start_id(b"replica1"), start_id(b"replica2"))
    await one.commit(ending(place, ttl_ms=0, clear_attempts=False))
    assert (await other.claim(place, OURS, 5000)).starts == (start_id(b"replica1"), start_id(b"replica2"))
    await one.commit(ending(place, ttl_ms=0))
    assert (await other.claim(place, OURS, 5000)).starts == ()


async def test_who_comes_too_late_has_come_to_an_end_as_well(stores: Both, place: Place) -> None:
    """An input whose leaders are slow, and fenced one after the other, is none that kills them."""
    one, other = stores
    await one.claim(place, OURS, 60_000)
    one.write_starts(place, [start_id(b"replica1"), start_id(b"replica2")], 60_000)
    await other.put(place.name, THEIRS, 60_000)
    assert not await one.commit(ending(place))
    assert await other.claim(place, THEIRS, 5000) == Claimed(THEIRS)


async def test_deaths_of_replicas_are_remembered_for_a_while(stores: Both, place: Place) -> None:
    """Once each, for everybody in the namespace; those of long ago no more."""
    one, other = stores
    one.write_deaths(place.name, [start_id(b"replica1")], 1_000)
    one.write_deaths(place.name, [start_id(b"replica2"), start_id(b"replica3")], 5_000)
    await one.get_many([place.name])
    assert await other.deaths(place.name, 1_000) == {
        start_id(b"replica1"),
        start_id(b"replica2"),
        start_id(b"replica3"),
    }
    other.write_deaths(place.name, [start_id(b"replica2")], 9_000)
    assert await other.deaths(place.name, 5_001) == {start_id(b"replica2")}
    assert await one.deaths(f"elsewhere.{place.name}", 0) == set()


@pytest.mark.servers
async def test_a_redis_that_has_forgotten_the_scripts_is_told_them_again(servers: Servers, namespace: str) -> None:
    """One round trip more, once; the neighbours in a pipeline included."""
    async with (
        RedisLink(servers.redis_url, timeout_s=2.0) as link,
        RedisCache(servers.redis_url, timeout_s=2.0, inbox=namespace) as cache,
    ):
        places = [Place(f"{namespace}{{{number}}}:v", Slot.VALUE) for number in range(10)]
        for one in places:
            await cache.claim(one, OURS, 5000)
        await link.ask("SCRIPT", "FLUSH")
        with pytest.raises(CacheRefused, match="NOSCRIPT"):  # repeated later, by those who still hold something
            await cache.renew([Held(one, OURS, b"") for one in places], 5000)
        assert await cache.renew([Held(one, OURS, b"") for one in places], 5000) == [True] * 10
        await link.ask("SCRIPT", "FLUSH")
        assert await asyncio.gather(*(cache.register(one, OURS, 5000) for one in places)) != [None] * 10
        await link.ask("SCRIPT", "FLUSH")
        assert await asyncio.gather(*(cache.commit(ending(one)) for one in places)) == [True] * 10


@pytest.mark.servers
async def test_a_full_or_read_only_redis_still_reads(tmp_path: Path) -> None:
    """A claim that may not write finds what is there, one that finds nothing says why, and who waits is told."""
    with own_redis(tmp_path) as redis:
        async with (
            RedisLink(redis.url, timeout_s=2.0) as link,
            RedisCache(redis.url, timeout_s=2.0, inbox="1") as one,
            RedisCache(redis.url, timeout_s=2.0, inbox="2") as other,
        ):
            heard = Heard(other)
            there, gone, led = (Place(f"{{{name}}}:v", Slot.VALUE) for name in "abc")
            await one.put(there.name, b"value", 60_000)
            await one.claim(led, OURS, 60_000)
            await other.register(led, OURS, 60_000)
            await link.ask("CONFIG", "SET", "maxmemory", "1mb", "maxmemory-policy", "noeviction")
            assert (await one.claim(there, OURS, 5000)).found == b"value"
            with pytest.raises(CacheRefused) as refused:
                await one.claim(gone, OURS, 5000)
            assert refused.value.code == "OOM"
            [ended] = await asyncio.gather(one.commit(ending(led)), return_exceptions=True)
            # Redis 8 takes what replaces something.
            assert ended is True or (isinstance(ended, CacheRefused) and ended.code == "OOM")
            kept = b"value" if ended is True else None
            assert await one.get_many([led.name]) == [kept]
            await until(lambda: [push[:1] for push in heard.pushes] == [b"V"])
            await link.ask("CONFIG", "SET", "maxmemory", "0")
            await link.ask("REPLICAOF", "127.0.0.1", "1")
            assert (await one.claim(there, OURS, 5000)).found == b"value"
            with pytest.raises(CacheRefused) as refused:
                await one.claim(gone, OURS, 5000)
            assert refused.value.code == "READONLY"
            await link.ask("REPLICAOF", "NO", "ONE")
            await link.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            assert (await one.claim(there, OURS, 5000)).found == b"value"
            with pytest.raises(CacheRefused) as refused:
                await one.claim(gone, OURS, 5000)
            assert refused.value.code == "NOREPLICAS"


@pytest.mark.servers
async def test_a_redis_that_evicts_leases_first_is_refused(tmp_path: Path) -> None:
    """With what to change; the other policies are welcome."""
    with own_redis(tmp_path) as redis:
        async with RedisLink(redis.url, timeout_s=2.0) as link:
            await link.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
            with pytest.raises(UnsuitableCache, match="allkeys-lru"):
                async with RedisCache(redis.url, timeout_s=2.0, inbox="1"):
                    pass
            await link.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            async with RedisCache(redis.url, timeout_s=2.0, inbox="1") as cache:
                assert cache.is_up


@pytest.mark.servers
async def test_an_inbox_that_was_cut_says_that_something_may_be_missing(tmp_path: Path) -> None:
    """And hears again; so does one whose Redis was silent for a while."""
    with own_redis(tmp_path) as redis:
        async with (
            RedisLink(redis.url, timeout_s=0.2) as link,
            RedisCache(redis.url, timeout_s=0.2, inbox="1") as cache,
        ):
            heard = Heard(cache)
            await link.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await until(lambda: heard.gaps == 1)
            redis.freeze()
            await until(lambda: cache.problem, timeout_s=3)
            redis.thaw()
            await until(lambda: heard.gaps == 2)
            await link.ask("PUBLISH", "1", b"V" * 40)
            await until(lambda: heard.pushes == [b"V" * 40])


@pytest.mark.servers
async def test_a_user_who_may_not_use_client_gets_the_replies_that_are_his(tmp_path: Path) -> None:
    """What is not waited for is sent without CLIENT REPLY SKIP then: no reply is taken for another's."""
    with own_redis(tmp_path) as redis:
        async with RedisLink(redis.url, timeout_s=2.0) as link:
            await link.ask("ACL", "SETUSER", "ann", "on", ">word", "~*", "&*", "+@all", "-client")
        async with RedisCache(redis.url.replace("//", "//ann:word@"), timeout_s=2.0) as cache:
            place = Place("{a}:v", Slot.VALUE)
            await cache.put(place.name, b"value", 60_000)
            for attempts in range(5):
                cache.write_starts(place, [start_id(b"replica1")] * attempts, 60_000)
                assert await cache.get_many([place.name, "none"]) == [b"value", None]
                assert len((await cache.claim(place, OURS, 5000)).starts) == attempts
