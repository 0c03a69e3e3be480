"""Finds predictors by `module:name`, in the current folder too."""

import difflib
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from prediction_responder.model.predictor import AnyPredictor, Predictor, Servable
from prediction_responder.model.signature import InvalidPredictor


def find_predictors(paths: Iterable[str]) -> list[AnyPredictor]:
    """Import predictors by `module:name`, from the current folder too.

    Raises:
        InvalidPredictor: one line that says which path is wrong and why.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return check_predictors([_find(path) for path in paths])


def check_predictors(given: Iterable[Servable]) -> list[AnyPredictor]:
    """The predictors to serve together.

    Raises:
        InvalidPredictor: one is no predictor, or two have one name.
    """
    found: list[AnyPredictor] = []
    for one in given:
        if not isinstance(one, Predictor):
            msg = f"{getattr(one, '__name__', repr(one))} is not a predictor; decorate it with @predictor"
            raise InvalidPredictor(msg)
        if any(one.name == other.name for other in found):
            msg = f"two predictors are named {one.name!r}; rename one with @predictor(name=...)"
            raise InvalidPredictor(msg)
        found.append(one)
    return found


def _find(path: str) -> AnyPredictor:
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
        msg = f"{path!r} is not a predictor; decorate it with @predictor"
        raise InvalidPredictor(msg)
    known = [name for name, one in vars(module).items() if isinstance(one, Predictor)]
    close = difflib.get_close_matches(attribute, known, 1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known) or 'no predictors'}"
    msg = f"{path!r}: {module_name} has no {attribute!r}{hint}"
    raise InvalidPredictor(msg)
