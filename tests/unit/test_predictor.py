"""What a model's owner writes, and what is refused with the line to change."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from prediction_responder import Answer, InvalidPredictor, Predictor, predictor
from prediction_responder.model.discovery import check_predictors
from tests.fakes import Echo, Question


def refused(make: Callable[[], Any]) -> str:
    """Why it was refused."""
    with pytest.raises(InvalidPredictor) as error:
        make()
    return str(error.value)


def test_defaults_are_the_documented_ones() -> None:
    """Name from the function, 64 calls at once on the loop, 4 in threads, 60 s to live, 30 s to answer."""

    @predictor()
    async def first(question: Question) -> Echo: ...  # type: ignore[empty-body]

    @predictor()
    def second(question: Question) -> Echo: ...  # type: ignore[empty-body]

    assert (first.name, first.version, first.ttl_s, first.timeout_s) == ("first", "1", 60.0, 30.0)
    assert (first.is_async, first.permits) == (True, 64)
    assert (second.is_async, second.permits) == (False, 4)


def test_a_decorated_function_is_still_the_function() -> None:
    """Unit tests of a model call it as it is."""

    @predictor()
    def model(question: Question) -> Echo:
        return Echo(text=question.text)

    assert model(Question(text="a")) == Echo(text="a")


def test_answer_in_the_return_annotation_declares_what_it_holds() -> None:
    """`Answer[Echo]` and `Echo | Answer[Echo]` both declare Echo."""

    @predictor()
    def only(question: Question) -> Answer[Echo]: ...  # type: ignore[empty-body]

    @predictor()
    def either(question: Question) -> Echo | Answer[Echo]: ...  # type: ignore[empty-body]

    assert only.encode(Echo(text="a")) == either.encode({"text": "a"}) == b'{"text":"a"}'


def test_wrong_signatures_are_refused_with_the_line_to_change() -> None:
    """File, line, and how it should look."""

    def no_parameter() -> Echo: ...  # type: ignore[empty-body]
    def two_parameters(one: Question, two: Question) -> Echo: ...  # type: ignore[empty-body]
    def plain_dict(features: dict[str, Any]) -> Echo: ...  # type: ignore[empty-body]
    def no_return(question: Question): ...  # type: ignore[no-untyped-def]
    def odd_return(question: Question) -> "threading_lock": ...  # type: ignore[name-defined]  # noqa: F821

    class NoPredict: ...

    assert "exactly one positional parameter" in refused(lambda: predictor()(no_parameter))
    assert "exactly one positional parameter" in refused(lambda: predictor()(two_parameters))
    assert "annotate `features` with a pydantic model" in refused(lambda: predictor()(plain_dict))
    assert "annotate what no_return returns" in refused(lambda: predictor()(no_return))
    assert "threading_lock" in refused(lambda: predictor()(odd_return))
    assert "has no method `predict" in refused(lambda: predictor()(NoPredict))
    assert "test_predictor.py:" in refused(lambda: predictor()(no_parameter))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "with space"},
        {"name": "dead"},
        {"name": "x" * 101},
        {"version": ""},
        {"ttl_s": -1},
        {"ttl_s": float("inf")},
        {"timeout_s": 0},
        {"concurrency": 0},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    """Naming the option."""

    def model(question: Question) -> Echo: ...  # type: ignore[empty-body]

    assert next(iter(options)) in refused(lambda: predictor(**options)(model))


def test_an_answer_lives_for_a_finite_time() -> None:
    """Nothing is immortal."""
    for ttl_s in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="ttl_s"):
            Answer(1, ttl_s=ttl_s)


def test_the_decorator_needs_no_brackets() -> None:
    """`@predictor` is `@predictor()`, on functions and on classes."""

    @predictor
    async def plain(question: Question) -> Echo:
        return Echo(text=question.text)

    @predictor
    class Shout:
        def predict(self, question: Question) -> Echo:
            return Echo(text=question.text.upper())

    assert (plain.name, plain.ttl_s, plain.is_async) == ("plain", 60.0, True)
    assert Shout.name == "Shout"  # type: ignore[attr-defined] # mypy ignores class decorators
    assert Shout().predict(Question(text="a")) == Echo(text="A")


def test_a_predictor_checks_itself_however_it_is_made() -> None:
    """By the decorator or by its class: the same defaults, and the same errors."""

    def model(question: Question) -> Echo:
        return Echo(text=question.text)

    def untyped(question): ...  # type: ignore[no-untyped-def]

    made = Predictor(model, artefacts="weights.json")
    assert (made.name, made.permits, made.files) == ("model", 4, (Path("weights.json"),))
    assert made(Question(text="a")) == Echo(text="a")
    assert "ttl_s must be 0 or more" in refused(lambda: Predictor(model, ttl_s=-1))
    assert "annotate `question` with a pydantic model" in refused(lambda: Predictor(untyped))


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"version": 3}, 'write version="3"'),
        ({"ttl_s": timedelta(minutes=1)}, "write ttl_s=60"),
        ({"ttl_s": "60"}, "ttl_s must be a number of seconds, not '60'"),
        ({"ttl_s": True}, "ttl_s must be a number of seconds, not True"),
        ({"ttl_s": None}, "ttl_s must be a number of seconds, not None"),
        ({"stale_s": "1"}, "stale_s must be a number of seconds, not '1'"),
        ({"timeout_s": None}, "timeout_s must be a number of seconds, not None"),
        ({"concurrency": 2.5}, "concurrency must be a whole number, not 2.5"),
        ({"concurrency": True}, "concurrency must be a whole number, not True"),
        ({"artefacts": 7}, "artefacts must be paths, not 7"),
        ({"artefacts": b"w.json"}, "artefacts must be paths, not b'w.json'"),
        ({"artefacts": [7]}, "artefacts must be paths, not 7"),
        ({"name": 7}, "name must be a string, not 7"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_with_what_to_write(options: dict[str, Any], advice: str) -> None:
    """And with the line."""

    def model(question: Question) -> Echo: ...  # type: ignore[empty-body]

    message = refused(lambda: predictor(**options)(model))
    assert advice in message
    assert message.startswith(__file__)


def test_what_is_no_predictor_is_refused_where_it_is_served() -> None:
    """A class without the decorator, and two predictors of one name."""

    @predictor
    def model(question: Question) -> Echo: ...  # type: ignore[empty-body]

    with pytest.raises(InvalidPredictor, match="Question is not a predictor; decorate it with @predictor"):
        check_predictors([model, Question])
    with pytest.raises(InvalidPredictor, match="two predictors are named 'model'"):
        check_predictors([model, model])
