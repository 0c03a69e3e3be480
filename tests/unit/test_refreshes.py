"""Refreshes among requests, invalidations and drains: nobody is given what he must not have, nothing runs twice."""

import asyncio
import threading

import pytest

from prediction_responder import Answer, InvalidInput, Unavailable, predictor
from prediction_responder.cache import CacheRefused, CacheUnavailable, Claimed, Commit, Place, Slot
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.memory import MemoryCache
from prediction_schemas import Directives
from tests.fakes import BrokenCache, Echo, GatedModel, Question, asker, served
from tests.house import TTL_S, House, settle

NO_CACHE = Directives(no_cache=True)


async def built(**options: object) -> House:
    """A house whose answers say in which call they were computed."""
    house = await House.built(options)
    house.model.numbers = True
    return house


async def refreshing(house: House, at: int = 1) -> asyncio.Event:
    """Have an answer that will be stale in a second, and a refresh of it in the air; what ends that."""
    await house.reply()
    house.clock.now += 9
    gate = house.model.gate = asyncio.Event()
    await house.services[at].handle([house.ask()])
    await house.model.called(2)
    return gate


@pytest.mark.parametrize("there", [True, False])
async def test_no_cache_does_not_board_a_flight_that_may_follow_an_older_one(there: bool) -> None:  # noqa: FBT001
    """A plain request of the same batch waits for a call of another replica that had begun half a second before."""
    house = await built()
    if there:
        gate = await refreshing(house)
    else:
        gate = house.model.gate = asyncio.Event()
        await house.services[1].handle([house.ask()])
        await house.model.called(1)
    begun = house.model.calls
    house.clock.now += 0.5
    wanted = house.ask(directives=NO_CACHE)
    await house.services[0].handle([house.ask(), wanted])
    await settle()
    gate.set()
    await house.idle()
    assert house.reply_to(wanted).outcome.body == b'{"result":{"text":"call %d"}}' % (begun + 1)


@pytest.mark.parametrize("ahead_ms", [-500, 0, 500])
async def test_no_cache_trusts_no_clock(ahead_ms: int) -> None:
    """What is there was computed before, whatever the clock of the replica says that computed it."""
    house = await built()
    house.clocks[1].ahead_ms = ahead_ms
    await house.reply(at=1)
    house.clock.now += 0.3
    assert await house.kind(NO_CACHE) == "request"
    assert house.model.calls == 2


async def test_max_age_never_gets_the_answer_that_it_refused() -> None:
    """The refresh that it waits for ends with nothing: it begins one itself."""
    house = await built()
    await refreshing(house)
    wanted = house.ask(directives=Directives(max_age_s=3))
    await house.services[0].handle([wanted])
    await settle()
    [lease] = house.services[1]._leader._leases.keeper._held.values()
    house.model.gate = asyncio.Event()
    house.model.gate.set()
    house.services[1]._leader._leases.commits.abandon(lease)
    await house.services[0].idle()
    assert house.reply_to(wanted).outcome.body == b'{"result":{"text":"call 3"}}'


async def test_max_age_does_not_get_it_when_the_push_is_lost_either() -> None:
    """What was to come instead of it is not kept, and nobody has said so."""
    house = await built()
    gate = await refreshing(house)
    wanted = house.ask(directives=Directives(max_age_s=3))
    await house.services[0].handle([wanted])
    await settle()
    house.brittle.listen(lambda _push: None, lambda: None)
    house.model.outcome = lambda: Answer(Echo(text="new"), store=False)
    gate.set()
    async with asyncio.timeout(5):
        await house.idle()
    assert b"call 1" not in house.reply_to(wanted).outcome.body


@pytest.mark.parametrize("computed", [True, False])
async def test_a_refresh_of_an_invalidated_model_replaces_nothing(computed: bool) -> None:  # noqa: FBT001
    """Neither the new generation's answer, nor the lease of who works on it, beside which another would call."""
    house = await built()
    old = await refreshing(house)
    house.invalidate_model()
    new = house.model.gate = asyncio.Event()
    house.model.most = house.model.running = 0
    asked = asyncio.ensure_future(house.reply())
    await house.model.called(3)
    if computed:
        new.set()
        await asked
    old.set()
    await house.services[1].idle()
    again = asyncio.ensure_future(house.reply(at=1))
    await settle()
    assert house.model.calls == 3
    new.set()
    assert (await again)[0].outcome.body == (await asked)[0].outcome.body == b'{"result":{"text":"call 3"}}'


async def test_who_has_waited_in_vain_leads_in_the_generation_of_now() -> None:
    """All was lost (FLUSHALL): in the old generation nobody would see its lease, and others would call the model."""
    house = await built()
    house.model.gate = asyncio.Event()
    asked = [asyncio.ensure_future(house.reply(at=0))]
    await house.model.called(1)
    asked.append(asyncio.ensure_future(house.reply(at=1)))
    await settle()
    house.cache._values.clear()
    house.services[1]._leader._leases.followers.look_again()
    await house.model.called(2)
    asked.append(asyncio.ensure_future(house.reply(at=0)))
    await settle()
    assert house.model.calls == 2
    house.model.gate.set()
    assert {one.outcome.code for replies in await asyncio.gather(*asked) for one in replies} == {None}


async def test_a_flight_of_an_older_generation_is_not_boarded() -> None:
    """Even before its claim: it may follow a call that the invalidation was meant to make useless."""
    house = await built()
    gate = house.model.gate = asyncio.Event()
    await house.services[1].handle([house.ask()])
    await house.model.called(1)
    before, after = house.ask(), house.ask()
    await house.services[0].handle([before])
    house.invalidate_model()
    await house.services[0].handle([after])
    await settle()
    gate.set()
    await house.idle()
    assert b"call 1" not in house.reply_to(after).outcome.body


async def test_who_saw_a_newer_answer_does_not_board_the_refresh_of_the_one_before() -> None:
    """That one began before the key was invalidated."""
    house = await built()
    gate = await refreshing(house, at=0)
    await house.cache.fence(house.name)
    house.model.gate = asyncio.Event()
    house.model.gate.set()
    assert await house.kind(at=1) == "miss"
    house.clock.now += 2
    wanted = house.ask(directives=Directives(max_age_s=0))
    await house.services[0].handle([wanted])
    await settle()
    gate.set()
    await house.idle()
    assert b"call 2" not in house.reply_to(wanted).outcome.body


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("too_late", [True, False])
async def test_stale_if_error_gives_no_invalidated_answer(by_key: bool, too_late: bool) -> None:  # noqa: FBT001
    """What is there when the model has failed, or has taken too long, not what was there when the request came."""
    house = await built(keep_s=60)
    await house.reply()
    house.clock.now += TTL_S + 1
    gate = house.model.gate = asyncio.Event()
    house.model.fails()
    asked = [house.ask(directives=Directives(stale_if_error_s=60), timeout_s=0.05 if too_late else 10)]
    await house.services[0].handle(asked)
    await house.model.called(2)
    if by_key:
        await house.cache.fence(house.name)
    else:
        house.invalidate_model()
    if not too_late:
        gate.set()
    await house.all[0].wait_for(2)
    assert house.all[0].codes()[-1] == ("DEADLINE_EXCEEDED" if too_late else "UNAVAILABLE")
    gate.set()
    await house.idle()


async def test_stale_if_error_is_given_when_the_time_is_over() -> None:
    """And those who did not ask for it get the error; one body for all who wait."""
    house = await built(keep_s=60)
    await house.reply()
    house.clock.now += TTL_S + 1
    gate = house.model.gate = asyncio.Event()
    rather_old = Directives(stale_if_error_s=60)
    asked = [house.ask(directives=one, timeout_s=0.05) for one in (rather_old, rather_old, Directives())]
    await house.services[0].handle(asked)
    await house.all[0].wait_for(4)
    assert sorted(house.all[0].kinds()[1:]) == ["none", "stale", "stale"]
    assert house.all[0].codes().count("DEADLINE_EXCEEDED") == 1
    gate.set()
    await house.idle()
    assert len(house.all[0].all) == 4


@pytest.mark.parametrize("error", [Unavailable(), ZeroDivisionError(), TimeoutError("its own")])
async def test_stale_if_error_holds_for_every_way_of_failing(error: Exception) -> None:
    """503 and 500; not for an input that is refused."""
    house = await built(keep_s=60)
    await house.reply()
    house.clock.now += TTL_S + 1
    house.model.fails(error)
    assert await house.kind(Directives(stale_if_error_s=60)) == "stale"
    house.clock.now += 10
    house.model.fails(InvalidInput("no"))
    assert await house.kind(Directives(stale_if_error_s=60)) == "INVALID_ARGUMENT"


async def test_an_input_that_kills_its_process_is_not_hidden_by_an_old_answer() -> None:
    """Its request is to be dead-lettered, so it is answered with the error."""
    house = await built(keep_s=60)
    await house.reply()
    house.clock.now += TTL_S + 1
    house.cache.write_starts(Place(house.name, Slot.REFRESH), [b"replica%d" % number for number in range(6)], 60_000)
    assert await house.kind(Directives(stale_if_error_s=60)) == "MODEL_CRASHED"


@pytest.mark.parametrize("what", ["store=False", "ttl_s=0", "refused", "too large", "kills", "read-only", "away"])
async def test_a_refresh_that_replaces_nothing_is_not_begun_by_every_hit(what: str) -> None:
    """Fifty requests in one moment: one try."""
    house = await built(stale_s=60, negative_ttl_s=0)
    await house.reply()
    house.clock.now += TTL_S + 1
    tries = 0

    class Counting(MemoryCache):
        """Counts claims, and refuses or fails them when it is to."""

        async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
            nonlocal tries
            tries += 1
            if what == "read-only":
                raise CacheRefused("READONLY")
            if what == "away":
                raise CacheUnavailable("just now")
            return await super().claim(place, mark, lease_ms, seen)

    counting = Counting(clock=house.clock)
    counting._shared = house.cache
    house.brittle.inner = counting

    def outcome() -> object:
        if what == "refused":
            raise InvalidInput("no")
        if what == "too large":
            return Answer(Echo(text="x" * 2**21))
        return Answer(Echo(text="x"), store=False) if what == "store=False" else Answer(Echo(text="x"), ttl_s=0)

    house.model.outcome = outcome
    house.model.numbers = False
    if what == "kills":
        house.cache.write_starts(Place(house.name, Slot.REFRESH), [b"replica%d" % one for one in range(6)], 60_000)
    for _ in range(50):
        assert await house.kind() == "stale"
    assert tries == 1
    assert house.model.calls <= 2
    house.clock.now += 1.1
    await house.kind()
    assert tries == 2


async def test_a_suspect_is_not_tried_for_nobody() -> None:
    """An input that has killed two processes waits for somebody who wants its answer."""
    house = await built(stale_s=60)
    await house.reply()
    house.clock.now += TTL_S + 1
    house.cache.write_starts(Place(house.name, Slot.REFRESH), [b"replica1", b"replica2"], 60_000)
    assert await house.kind() == "stale"
    assert house.model.calls == 1
    assert house.refreshes == ["elsewhere"]


async def test_a_drain_lets_a_refresh_end_whose_thread_cannot_be_stopped() -> None:
    """Its lease stands for as long as it runs, so nobody calls beside it."""
    house, lock, gate = House(), threading.Lock(), threading.Event()
    running = most = calls = 0

    def echo(question: Question) -> Echo:
        nonlocal running, most, calls
        with lock:
            running, calls = running + 1, calls + 1
            most = max(most, running)
        if calls > 1:
            gate.wait(5)
        with lock:
            running -= 1
        return Echo(text=question.text)

    models = [await served(predictor(name="echo", ttl_s=TTL_S)(echo)) for _ in range(2)]
    here, there = map(asker, models)
    await house.services[0].handle([here()])
    await house.services[0].idle()
    house.clock.now += 9
    await house.services[1].handle([there()])
    async with asyncio.timeout(5):
        while calls < 2:  # noqa: ASYNC110 - a thread cannot set an event of the loop
            await asyncio.sleep(0.001)
    assert house.services[1].hand_back(started=False) == []
    await house.services[0].handle([here()])
    await settle()
    gate.set()
    await house.idle()
    for model in models:
        await model.close()
    assert (most, calls) == (1, 2)


async def test_nobody_calls_beside_a_refresh_whose_value_has_gone() -> None:
    """`no-cache` leads beside a call that then keeps nothing: who comes next finds the place empty, and waits."""
    house = await built()
    first = house.model.gate = asyncio.Event()
    await house.services[0].handle([house.ask()])
    await house.model.called(1)
    second = house.model.gate = asyncio.Event()
    await house.services[1].handle([house.ask(directives=NO_CACHE)])
    await house.model.called(2)
    house.model.outcome = lambda: Answer(Echo(text="x"), store=False)
    first.set()
    await house.services[0].idle()
    house.model.outcome = lambda: Echo(text="x")
    plain = house.ask()
    await house.services[0].handle([plain])
    await settle()
    assert house.model.calls == 2
    second.set()
    await house.idle()
    assert house.reply_to(plain).outcome.body == b'{"result":{"text":"call 2"}}'
    assert house.model.calls == 2


async def test_a_value_does_not_live_for_as_long_as_it_is_asked_for() -> None:
    """Refreshes that are not kept do not keep the answer that they were to replace."""
    house = await built(keep_s=5)
    await house.reply()
    house.model.outcome = lambda: Answer(Echo(text="new"), store=False)
    house.clock.now += 8.5
    for _ in range(60):
        await house.kind(Directives(max_stale_s=1000))
        house.clock.now += 0.5
    assert max(reply.outcome.age_s for reply in house.all[0].all) <= TTL_S + 5


async def test_who_takes_a_refresh_over_keeps_the_value_as_well() -> None:
    """A lease of an older generation stands beside the new value, which is about to end."""
    house = await built()
    slow = await refreshing(house)
    beside = beside_name(house.name, Part.REFRESH)
    mark = house.cache._get(beside)
    assert mark is not None
    house.invalidate_model()
    house.model.gate = asyncio.Event()
    house.model.gate.set()
    assert await house.kind() == "miss"
    house.clock.now += TTL_S - 0.3
    house.cache._set(beside, mark, 3000)  # as its keeper does every second
    house.model.gate = asyncio.Event()
    await house.services[0].handle([house.ask(directives=Directives(max_age_s=1))])
    await house.model.called(4)
    house.clock.now += 0.4
    await house.services[1].handle([house.ask()])
    await settle()
    assert house.model.calls == 4
    house.model.gate.set()
    slow.set()
    await house.idle()


async def test_a_cool_down_outlives_the_value_beside_which_it_stood() -> None:
    """And ends with the generation: after an invalidation the model is tried at once."""
    house = await built(keep_s=3)
    await house.reply()
    house.model.fails()
    house.clock.now += TTL_S + 0.1
    for wait_s in (0.26, 0.51, 1.01, 0):
        assert await house.kind() == "UNAVAILABLE"
        house.clock.now += wait_s
    calls = house.model.calls
    house.cache._drop(house.name)
    assert await house.kind() == "UNAVAILABLE"
    assert house.model.calls == calls
    house.model.outcome = lambda: Echo(text="x")
    house.invalidate_model()
    assert await house.kind() == "miss"


async def test_too_large_ends_with_the_generation_too() -> None:
    """What is computed after an invalidation is shared again."""
    house = await House.built(max_stored_bytes=30)
    house.model.outcome = lambda: Echo(text="a" * 1000)
    assert [await house.kind(), await house.kind()] == ["miss", "miss"]
    house.model.outcome = lambda: Echo(text="a")
    house.invalidate_model()
    assert [await house.kind(), await house.kind()] == ["miss", "hit"]


async def test_who_boards_a_refresh_that_another_replica_makes_gets_its_answer() -> None:
    """Of the same batch: a hit begins the refresh, `max-age` boards it, and it turns out to be elsewhere."""
    house = await built()
    gate = await refreshing(house)
    wanted = house.ask(directives=Directives(max_age_s=3))
    await house.services[0].handle([house.ask(), wanted])
    await settle()
    gate.set()
    await house.idle()
    assert house.reply_to(wanted).outcome.body == b'{"result":{"text":"call 2"}}'


async def test_who_boards_a_refresh_gets_an_answer_without_the_cache() -> None:
    """It goes away between the look-up and the claim."""
    house = await built()
    await house.reply()
    house.clock.now += 9
    wanted = house.ask(directives=Directives(max_age_s=3))
    await house.services[0].handle([house.ask(), wanted])
    house.brittle.is_down = True
    await house.idle()
    assert house.reply_to(wanted).outcome.body == b'{"result":{"text":"call 2"}}'


async def test_a_refresh_whose_permit_is_taken_at_the_last_moment_lets_go() -> None:
    """Between its claim and its call a miss comes: it is dropped, and its lease with it."""
    house = await built(concurrency=1)
    await house.reply()
    house.clock.now += 9
    house.model.gate = asyncio.Event()
    await house.services[0].handle([house.ask()])  # its flight has not run yet
    held = house.services[0]._leader._leases.keeper

    class Late(BrokenCache):
        """Answers a claim when a miss has taken the permit."""

        async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
            if place.slot is Slot.REFRESH:
                await house.services[0].handle([house.ask("b")])
                await house.model.called(2)
            return await super().claim(place, mark, lease_ms, seen)

    house.brittle.inner = Late(house.cache)
    await settle()
    assert house.refreshes == ["dropped"]
    assert len(held._held) == 1  # the miss's own
    assert await house.cache.get_many([beside_name(house_name(house, "a"), Part.REFRESH)]) == [None]
    house.model.gate.set()
    await house.idle()


def house_name(house: House, text: str) -> str:
    """Where the answer to a text is."""
    request = house.ask(text)
    return request.model.key_of(request).name


async def test_a_claim_of_a_refresh_that_nobody_heard_is_taken_back() -> None:
    """It was granted, and the reply was lost: those who want the answer do not wait for a lease to end."""
    house = await built()
    await house.reply()
    house.clock.now += 9
    said: list[Commit] = []

    class Deaf(BrokenCache):
        """Grants a claim, and does not say so."""

        async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
            await super().claim(place, mark, lease_ms, seen)
            raise CacheUnavailable("the reply was lost")

        async def commit(self, commit: Commit) -> bool:
            said.append(commit)
            return await super().commit(commit)

    house.brittle.inner = Deaf(house.cache)
    await house.kind()
    await settle()
    assert len(said) == 1
    assert await house.cache.get_many([beside_name(house.name, Part.REFRESH)]) == [None]
    assert await house.kind(Directives(max_age_s=3), at=1) == "request"


async def test_while_another_replica_refreshes_hits_cost_one_claim() -> None:
    """Not one each: it is left alone for as long as that lease stands."""
    house = await built()
    gate = await refreshing(house)
    for _ in range(20):
        await house.services[0].handle([house.ask()])
        await settle()
    assert house.refreshes == ["elsewhere"]
    gate.set()
    await house.idle()
    assert (house.model.calls, house.model.most) == (2, 1)


def test_the_gate_of_a_model_is_open_at_first() -> None:
    """The house's model and the fakes' differ in that."""
    assert House().model.gate.is_set()
    assert not GatedModel().gate.is_set()


async def test_stale_if_error_is_given_instead_of_a_refusal_for_too_much_work() -> None:
    """And without it 429."""
    house = await House.built({"keep_s": 60}, pending=1)
    await house.reply()
    house.clock.now += TTL_S + 1
    house.model.gate.clear()
    await house.services[0].handle([house.ask("b")])
    await house.model.called(2)
    await house.services[0].handle([house.ask(directives=Directives(stale_if_error_s=60)), house.ask()])
    assert house.all[0].kinds()[1:] == ["stale", "none"]
    assert house.all[0].codes()[1:] == ["ok", "RESOURCE_EXHAUSTED"]
    house.model.gate.set()
    await house.idle()


async def test_no_cache_takes_what_was_computed_after_the_call_that_it_has_seen_end() -> None:
    """It waited for the second call, and comes too late for the third, which began and ended since: no fourth."""
    house = await built()
    gate = await refreshing(house)
    wanted = house.ask(directives=NO_CACHE)
    await house.services[0].handle([wanted])
    await settle()
    claims = asyncio.Event()

    class Late(MemoryCache):
        """Claims when it is told to."""

        async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
            await claims.wait()
            return await super().claim(place, mark, lease_ms, seen)

    house.brittle.inner = late = Late(clock=house.clock)
    late._shared = house.cache
    gate.set()
    await house.services[1].idle()
    assert await house.kind(NO_CACHE, at=1) == "request"
    assert house.model.calls == 3
    claims.set()
    await house.idle()
    assert house.reply_to(wanted).outcome.body == b'{"result":{"text":"call 3"}}'
    assert house.model.calls == 3
