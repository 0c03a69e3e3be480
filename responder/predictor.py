"""What a model's owner writes, and how it is found and checked.

    @predictor(name="price", version="3", ttl=5)
    async def price(features: Features) -> Price: ...

A class may take the function's place: `load()` runs once before the first prediction, `predict()` answers,
`close()` runs at the end.
"""

import difflib
import importlib
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from schemas.canonical import LossySchema, check_schema

V = TypeVar("V")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED_NAMES = frozenset({"dead"})


class InvalidPredictor(TypeError):
    """A predictor that cannot be served; the message names the line to change."""


class InvalidInput(Exception):
    """Raised by a model: this input can never be answered. The requester gets 400 INVALID_ARGUMENT.

    Args:
        message: one sentence for the requester.
        field: the input field at fault, if it is one.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class Unavailable(Exception):
    """Raised by a model: not now. The requester gets 503 UNAVAILABLE.

    Args:
        retry_after_s: when trying again may help, in seconds.
    """

    def __init__(self, retry_after_s: float | None = None) -> None:
        super().__init__("the model is not available now")
        self.retry_after_s = retry_after_s


class OutputInvalid(ValueError):
    """What a model returned does not fit its declared output, or is not strict JSON."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[V]):
    """A model's output with its own cache rules.

    Args:
        value: what the model would have returned.
        ttl_s: fresh for this long, instead of the predictor's `ttl`; 0 shares it with those who wait now only.
        store: False keeps it out of the cache.
    """

    value: V
    ttl_s: float | None = None
    store: bool = True

    def __post_init__(self) -> None:
        if self.ttl_s is not None and not 0 <= self.ttl_s < float("inf"):
            msg = f"ttl_s must be 0 or more seconds, not {self.ttl_s!r}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A checked predictor. Calling it calls what was decorated.

    Args:
        name, version: in every key and every reply; a new version never sees an old one's answers.
        ttl_s: how long an answer is fresh; 0 stores nothing.
        timeout_s: how long one model call may take.
        concurrency: how many model calls may run at once in this process.
        artefacts: files whose bytes are part of every key, hashed once after `load`.
    """

    name: str
    version: str
    ttl_s: float
    timeout_s: float
    concurrency: int
    artefacts: tuple[Path, ...]
    input_type: type[BaseModel]
    output: TypeAdapter[Any]
    is_async: bool
    target: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)

    def instantiate(self) -> Any:
        """The object to predict with: a fresh instance of a class, or the function itself."""
        return self.target() if inspect.isclass(self.target) else self.target

    def encode(self, output: Any) -> bytes:
        """The output as strict JSON.

        Raises:
            OutputInvalid: it does not fit the declared type, or holds a NaN, an Infinity or a lone surrogate.
        """
        try:
            plain = self.output.dump_python(self.output.validate_python(output), mode="json")
            # pydantic and orjson write NaN as null; the standard library refuses it.
            return json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            msg = f"{'.'.join(map(str, first['loc'])) or 'output'}: {first['msg']}"
            raise OutputInvalid(msg) from error
        except (ValueError, TypeError) as error:
            msg = f"not strict JSON: {error}"
            raise OutputInvalid(msg) from error


def predictor(
    *,
    name: str | None = None,
    version: str = "1",
    ttl: float = 60.0,
    timeout_s: float = 30.0,
    concurrency: int | None = None,
    artefacts: Sequence[str | Path] = (),
) -> Callable[[Callable[..., Any]], Predictor]:
    """Make a typed function, or a class with a typed `predict`, servable.

    The one parameter is annotated with a pydantic model, the return value with what it returns. Async functions
    run on the event loop (64 at once by default), others in threads (4 at once).

    Args:
        name: the model's name on the wire; the function's name by default.
        version: raise it when equal inputs may get other answers.
        ttl: seconds for which an answer is fresh.
        timeout_s: the model's own limit for one call, in seconds.
        concurrency: calls at once, in one process.
        artefacts: files that the answers depend on.

    Raises:
        InvalidPredictor: names the line to change.
    """

    def decorate(target: Callable[..., Any]) -> Predictor:
        where = _where(target)
        function = _predict_function(target, where)
        is_async = inspect.iscoroutinefunction(function)
        chosen = name or target.__name__
        _check_options(where, chosen, version, ttl, timeout_s, concurrency)
        input_type, output = _check_signature(function, where)
        return Predictor(
            name=chosen,
            version=version,
            ttl_s=float(ttl),
            timeout_s=float(timeout_s),
            concurrency=concurrency or (64 if is_async else 4),
            artefacts=tuple(Path(path) for path in artefacts),
            input_type=input_type,
            output=output,
            is_async=is_async,
            target=target,
        )

    return decorate


def _where(target: Callable[..., Any]) -> str:
    try:
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return getattr(target, "__qualname__", repr(target))


def _predict_function(target: Callable[..., Any], where: str) -> Callable[..., Any]:
    if not inspect.isclass(target):
        return target
    predict: Callable[..., Any] | None = getattr(target, "predict", None)
    if predict is None or not callable(predict):
        msg = f"{where}: class {target.__name__} has no method `predict(self, input: Model) -> Output`"
        raise InvalidPredictor(msg)
    return predict


def _check_options(where: str, name: str, version: str, ttl: float, timeout_s: float, concurrency: int | None) -> None:
    if not _NAME.fullmatch(name) or name in _RESERVED_NAMES:
        problem = f"name {name!r} must be 1 to 100 of A-Z a-z 0-9 . _ - and not 'dead'"
    elif not version or len(version) > 100 or not version.isprintable():
        problem = f"version {version!r} must be 1 to 100 printable characters"
    elif not 0 <= ttl < float("inf"):
        problem = f"ttl must be 0 or more seconds, not {ttl!r}"
    elif not 0 < timeout_s < float("inf"):
        problem = f"timeout_s must be above 0, not {timeout_s!r}"
    elif concurrency is not None and concurrency < 1:
        problem = f"concurrency must be 1 or more, not {concurrency!r}"
    else:
        return
    msg = f"{where}: @predictor: {problem}"
    raise InvalidPredictor(msg)


def _check_signature(function: Callable[..., Any], where: str) -> tuple[type[BaseModel], TypeAdapter[Any]]:
    example = f"`def {function.__name__}(features: Features) -> Price:`"
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
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


def find_predictors(paths: Iterable[str]) -> list[Predictor]:
    """Import predictors by `module:name`, the current folder included.

    Raises:
        InvalidPredictor: one line that says which path is wrong and why.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found = [_find(path) for path in paths]
    for index, one in enumerate(found):
        if any(one.name == other.name for other in found[:index]):
            msg = f"two predictors are named {one.name!r}; give one another name in @predictor(name=...)"
            raise InvalidPredictor(msg)
    return found


def _find(path: str) -> Predictor:
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute:
        msg = f"{path!r}: write it as module:name, e.g. examples.price:price"
        raise InvalidPredictor(msg)
    try:
        module = importlib.import_module(module_name)
    except InvalidPredictor:
        raise
    except ModuleNotFoundError as error:
        msg = f"{path!r}: {error.msg}"
        raise InvalidPredictor(msg) from error
    except Exception as error:
        msg = f"{path!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        raise InvalidPredictor(msg) from error
    value = getattr(module, attribute, None)
    if isinstance(value, Predictor):
        return value
    if value is not None:
        msg = f"{path!r} is not a predictor; decorate it with @predictor()"
        raise InvalidPredictor(msg)
    known = [name for name, one in vars(module).items() if isinstance(one, Predictor)]
    close = difflib.get_close_matches(attribute, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known) or 'no predictors'}"
    msg = f"{path!r}: {module_name} has no {attribute!r}{hint}"
    raise InvalidPredictor(msg)
