"""An input is validated once for its key and its call, and a call's permit comes back once, whatever happens."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from prediction_responder import predictor
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.execution.port import Execution, ModelTimeout
from prediction_responder.execution.room import WaitingRoom
from prediction_responder.execution.served import ServedModel, execution_of
from prediction_responder.messages import Input, Key
from tests.fakes import Clock, Echo, Notes, Question, Replies, asker, served, serving
from tests.real import until


class Counted(BaseModel):
    """An input that counts its validations."""

    text: str

    @field_validator("text")
    @classmethod
    def _count(cls, text: str) -> str:
        validated.append(text)
        return text


validated: list[str] = []


async def test_a_miss_validates_its_input_once_and_the_model_gets_that_very_object() -> None:
    """Those who join have it validated for their own keys only once per body; a hit validates nothing."""
    given: list[int] = []

    @predictor
    async def echo(question: Counted) -> Echo:
        given.append(id(question))
        return Echo(text=question.text)

    validated.clear()
    replies, notes = Replies(), Notes()
    model = await served(echo)
    service = serving(MemoryCache(), replies, Clock(), observer=notes)
    ask = asker(model)
    first = ask("a")
    key: Key = model.key_of(first)
    value = first.value
    assert isinstance(value, Counted)
    assert validated == ["a"]
    again = ask("a")
    assert model.key_of(again) == key
    assert again.value is None  # the body was seen before
    await service.handle([ask("b"), ask("b"), ask("b")])
    await service.idle()
    assert validated == ["a", "b"]
    await service.handle([ask("b")])
    assert validated == ["a", "b"]
    assert replies.kinds()[-1] == "hit"
    assert notes.started == [("echo", 3)]
    assert notes.ended == ["echo"]


async def test_a_further_call_gets_a_fresh_copy() -> None:
    """A model may change what it is given."""
    model = await served(predictor(name="echo")(plain))
    taken = Input(b'{"text": "a"}', Question(text="a"))
    first = taken.take(model.read)
    first.text = "changed"
    second, third = taken.take(model.read), taken.take(model.read)
    assert second == third == Question(text="a")
    assert len({id(first), id(second), id(third)}) == 3


def plain(question: Question) -> Echo:
    """A blocking model."""
    return Echo(text=question.text)


async def test_a_waiting_room_is_first_in_first_out_and_forgets_those_who_leave() -> None:
    """A cancelled wait takes no permit, and none is lost."""
    room, order = WaitingRoom(1), list[int]()

    async def call(number: int) -> None:
        await room.enter()
        order.append(number)

    await room.enter()
    assert room.is_busy
    waiting = [asyncio.ensure_future(call(number)) for number in range(4)]
    await until(lambda: len(room) == 4)
    waiting[1].cancel()
    for _ in range(3):
        room.leave()
        await asyncio.sleep(0)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [0, 2, 3]
    assert len(room) == 0
    room.leave()
    assert not room.is_busy


GATE = threading.Event()


def raises(_question: Question) -> Echo:
    """At once."""
    raise ValueError


def exits(_question: Question) -> Echo:
    """At once."""
    raise SystemExit


def hangs(_question: Question) -> Echo:
    """Until the test ends it."""
    GATE.wait(10)
    return Echo(text="late")


async def hangs_too(_question: Question) -> Echo:
    """Until it is cancelled."""
    await asyncio.Event().wait()
    return Echo(text="never")


async def cancels(_question: Question) -> Echo:
    """Itself."""
    raise asyncio.CancelledError


@pytest.mark.parametrize("target", [plain, raises, exits, hangs, hangs_too, cancels])
async def test_every_ending_of_a_call_is_told_once(target: Callable[..., Any]) -> None:
    """Also of one that was abandoned, when its thread comes to an end; never before the model has ended."""
    GATE.clear()
    execution: Execution = execution_of(predictor(name="echo", timeout_s=0.05)(target))
    await execution.load()
    told: list[str] = []
    try:
        await execution.call([Question(text="a")], lambda: told.append("start"), lambda: told.append("end"))
    except ModelTimeout:
        assert target in (hangs, hangs_too)
    except Exception:  # noqa: BLE001 - each model ends in its own way
        assert target not in (plain, hangs)
    if target is hangs:
        assert told == ["start"]
        GATE.set()
    await until(lambda: told == ["start", "end"])
    await execution.close()
    assert told == ["start", "end"]


async def test_a_call_that_cannot_start_gives_its_permit_back() -> None:
    """The threads are gone, because the responder stops."""
    model: ServedModel = await served(predictor(name="echo", concurrency=1)(plain))
    await model.close()
    for _ in range(3):
        outcome = await model.answer(Input(b'{"text": "a"}'), lambda: None)
        assert outcome.code is not None
    assert not model.is_busy
