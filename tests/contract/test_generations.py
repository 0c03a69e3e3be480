"""What every store promises of generations, and of looking at an answer without touching it."""

from prediction_responder.cache import Inspected, Place, Slot
from prediction_responder.cache.generation import read_generation
from prediction_responder.cache.value import start_id
from prediction_responder.messages import Key
from tests.marks import ANSWER, DIGEST, GENERATION, HOUR_MS, OURS, THEIRS, Both, ending


async def test_all_settle_on_one_generation(stores: Both, namespace: str) -> None:
    """The first proposal. What stands there in another format, from an older version, counts as none."""
    one, other = stores
    name = f"{namespace}pr:generation:a"
    first = await one.settle_generation(name, b"1" * 8)
    assert await other.settle_generation(name, b"2" * 8) == first
    record = read_generation(first)
    assert record is not None
    assert (record.current, record.previous, record.until_ms) == (b"1" * 8, bytes(8), 0)
    assert record.at_ms > 0
    old = f"{namespace}pr:generation:old"
    await one.put(old, b"8 bytes.", HOUR_MS)
    assert (await other.settle_generation(old, b"3" * 8))[1:9] == b"3" * 8


async def test_a_generation_is_replaced_by_a_later_one(stores: Both, namespace: str) -> None:
    """It knows the one before. What was never asked has none, and gets none."""
    one, other = stores
    name = f"{namespace}pr:generation:a"
    assert not await one.renew_generation(name, b"1" * 8)
    before = read_generation(await one.settle_generation(name, b"1" * 8))
    for token in (b"2" * 8, b"3" * 8):
        assert await other.renew_generation(name, token)
        after = read_generation((await one.get_many([name]))[0])
        assert before is not None
        assert after is not None
        assert (after.current, after.previous) == (token, before.current)
        assert after.at_ms > before.at_ms
        before = after


async def test_the_models_of_a_namespace_are_those_that_were_asked(stores: Both, namespace: str) -> None:
    """Whatever signs its name has, and none of another namespace."""
    one, other = stores
    prefix = f"{namespace}[*?]^\\pr:generation:"
    for model in ("b", "a"):
        await one.settle_generation(f"{prefix}{model}", b"1" * 8)
    await one.settle_generation(f"{namespace}xxx^\\pr:generation:c", b"1" * 8)
    assert await other.generation_names(prefix) == [f"{prefix}a", f"{prefix}b"]
    assert await other.generation_names(f"{namespace}nobody") == []


async def test_everything_under_the_names_of_an_answer_can_be_inspected(stores: Both, place: Place) -> None:
    """And looking changes nothing."""
    one, other = stores
    key = Key(DIGEST, place.name, f"{place.name[:-5]}generation")
    assert await other.inspect(key) == Inspected(None, None, 0, None, 0, (), b"", 0)
    record = await one.settle_generation(key.generation_name, GENERATION)
    await one.claim(place, OURS, 5000)
    one.write_starts(place, [start_id(b"replica1")], 60_000)
    await other.register(place, OURS, 20_000)
    for _ in range(2):
        seen = await other.inspect(key)
        assert (seen.generation, seen.value, seen.refresh, seen.waiting) == (record, OURS, None, 1)
        assert (seen.starts, seen.refresh_left_ms) == ((start_id(b"replica1"),), 0)
        assert 0 < seen.left_ms <= 5000
    await one.commit(ending(place, ANSWER, HOUR_MS, failures=b"3 failures"))
    beside = Place(place.name, Slot.REFRESH)
    await one.claim(beside, THEIRS, 5000, ANSWER[:57])
    seen = await other.inspect(key)
    assert (seen.value, seen.refresh, seen.failures, seen.waiting, seen.starts) == (
        ANSWER,
        THEIRS,
        b"3 failures",
        0,
        (),
    )
    assert 0 < seen.refresh_left_ms <= 5000 < seen.left_ms
