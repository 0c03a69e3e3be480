"""The inputs by number, and the choice of the next one."""

import importlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydantic import BaseModel

from prediction_client.errors import PredictionError
from prediction_client.request import encode_input

KEY = "{key}"
AT_ONCE = 4096  # numbers drawn at a time
MAX_EXPONENT = 20
BASE = 2**40  # distinct inputs begin at a random number above it, so that two runs share none


class InputsUnusable(ValueError):
    """The options give no usable inputs; the message says what to change."""


@dataclass(frozen=True)
class Popularity:
    """How often each input is sent: `uniform`, `zipf` with an exponent, `distinct`, `in-turn` or `file`.

    Args:
        trace: for `file`: the inputs' numbers in the order in which they are sent; it repeats from the start.
    """

    name: str = "uniform"
    exponent: float = 0.0
    trace: Sequence[int] = ()

    @classmethod
    def parse(cls, text: str) -> "Popularity":
        """From the command line, e.g. `zipf:1.1` or `file:keys.txt`."""
        name, _, rest = text.partition(":")
        if name == "zipf":
            try:
                exponent = float(rest or "1")
            except ValueError:
                raise InputsUnusable(f"--keys {text}: not a number: {rest!r}") from None
            if not 0 <= exponent <= MAX_EXPONENT:
                raise InputsUnusable(f"--keys {text}: the exponent must be from 0 to {MAX_EXPONENT}, e.g. 1.1")
            return cls(name, exponent)
        if name == "file":
            lines = [line.strip() for line in _lines(Path(rest), "--keys").values()]
            numbers = {line: number for number, line in enumerate(dict.fromkeys(lines))}
            return cls(name, trace=tuple(numbers[line] for line in lines))
        if name in ("uniform", "distinct", "in-turn") and not rest:
            return cls(name)
        raise InputsUnusable(f"--keys {text}: must be uniform, zipf:EXPONENT, distinct, in-turn or file:PATH")


@dataclass(frozen=True)
class Inputs:
    """Inputs by number.

    Args:
        bodies: the JSON texts of the inputs; empty if a template makes them.
        template: a JSON text in which `{key}` stands for the number.
        count: the number of inputs.
        popularity: how often each input is sent.
        results: the expected results, as JSON values in the order of `bodies`; any other result is wrong.
        same: for each body, the number of the first body that is equal to it.
    """

    bodies: Sequence[bytes] = ()
    template: str = ""
    count: int = 1000
    popularity: Popularity = Popularity()
    results: Sequence[Any] = ()
    same: Sequence[int] = ()

    @classmethod
    def listed(cls, inputs: Iterable[Any], popularity: Popularity, results: Sequence[Any] = ()) -> "Inputs":
        """Inputs from pydantic models or JSON values.

        Raises:
            InputsUnusable: there are no inputs, or the number of results differs.
        """
        bodies: list[bytes] = []
        try:
            for one in inputs:
                bodies.append(encode_input(one))  # noqa: PERF401 - the error message needs the number of the input
        except PredictionError as error:
            raise InputsUnusable(f"input {len(bodies) + 1}: {error.message}") from None
        if not bodies:
            raise InputsUnusable("there are no inputs")
        if results and len(results) != len(bodies):
            raise InputsUnusable(
                f"there are {len(results)} results for {len(bodies)} inputs: give one result for each input"
            )
        if max(popularity.trace, default=0) >= len(bodies):
            raise InputsUnusable(f"--keys names {max(popularity.trace) + 1} inputs, but there are only {len(bodies)}")
        first: dict[bytes, int] = {}
        same = tuple(first.setdefault(body, number) for number, body in enumerate(bodies))
        return cls(tuple(bodies), "", len(bodies), popularity, tuple(results), same)

    @classmethod
    def of_template(cls, template: str, count: int, popularity: Popularity) -> "Inputs":
        """Raises InputsUnusable: the template is not JSON, or does not contain the key."""
        try:
            json.loads(template.replace(KEY, "0"))
        except ValueError as error:
            raise InputsUnusable(f"--template: not JSON when {KEY} is replaced by 0: {error}") from None
        if KEY not in template and (count > 1 or popularity.name == "distinct"):
            raise InputsUnusable(
                f"--template: {KEY} is missing, so all inputs would be the same (to want that, add --inputs 1)"
            )
        return cls((), template, max(count, max(popularity.trace, default=0) + 1), popularity)

    @classmethod
    def of_schema(cls, name: str, count: int, popularity: Popularity, seed: int) -> "Inputs":
        """Inputs that are generated for a pydantic model, given as `module:Model`.

        Raises:
            InputsUnusable: there is no such model, or no input can be generated for it.
        """
        try:
            from polyfactory.exceptions import FactoryException
            from polyfactory.factories.pydantic_factory import ModelFactory
        except ImportError:
            raise InputsUnusable("--schema needs polyfactory: pip install 'prediction-responder[load]'") from None
        module, _, attribute = name.partition(":")
        sys.path.insert(0, "")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # noqa: BLE001 - the user's module may raise anything
            raise InputsUnusable(f"--schema {name}: {type(error).__name__}: {error}; give module:Model") from None
        finally:
            sys.path.remove("")
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise InputsUnusable(f"--schema {name}: not a pydantic model")
        factory = ModelFactory.create_factory(found)
        factory.seed_random(seed)
        count = max(count, max(popularity.trace, default=0) + 1)
        try:
            return cls.listed((factory.build() for _ in range(count)), popularity)
        except (FactoryException, ValueError) as error:
            raise InputsUnusable(f"--schema {name}: cannot generate an input for it: {error}") from None

    def body(self, key: int) -> bytes:
        """The JSON text of an input."""
        return self.bodies[key] if self.bodies else self.template.replace(KEY, str(key)).encode()

    def keys(self, process: int, processes: int, random: Random) -> Iterator[int]:
        """The numbers of the inputs that one of several processes sends; equal inputs have the same number.

        They are endless, except for `distinct` with a list of inputs: then they end with the list.
        """
        keys = self._keys(process, processes, random)
        return map(self.same.__getitem__, keys) if self.same else keys

    def _keys(self, process: int, processes: int, random: Random) -> Iterator[int]:
        drawn = np.random.default_rng(random.getrandbits(63))
        match self.popularity.name:
            case "distinct" if self.bodies:
                return iter(range(process, self.count, processes))
            case "distinct":
                return itertools.count(BASE + random.getrandbits(40) * processes + process, processes)
            case "in-turn":
                return itertools.islice(itertools.cycle(range(self.count)), process, None, processes)
            case "file":
                return itertools.islice(itertools.cycle(self.popularity.trace), process, None, processes)
            case "zipf":
                weights = np.cumsum(np.arange(1, self.count + 1) ** -self.popularity.exponent)
                shares = weights / weights[-1]
                return _endless(lambda: np.searchsorted(shares, drawn.random(AT_ONCE), side="right").tolist())
            case _:
                return _endless(lambda: drawn.integers(self.count, size=AT_ONCE).tolist())


def read_json_lines(path: Path, option: str) -> list[Any]:
    """One JSON value per line.

    Raises:
        InputsUnusable: the file cannot be read, or a line is not JSON; the message names the line.
    """
    values = []
    for number, line in _lines(path, option).items():
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputsUnusable(f"{option} {path}, line {number}: not JSON: {error}") from None
    return values


def _lines(path: Path, option: str) -> dict[int, str]:
    """The non-empty lines by number. Only a line feed ends a line: JSON strings may hold other separators."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputsUnusable(f"{option} {path}: {error}") from None
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise InputsUnusable(f"{option} {path}: the file is empty")
    return lines


def _endless(draw: Any) -> Iterator[int]:
    while True:
        yield from draw()
