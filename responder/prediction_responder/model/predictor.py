"""What a model's owner writes: a function or class with `@predictor`.

    @predictor(name="price", version="3", ttl_s=5)
    async def price(features: Features) -> Price: ...

A class may take the function's place: `load()` runs once before the first prediction, `predict()` answers,
`close()` runs at the end.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from os import PathLike
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pydantic import BaseModel, TypeAdapter, ValidationError

from prediction_responder.model.answer import OutputInvalid
from prediction_responder.model.signature import (
    check_options,
    check_signature,
    is_method,
    paths_of,
    predict_function,
    where_is,
)

P = ParamSpec("P")
R = TypeVar("R")
ASYNC_CONCURRENCY, THREAD_CONCURRENCY = 64, 4


@dataclass(frozen=True, slots=True, eq=False)
class Predictor(Generic[P, R]):
    """A typed function, or a class with a typed `predict`, that can be served. It checks itself when it is made.

    Calling it calls what was decorated, with the same types. Async functions run on the event loop (64 calls at once by
    default), others in threads (4 calls at once).

    Args:
        target: its one parameter is annotated with a pydantic model, and its return value with a type that pydantic
            knows.
        name: the model's name on the wire; the function's name by default.
        version: raise it when equal inputs may get other answers. Name and version are part of every key and reply; a
            new version never gets answers of an old one.
        ttl_s: seconds for which an answer is fresh; 0 stores nothing.
        stale_s: stale-while-revalidate: seconds past the TTL in which a stale answer is served at once and refreshed in
            the background; `RESPONDER_STALE_S` by default.
        keep_s: seconds past the TTL in which an answer is kept for requests with `max-stale` or `stale-if-error`;
            `RESPONDER_KEEP_S` by default, and never less than `stale_s`.
        negative_ttl_s: seconds for which a refusal with `InvalidInput` is cached, so the model is not called again; at
            most `ttl_s`.
        timeout_s: the model's own limit for one call, in seconds.
        concurrency: maximum number of concurrent calls, in one process.
        artefacts: files that the answers depend on. Their bytes are part of every key; they are hashed once after
            `load`.

    Attributes:
        input_type, output: the types of the annotations.
        is_async: whether calls run on the event loop.

    Raises:
        InvalidPredictor: it cannot be served; the message names the line to change.
    """

    target: Callable[P, R]
    name: str = ""
    version: str = "1"
    ttl_s: float = 60.0
    stale_s: float | None = None
    keep_s: float | None = None
    negative_ttl_s: float = 5.0
    timeout_s: float = 30.0
    concurrency: int | None = None
    artefacts: Iterable[str | PathLike[str]] | str | PathLike[str] = ()
    input_type: type[BaseModel] = field(init=False)
    output: TypeAdapter[Any] = field(init=False)
    is_async: bool = field(init=False)
    permits: int = field(init=False)
    files: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        where = where_is(self.target)
        function = predict_function(self.target, where)
        name = self.name or getattr(self.target, "__name__", "")
        check_options(
            where,
            name,
            self.version,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
            seconds={option: getattr(self, option) for option in ("ttl_s", "stale_s", "keep_s", "negative_ttl_s")},
        )
        input_type, output = check_signature(function, where, is_method=is_method(self.target))
        is_async = inspect.iscoroutinefunction(function)
        known = {
            "name": name,
            "input_type": input_type,
            "output": output,
            "is_async": is_async,
            "permits": self.concurrency or (ASYNC_CONCURRENCY if is_async else THREAD_CONCURRENCY),
            "files": paths_of(self.artefacts, where),
        }
        for attribute, value in known.items():
            object.__setattr__(self, attribute, value)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.target(*args, **kwargs)

    def instantiate(self) -> Any:
        """The object to predict with: a fresh instance of a class, or the function itself."""
        target: Callable[..., Any] = self.target
        return target() if inspect.isclass(target) else target

    def encode(self, output: Any) -> bytes:
        """The output as strict JSON.

        Raises:
            OutputInvalid: it does not fit the declared type, or holds a NaN, an Infinity or a lone surrogate.
        """
        try:
            value = self.output.validate_python(output)
            encoded = self.output.dump_json(value, warnings="error")
            # pydantic writes NaN and Infinity as null, as words or as strings, so only such JSON needs a closer look.
            if any(sign in encoded for sign in (b"null", b"NaN", b"Infinity")):
                refuse_non_finite(self.output.dump_python(value))
            return encoded
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            msg = f"{'.'.join(map(str, first['loc'])) or 'output'}: {first['msg']}"
            raise OutputInvalid(msg) from error
        except (ValueError, TypeError) as error:
            msg = f"not strict JSON: {error}"
            raise OutputInvalid(msg) from error


AnyPredictor = Predictor[..., Any]
# mypy ignores class decorators: to it, a decorated class is still a class.
Servable = AnyPredictor | type[Any]


def refuse_non_finite(value: Any) -> None:
    """Raise ValueError for a NaN or an Infinity anywhere in plain Python values."""
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            msg = f"{value} is not a JSON number"
            raise ValueError(msg)
    elif isinstance(value, dict):
        for item in value.values():
            refuse_non_finite(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            refuse_non_finite(item)


@overload
def predictor(target: Callable[P, R], /) -> Predictor[P, R]: ...


@overload
def predictor(
    *,
    name: str | None = None,
    version: str = "1",
    ttl_s: float = 60.0,
    stale_s: float | None = None,
    keep_s: float | None = None,
    negative_ttl_s: float = 5.0,
    timeout_s: float = 30.0,
    concurrency: int | None = None,
    artefacts: Iterable[str | PathLike[str]] | str | PathLike[str] = (),
) -> Callable[[Callable[P, R]], Predictor[P, R]]: ...


def predictor(target: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a typed function, or a class with a typed `predict`, servable: `@predictor` or `@predictor(ttl_s=5)`.

    The options, their defaults and the errors are those of `Predictor`.
    """

    def decorate(decorated: Callable[..., Any]) -> AnyPredictor:
        return Predictor(decorated, name=name or "", **options)

    return decorate if target is None else decorate(target)
