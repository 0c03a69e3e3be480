"""What a model's owner writes: a function or class with `@predictor`.

    @predictor(name="price", version="3", ttl=5)
    async def price(features: Features) -> Price: ...

A class may take the function's place: `load()` runs once before the first prediction, `predict()` answers,
`close()` runs at the end.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from prediction_responder.model.answer import OutputInvalid
from prediction_responder.model.signature import check_options, check_signature, predict_function, where_is


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A checked predictor. Calling it calls what was decorated.

    Args:
        name, version: part of every key and every reply; a new version never gets answers of an old one.
        ttl_s: seconds for which an answer is fresh; 0 stores nothing.
        stale_s: seconds past the TTL in which it answers every request and is refreshed; None for the setting.
        keep_s: seconds past the TTL in which it is kept for requests that accept a stale answer; None for the setting.
        negative_ttl_s: seconds for which the refusal of an input is fresh; at most `ttl_s`.
        timeout_s: how long one model call may take.
        concurrency: how many model calls may run at once in this process.
        artefacts: files whose bytes are part of every key, hashed once after `load`.
    """

    name: str
    version: str
    ttl_s: float
    stale_s: float | None
    keep_s: float | None
    negative_ttl_s: float
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


def predictor(
    *,
    name: str | None = None,
    version: str = "1",
    ttl: float = 60.0,
    stale_s: float | None = None,
    keep_s: float | None = None,
    negative_ttl_s: float = 5.0,
    timeout_s: float = 30.0,
    concurrency: int | None = None,
    artefacts: Sequence[str | Path] = (),
) -> Callable[[Callable[..., Any]], Predictor]:
    """Make a typed function, or a class with a typed `predict`, servable.

    Annotate its one parameter with a pydantic model, and its return value. Async functions run on the event loop
    (64 calls at once by default), others in threads (4 calls at once).

    Args:
        name: the model's name on the wire; the function's name by default.
        version: raise it when equal inputs may get other answers.
        ttl: seconds for which an answer is fresh.
        stale_s: stale-while-revalidate: seconds past the TTL in which a stale answer is served at once and refreshed in
            the background; `RESPONDER_STALE_S` by default.
        keep_s: seconds past the TTL in which an answer is kept for requests with `max-stale` or `stale-if-error`;
            `RESPONDER_KEEP_S` by default, and never less than `stale_s`.
        negative_ttl_s: seconds for which a refusal with `InvalidInput` is cached, so the model is not called again.
        timeout_s: the model's own limit for one call, in seconds.
        concurrency: maximum number of concurrent calls, in one process.
        artefacts: files that the answers depend on.

    Raises:
        InvalidPredictor: it cannot be served; the message names the line to change.
    """

    def decorate(target: Callable[..., Any]) -> Predictor:
        where = where_is(target)
        function = predict_function(target, where)
        is_async = inspect.iscoroutinefunction(function)
        chosen = name or target.__name__
        check_options(
            where,
            chosen,
            version,
            timeout_s=timeout_s,
            concurrency=concurrency,
            seconds={"ttl": ttl, "stale_s": stale_s, "keep_s": keep_s, "negative_ttl_s": negative_ttl_s},
        )
        input_type, output = check_signature(function, where)
        return Predictor(
            name=chosen,
            version=version,
            ttl_s=float(ttl),
            stale_s=stale_s,
            keep_s=keep_s,
            negative_ttl_s=float(negative_ttl_s),
            timeout_s=float(timeout_s),
            concurrency=concurrency or (64 if is_async else 4),
            artefacts=tuple(Path(path) for path in artefacts),
            input_type=input_type,
            output=output,
            is_async=is_async,
            target=target,
        )

    return decorate
