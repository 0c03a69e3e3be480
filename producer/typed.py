"""A model's output as the type that the caller asks for."""

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from producer.errors import PredictionError


def typed(value: Any, output: Any) -> Any:
    """A JSON value as `output`, which is a pydantic model or any type that pydantic knows; unchanged where it is None.

    Raises:
        PredictionError: with the code MALFORMED_REPLY; it does not fit.
    """
    if output is None:
        return value
    try:
        return _adapter(output).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "answer"
        msg = f"the answer is no {getattr(output, '__name__', output)}: {where}: {first['msg']}"
        raise PredictionError(msg, code="MALFORMED_REPLY") from None


@lru_cache(maxsize=256)
def _adapter(output: Any) -> TypeAdapter[Any]:
    return TypeAdapter(output)
