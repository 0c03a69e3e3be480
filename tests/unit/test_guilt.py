"""Who has killed a process: an input, or somebody outside."""

import pytest

from prediction_responder.cache import Place, Slot
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.value import start_id
from prediction_responder.execution.served import ServedModel
from prediction_responder.messages import Key
from prediction_schemas import Code
from tests.fakes import BrokenCache, Clock, GatedModel, Replies, asker, served, serving

DEAD = [start_id(b"replica%d" % number) for number in range(9)]


async def ask(cache: MemoryCache, clock: Clock, starts: list[bytes], **options: bool) -> str:
    """Ask for an answer whose model was started in these replicas and never ended; how that ends."""
    model: ServedModel = await served(GatedModel(is_open=True).predictor())
    request, replies, brittle = asker(model)(), Replies(), BrokenCache(cache)
    key: Key = model.key_of(request)
    cache.write_starts(Place(key.name, Slot.VALUE), starts, 60_000)
    brittle.forgets_deaths = options.get("forgets_deaths", False)
    service = serving(brittle, replies, clock)
    await service.handle([request])
    await service.idle()
    return replies.codes()[0]


@pytest.mark.parametrize(
    ("starts", "others", "code"),
    [
        (2, 0, "ok"),
        (3, 0, "MODEL_CRASHED"),
        (3, 1, "ok"),
        (5, 1, "ok"),
        (6, 9, "MODEL_CRASHED"),
    ],
)
async def test_where_others_die_too_it_takes_twice_as_many_deaths_to_tell(starts: int, others: int, code: str) -> None:
    """Three alone; six when processes have died lately that had not this input."""
    cache, clock = MemoryCache(), Clock()
    cache.write_deaths("pr:{", DEAD[-others:] if others else [], clock.now_ms() - 500_000)
    assert await ask(cache, clock, DEAD[:starts]) == code


async def test_deaths_of_long_ago_cast_no_doubt() -> None:
    """Ten minutes."""
    cache, clock = MemoryCache(), Clock()
    cache.write_deaths("pr:{", DEAD[-1:], clock.now_ms() - 700_000)
    assert await ask(cache, clock, DEAD[:3]) == Code.MODEL_CRASHED.name


async def test_those_who_died_are_written_down() -> None:
    """By whoever leads after them, for whoever judges another input."""
    cache, clock = MemoryCache(), Clock()
    assert await ask(cache, clock, DEAD[:2]) == "ok"
    assert await cache.deaths("pr:{", 0) == set(DEAD[:2])


async def test_who_cannot_be_judged_is_not_condemned() -> None:
    """Redis goes away between the claim and the question."""
    cache, clock = MemoryCache(), Clock()
    assert await ask(cache, clock, DEAD[:3], forgets_deaths=True) == "ok"
