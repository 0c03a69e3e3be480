"""Checks that a predictor can be served; if not, the error names the line to change."""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter

from prediction_responder.model.answer import MAX_TTL_S, Answer
from prediction_schemas.closed_types import LossySchema, check_schema
from prediction_schemas.wire import RESERVED_MODELS

_SETTING_INSTEAD = frozenset({"stale_s", "keep_s"})  # None means the setting
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class InvalidPredictor(TypeError):
    """A predictor that cannot be served; the message names the line to change."""


def problem_with_name(name: str) -> str | None:
    """Why a model cannot have this name; None if it can."""
    if _NAME.fullmatch(name) and name not in RESERVED_MODELS:
        return None
    return f"name {name!r} must be 1 to 100 of A-Z a-z 0-9 . _ -, begin with a letter or digit, and not be 'dead'"


def where_is(target: Callable[..., Any]) -> str:
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return getattr(target, "__qualname__", repr(target))


def predict_function(target: Callable[..., Any], where: str) -> Callable[..., Any]:
    if not inspect.isclass(target):
        return target
    predict: Callable[..., Any] | None = getattr(target, "predict", None)
    if predict is None or not callable(predict):
        msg = f"{where}: class {target.__name__} has no method `predict(self, input: Model) -> Output`"
        raise InvalidPredictor(msg)
    return predict


def check_options(
    where: str,
    name: Any,
    version: Any,
    *,
    timeout_s: Any,
    concurrency: Any,
    seconds: Mapping[str, Any],
) -> None:
    bad_type = _problem_with_types(name, version, {**seconds, "timeout_s": timeout_s}, concurrency)
    if bad_type is not None:
        msg = f"{where}: @predictor: {bad_type}"
        raise InvalidPredictor(msg)
    bad_name = problem_with_name(name)
    wrong = [option for option, value in seconds.items() if value is not None and not 0 <= value <= MAX_TTL_S]
    if bad_name is not None:
        problem = bad_name
    elif not version or len(version) > 100 or not version.isprintable():
        problem = f"version {version!r} must be 1 to 100 printable characters"
    elif wrong:
        problem = f"{wrong[0]} must be 0 or more seconds, and at most ten years, not {seconds[wrong[0]]!r}"
    elif not 0 < timeout_s < float("inf"):
        problem = f"timeout_s must be above 0, not {timeout_s!r}"
    elif concurrency is not None and concurrency < 1:
        problem = f"concurrency must be 1 or more, not {concurrency!r}"
    else:
        return
    msg = f"{where}: @predictor: {problem}"
    raise InvalidPredictor(msg)


def _problem_with_types(name: Any, version: Any, seconds: Mapping[str, Any], concurrency: Any) -> str | None:
    """Which option has a value of a wrong type, and what to write."""
    if not isinstance(name, str):
        return f"name must be a string, not {name!r}"
    if not isinstance(version, str):
        return f'version must be a string: write version="{version}"'
    for option, value in seconds.items():
        optional = option in _SETTING_INSTEAD
        if isinstance(value, timedelta):
            return f"{option} is a number of seconds: write {option}={value.total_seconds():g}"
        if isinstance(value, bool) or not (isinstance(value, int | float) or (optional and value is None)):
            return f"{option} must be a number of seconds, not {value!r}"
    if concurrency is not None and (isinstance(concurrency, bool) or not isinstance(concurrency, int)):
        return f"concurrency must be a whole number, not {concurrency!r}"
    return None


def paths_of(artefacts: Any, where: str) -> tuple[Path, ...]:
    """The files of the option `artefacts`: one path, or several."""
    several = artefacts if isinstance(artefacts, Iterable) and not isinstance(artefacts, str | bytes) else [artefacts]
    paths = list(several)
    wrong = [one for one in paths if not isinstance(one, str | PathLike)]
    if wrong:
        msg = f"{where}: @predictor: artefacts must be paths, not {wrong[0]!r}"
        raise InvalidPredictor(msg)
    return tuple(map(Path, paths))


def is_method(target: Callable[..., Any]) -> bool:
    """Whether it is a class whose `predict` is called on an instance, which is its first parameter."""
    return inspect.isclass(target) and inspect.isfunction(inspect.getattr_static(target, "predict", None))


def check_signature(
    function: Callable[..., Any], where: str, *, is_method: bool
) -> tuple[type[BaseModel], TypeAdapter[Any]]:
    example = f"`def {function.__name__}(features: Features) -> Price:`"
    parameters = list(inspect.signature(function).parameters.values())[1 if is_method else 0 :]
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        msg = f"{where}: {error}; its annotations must name types that exist at module level"
        raise InvalidPredictor(msg) from error
    if len(parameters) != 1 or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        msg = f"{where}: {function.__name__} must take exactly one positional parameter, as in {example}"
        raise InvalidPredictor(msg)
    input_type = hints.get(parameters[0].name)
    if not (inspect.isclass(input_type) and issubclass(input_type, BaseModel)):
        msg = f"{where}: annotate `{parameters[0].name}` with a pydantic model, as in {example}"
        raise InvalidPredictor(msg)
    if "return" not in hints:
        msg = f"{where}: annotate what {function.__name__} returns, as in {example}"
        raise InvalidPredictor(msg)
    try:
        check_schema(input_type)
        return input_type, TypeAdapter(_without_answer(hints["return"]))
    except LossySchema as error:
        msg = f"{where}: {error}"
        raise InvalidPredictor(msg) from error
    except PydanticSchemaGenerationError as error:
        msg = f"{where}: pydantic cannot validate the return type {hints['return']!r}; return a pydantic model"
        raise InvalidPredictor(msg) from error


def _without_answer(annotation: Any) -> Any:
    """`Answer[Price]` and `Price | Answer[Price]` both declare the output `Price`."""
    if get_origin(annotation) is Answer:
        return get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return Union[tuple(_without_answer(argument) for argument in get_args(annotation))]  # noqa: UP007 - built at run time
    return annotation
