"""Inputs that depend on when they are read: key and call come from one object, and no answer is of another moment."""

import json
import random
import uuid
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from prediction_client.testing import answering
from prediction_responder import InvalidPredictor, exclude_from_key, predictor
from prediction_responder.model.predictor import AnyPredictor
from tests.fakes import Echo, asker, served
from tests.house import House

TODAY = [date(2026, 11, 25)]


class Day(BaseModel):
    """An output."""

    city: str
    day: date


class ByFactory(BaseModel):
    """A day that is today's, if it is not given."""

    city: str
    day: date = Field(default_factory=lambda: TODAY[0])


class ByValidator(BaseModel):
    """The same, by a validator."""

    city: str
    day: date | None = Field(default=None, validate_default=True)

    @field_validator("day")
    @classmethod
    def _resolve(cls, day: date | None) -> date:
        return day or TODAY[0]


class ByModelValidator(BaseModel):
    """The same, by a validator of the whole."""

    city: str
    day: date | None = None

    @model_validator(mode="after")
    def _resolve(self) -> "ByModelValidator":
        self.day = self.day or TODAY[0]
        return self


class Inner(BaseModel):
    """Nested."""

    day: date = Field(default_factory=lambda: TODAY[0])


class Nested(BaseModel):
    """The factory is deeper, in a list."""

    city: str
    when: list[Inner] = []


def forecast(kind: type[BaseModel], ttl_s: float = 600) -> AnyPredictor:
    """A model that says for which day it was asked."""

    async def model(asked: Any) -> Day:
        day = asked.when[0].day if isinstance(asked, Nested) else asked.day
        return Day(city=asked.city, day=day)

    model.__annotations__["asked"] = kind
    return predictor(name="forecast", ttl_s=ttl_s)(model)


@pytest.mark.parametrize(
    ("kind", "left_out", "given"),
    [
        (ByFactory, {"city": "Bern"}, lambda day: {"city": "Bern", "day": day}),
        (Nested, {"city": "Bern", "when": [{}]}, lambda day: {"city": "Bern", "when": [{"day": day}]}),
    ],
)
async def test_a_default_of_the_moment_is_resolved_once_for_each_request(
    kind: type[BaseModel], left_out: dict[str, Any], given: Any
) -> None:
    """On the next day the same bytes are another question; who names a day gets that day's answer, from the cache."""
    TODAY[0] = date(2026, 11, 25)
    async with answering(forecast(kind)) as client:
        for day in (25, 26, 27):
            TODAY[0] = date(2026, 11, day)
            first, again = [await client.ask("forecast", left_out) for _ in range(2)]
            assert first.value["day"] == again.value["day"] == f"2026-11-{day}"
            assert again.cache_status.hit
        for day in (25, 26, 27):
            named = await client.ask("forecast", given(f"2026-11-{day}"))
            assert (named.value["day"], named.cache_status.hit) == (f"2026-11-{day}", True)


@pytest.mark.parametrize("kind", [ByValidator, ByModelValidator])
async def test_a_validator_that_looks_at_a_clock_is_found_at_the_next_miss(
    kind: type[BaseModel], caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is stored under the key of what the model was given. From then on such bytes are read each time."""
    TODAY[0] = date(2026, 11, 25)
    async with answering(forecast(kind, ttl_s=0)) as client:
        assert (await client.predict("forecast", {"city": "Bern"}))["day"] == "2026-11-25"
        TODAY[0] = date(2026, 11, 26)
        assert (await client.predict("forecast", {"city": "Bern"}))["day"] == "2026-11-26"
    assert "input_changes" in caplog.text


async def test_a_model_whose_validator_looks_at_a_clock_is_named_once_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not once for each of its inputs: requests must not fill the log."""
    cities = ("Bern", "Basel", "Chur")
    async with answering(forecast(ByValidator, ttl_s=0)) as client:
        for day in (25, 26):
            TODAY[0] = date(2026, 11, day)
            for city in cities:
                assert (await client.predict("forecast", {"city": city}))["day"] == f"2026-11-{day}"
    assert [record.message.count("input_changes") for record in caplog.records].count(1) == 1


@pytest.mark.parametrize("kind", [ByValidator, ByModelValidator])
async def test_after_that_miss_every_such_request_is_read_anew(kind: type[BaseModel]) -> None:
    """The answer of one day is never given on another day."""
    house, model = House(), await served(forecast(kind, ttl_s=10))
    ask = asker(model)

    async def day(**given: str) -> str:
        request = ask(body=json.dumps({"city": "Bern", **given}).encode())
        await house.services[0].handle([request])
        await house.services[0].idle()
        answer: str = json.loads(house.reply_to(request).outcome.body)["result"]["day"]
        return answer

    TODAY[0] = date(2026, 11, 25)
    assert await day() == "2026-11-25"
    house.clock.now += 20
    TODAY[0] = date(2026, 11, 26)
    assert await day() == "2026-11-26"
    assert await day(day="2026-11-25") == "2026-11-25"
    TODAY[0] = date(2026, 11, 27)
    assert await day() == "2026-11-27"
    assert await day(day="2026-11-26") == "2026-11-26"


def test_a_default_that_is_another_one_each_time_is_refused_at_the_start() -> None:
    """With the field and what to do; not if it is out of the key, or if it needs other fields."""

    class Id(BaseModel):
        text: str
        request_id: str = Field(default_factory=lambda: str(uuid.uuid4()))

    class Deep(BaseModel):
        items: list[Id]

    class Salted(BaseModel):
        salt: float = Field(default_factory=random.random)

    for kind in (Id, Deep, Salted):
        with pytest.raises(InvalidPredictor, match=r"default_factory gives another value each time.*exclude_from_key"):
            make(kind)

    class Excluded(BaseModel):
        text: str
        request_id: str = Field(default_factory=lambda: str(uuid.uuid4()), json_schema_extra=exclude_from_key())
        tags: list[str] = Field(default_factory=list)
        more: dict[str, int] = Field(default_factory=lambda: {"a": 1})

    make(Excluded)


def make(kind: type[BaseModel]) -> AnyPredictor:
    """A predictor of this input."""

    def model(asked: Any) -> Echo:
        return Echo(text="a")

    model.__annotations__["asked"] = kind
    return predictor(name="made")(model)
