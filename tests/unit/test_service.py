"""The service: a batch of requests in, answers out."""

import asyncio
from collections.abc import Sequence

import pytest

from prediction_responder import Answer, InvalidInput, Unavailable, predictor
from prediction_responder.cache import CacheRefused, Claimed, Place
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.model.predictor import AnyPredictor
from prediction_schemas import Directives, Failure, decode_reply
from tests.fakes import BrokenCache, Clock, Echo, GatedModel, Question, Replies, asker, served, serving


class House:
    """A service with a gated model, a cache that can break, and a clock that the test holds."""

    def __init__(self, pending: int = 100) -> None:
        self.clock = Clock()
        self.inner = MemoryCache(clock=self.clock)
        self.cache = BrokenCache(self.inner)
        self.replies = Replies()
        self.service = serving(self.cache, self.replies, self.clock, pending)
        self.model = GatedModel()


async def test_a_miss_calls_the_model_and_a_repetition_does_not() -> None:
    """The second answer comes from the cache, with its age and the freshness that is left."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor(ttl_s=10)))
    await house.service.handle([ask()])
    await house.replies.wait_for(1)
    house.clock.now += 4
    await house.service.handle([ask()])
    first, second = await house.replies.wait_for(2)
    assert house.model.calls == ["a"]
    assert first.outcome.body == second.outcome.body == b'{"result":{"text":"a"}}'
    assert (first.status.encoded, second.status.encoded) == (
        b"responder; fwd=miss; stored",
        b"responder; hit; ttl=6",
    )
    assert second.outcome.age_s == 4


async def test_an_expired_answer_is_asked_for_again() -> None:
    """A time to live ends."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor(ttl_s=10)))
    for _ in range(2):
        await house.service.handle([ask()])
        await house.service.idle()
        house.clock.now += 10
    assert house.model.calls == ["a", "a"]


async def test_identical_requests_of_one_batch_and_of_later_ones_share_one_call() -> None:
    """One call, and every reply but the leader's says that it was collapsed."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask() for _ in range(500)])
    await house.model.begun.wait()
    await house.service.handle([ask() for _ in range(500)])
    house.model.gate.set()
    await house.replies.wait_for(1000)
    assert house.model.calls == ["a"]
    assert set(house.replies.bodies()) == {b'{"result":{"text":"a"}}'}
    assert sorted(set(house.replies.kinds())) == ["collapsed", "miss"]
    assert house.replies.kinds().count("miss") == 1


async def test_a_late_look_up_finds_what_landed_in_between() -> None:
    """A misses; B stores and lands; A begins a flight and must look again inside it instead of calling the model."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor()))

    class Slow(BrokenCache):
        """Holds the first look-up's answer, a miss, until the value has been stored by another."""

        async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
            found = await super().get_many(names)
            await stored.wait()
            return found

    stored = asyncio.Event()
    slow = serving(Slow(house.inner.beside()), house.replies, house.clock)
    late = asyncio.create_task(slow.handle([ask()]))
    await asyncio.sleep(0)
    await house.service.handle([ask()])
    await house.replies.wait_for(1)
    stored.set()
    await late
    await house.replies.wait_for(2)
    assert house.model.calls == ["a"]
    assert house.replies.kinds() == ["miss", "hit"]


async def test_a_request_that_is_already_late_never_reaches_the_cache_or_the_model() -> None:
    """Expired work costs nothing."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask(timeout_s=0)])
    assert house.replies.codes() == ["DEADLINE_EXCEEDED"]
    assert house.model.calls == []
    assert house.cache.asked == 0


async def test_a_waiter_whose_deadline_passes_leaves_alone_and_the_answer_is_stored() -> None:
    """The impatient one gets its error; the patient one its answer; the work goes on."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask(timeout_s=0.01), ask(timeout_s=10)])
    await house.replies.wait_for(1)
    assert house.replies.codes() == ["DEADLINE_EXCEEDED"]
    house.model.gate.set()
    await house.replies.wait_for(2)
    await house.service.handle([ask()])
    assert house.replies.codes() == ["DEADLINE_EXCEEDED", "ok", "ok"]
    assert house.model.calls == ["a"]


async def test_work_that_waits_for_a_permit_is_dropped_with_its_last_waiter() -> None:
    """Deadlines drop what has not started."""
    house = House()
    ask = asker(await served(house.model.predictor(concurrency=1)))
    await house.service.handle([ask("running"), ask("waiting", timeout_s=0.01)])
    await house.replies.wait_for(1)
    house.model.gate.set()
    await house.service.idle()
    assert house.model.calls == ["running"]


async def test_a_cache_that_is_down_costs_no_answer() -> None:
    """Down at the look-up, down at the store, and back again."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor()))
    house.cache.is_down = True
    await house.service.handle([ask()])
    await house.replies.wait_for(1)
    house.cache.is_down = False
    for _ in range(2):
        await house.service.handle([ask()])
        await house.service.idle()
    assert house.replies.codes() == ["ok", "ok", "ok"]
    assert house.replies.kinds() == ["miss", "miss", "hit"]


async def test_one_broken_request_of_a_batch_hurts_no_neighbour() -> None:
    """Each gets what it deserves."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask("a"), ask(body=b"{"), ask(body=b'{"text": 1}'), ask("b")])
    await house.replies.wait_for(4)
    assert sorted(house.replies.codes()) == ["INVALID_ARGUMENT", "INVALID_ARGUMENT", "ok", "ok"]


async def test_tenants_models_and_versions_never_share_an_answer() -> None:
    """One body, five askers who must not meet: five calls; and the memo, warmed by each, mixes none of them."""
    house = House()
    house.model.gate.set()
    one = asker(await served(house.model.predictor()))
    other_version = asker(await served(house.model.predictor(version="2")))
    other_model = asker(await served(house.model.predictor(name="echo2")))
    for _ in range(2):
        requests = [one(), one(tenant=b"t1"), one(tenant=b"t2"), other_version(), other_model()]
        await house.service.handle(requests)
        await house.service.idle()
    assert len(house.model.calls) == 5
    assert house.replies.kinds()[5:] == ["hit"] * 5


@pytest.mark.parametrize(
    ("directives", "kinds"),
    [
        (Directives(no_cache=True), ["miss", "request"]),
        (Directives(no_store=True), ["miss", "hit"]),
        (Directives(no_cache=True, no_store=True), ["miss", "bypass"]),
        (Directives(max_age_s=3), ["miss", "request"]),
        (Directives(max_age_s=4), ["miss", "hit"]),
        (Directives(only_if_cached=True), ["miss", "hit"]),
        (Directives(only_if_cached=True, max_age_s=3), ["miss", "none"]),
        (Directives(only_if_cached=True, no_cache=True), ["miss", "none"]),
    ],
)
async def test_directives_decide_whether_a_four_seconds_old_answer_is_used(
    directives: Directives, kinds: list[str]
) -> None:
    """RFC 9111's request directives, on an answer that is fresh for ten seconds."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor(ttl_s=10)))
    await house.service.handle([ask()])
    await house.service.idle()
    house.clock.now += 4
    await house.service.handle([ask(directives=directives)])
    await house.service.idle()
    assert house.replies.kinds() == kinds


async def test_no_store_keeps_nothing_and_joins_nobody() -> None:
    """Its call is its own."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask(), ask(directives=Directives(no_store=True))])
    house.model.gate.set()
    await house.service.idle()
    assert house.model.calls == ["a", "a"]
    assert sorted(house.replies.kinds()) == ["bypass", "miss"]


async def test_no_cache_joins_only_a_flight_that_began_after_it_was_received() -> None:
    """A flight in the air may carry knowledge that is older than the question."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask()])
    await house.model.begun.wait()
    fresh = Directives(no_cache=True)
    await house.service.handle([ask(directives=fresh), ask(directives=fresh)])
    house.model.gate.set()
    await house.service.idle()
    assert house.model.calls == ["a", "a"]
    assert house.replies.kinds().count("collapsed") == 1


async def test_only_if_cached_is_412_on_a_miss_and_asks_no_model() -> None:
    """RFC 9111's 504 would be taken for a deadline."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask(directives=Directives(only_if_cached=True))])
    assert house.replies.codes() == ["CACHE_MISS"]
    assert house.model.calls == []


async def test_too_many_distinct_misses_are_429_with_a_hint() -> None:
    """Followers of a flight in the air are still welcome: they cost nothing."""
    house = House(pending=2)
    ask = asker(await served(house.model.predictor()))
    await house.service.handle([ask("a"), ask("b"), ask("c"), ask("a")])
    assert house.replies.codes() == ["RESOURCE_EXHAUSTED"]
    hint = house.replies.all[0].outcome.retry_after_ms
    assert hint is not None
    assert hint >= 1
    house.model.gate.set()
    await house.service.idle()
    assert sorted(house.replies.codes()) == ["RESOURCE_EXHAUSTED", "ok", "ok", "ok"]


@pytest.mark.parametrize(
    ("answer", "stored"),
    [
        (Answer(Echo(text="a"), ttl_s=5), True),
        (Answer(Echo(text="a"), store=False), False),
        (Answer(Echo(text="a"), ttl_s=0), False),
        (Echo(text="a"), True),
    ],
)
async def test_an_answer_says_how_long_it_lives(answer: Answer[Echo] | Echo, stored: bool) -> None:  # noqa: FBT001
    """`Answer` overrules the predictor's time to live."""
    house = House()

    @predictor(name="chosen")
    async def chosen(question: Question) -> Echo | Answer[Echo]:
        return answer

    ask = asker(await served(chosen))
    for _ in range(2):
        await house.service.handle([ask()])
        await house.service.idle()
    assert house.replies.kinds() == ["miss", "hit" if stored else "miss"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InvalidInput("text: too dull", field="text"), "INVALID_ARGUMENT", "text: too dull"),
        (Unavailable(retry_after_s=1.5), "UNAVAILABLE", "the model is not available now"),
        (ZeroDivisionError("secret"), "MODEL_ERROR", "the model failed on this input"),
        (SystemExit(3), "MODEL_ERROR", "the model failed on this input"),
        (asyncio.CancelledError(), "MODEL_ERROR", "the model failed on this input"),
        (TimeoutError("its own"), "MODEL_ERROR", "the model failed on this input"),
    ],
)
async def test_every_way_in_which_a_model_fails_is_a_reply(error: BaseException, code: str, message: str) -> None:
    """No exception of a model goes further than its requesters, and no secret of it goes that far."""
    house = House()

    @predictor(name="failing")
    async def failing(question: Question) -> Echo:
        raise error

    ask = asker(await served(failing))
    await house.service.handle([ask(), ask()])
    await house.replies.wait_for(2)
    for body in house.replies.bodies():
        failure = decode_reply(body)
        assert isinstance(failure, Failure)
        assert (failure.code, failure.message) == (code, message)
    assert house.replies.all[0].outcome.retry_after_ms == (1500 if code == "UNAVAILABLE" else None)


@predictor(name="anything")
async def anything(question: Question) -> object:
    """Returns what no strict JSON can hold."""
    return {"nan": float("nan"), "surrogate": "\ud800", "object": object()}[question.text]


@predictor(name="typed")
async def typed(question: Question) -> Echo:
    """Returns what its own annotation does not allow."""
    made: Echo = {"int": Echo.model_construct(text=3), "dict": {"txt": "a"}}[question.text]  # type: ignore[assignment,arg-type]
    return made


@pytest.mark.parametrize(
    ("model", "output"),
    [(anything, "nan"), (anything, "surrogate"), (anything, "object"), (typed, "int"), (typed, "dict")],
)
async def test_an_output_that_is_not_valid_strict_json_is_model_output_invalid(
    model: AnyPredictor, output: str
) -> None:
    """NaN, a lone surrogate and a wrong type never reach a requester."""
    house = House()
    await house.service.handle([asker(await served(model))(output)])
    await house.service.idle()
    assert house.replies.codes() == ["MODEL_OUTPUT_INVALID"]


async def test_a_model_that_is_too_slow_is_504_and_its_permit_comes_back() -> None:
    """The model's own limit ends a call."""
    house = House()
    ask = asker(await served(house.model.predictor(timeout_s=0.01, concurrency=1)))
    await house.service.handle([ask("a", timeout_s=5)])
    await house.replies.wait_for(1)
    assert house.replies.codes() == ["DEADLINE_EXCEEDED"]
    assert house.model.running == 0
    house.model.gate.set()
    await house.service.handle([ask("b")])
    await house.replies.wait_for(2)
    assert house.replies.codes()[1] == "ok"


async def test_an_answer_over_the_limit_is_413() -> None:
    """It would close the channel of a broker with a smaller limit."""
    house = House()
    house.model.gate.set()
    ask = asker(await served(house.model.predictor(), max_reply_bytes=64))
    await house.service.handle([ask("x" * 100)])
    await house.service.idle()
    assert house.replies.codes() == ["PAYLOAD_TOO_LARGE"]


async def test_hand_back_returns_what_has_not_started_and_stops_its_timers() -> None:
    """While draining: nothing that was handed back is answered as well."""
    house = House()
    ask = asker(await served(house.model.predictor(concurrency=1)))
    running, waiting = ask("running"), ask("waiting")
    await house.service.handle([running, waiting])
    await house.model.begun.wait()
    timer = waiting.timer
    assert timer is not None
    assert house.service.hand_back(started=False) == [waiting]
    assert timer.cancelled()
    house.model.gate.set()
    await house.service.idle()
    assert [reply.request for reply in house.replies.all] == [running]


async def test_while_the_cache_refuses_writes_requests_still_share_a_call() -> None:
    """Full, read-only, or without the right to a script: look-ups are answered, claims are not."""
    house = House()
    ask = asker(await served(house.model.predictor()))
    house.model.gate.set()
    await house.service.handle([ask("warm")])
    await house.service.idle()
    house.model.gate.clear()

    class Refusing(BrokenCache):
        """Takes no writes."""

        async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
            raise CacheRefused("OOM command not allowed")

    house.cache.inner = Refusing(house.inner)
    calls = len(house.model.calls)
    for number in range(10):
        await house.service.handle([ask()])
        if number == 0:
            house.model.begun.clear()
            await house.model.begun.wait()
    house.model.gate.set()
    await house.replies.wait_for(11)
    assert len(house.model.calls) == calls + 1
    assert house.replies.codes() == ["ok"] * 11


async def test_a_late_answer_comes_though_the_look_up_fails() -> None:
    """Whatever it raises: the request is answered with its error."""
    house = House()

    class Odd(BrokenCache):
        """Fails in a way that no cache has."""

        async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
            raise RuntimeError("a bug")

    ask = asker(await served(house.model.predictor()))
    request = ask(directives=Directives(stale_if_error_s=60), timeout_s=0.05)
    await house.service.handle([request])
    house.cache.inner = Odd(house.inner)
    await house.replies.wait_for(1)
    assert house.replies.codes() == ["DEADLINE_EXCEEDED"]
    house.model.gate.set()
    await house.service.idle()
