"""What is asked: inputs by number, and which number is next."""

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
BASE = 2**40  # distinct inputs of two runs are not the same ones


class InputsUnusable(ValueError):
    """No inputs can be made of what was given; the message says what to change."""


@dataclass(frozen=True)
class Popularity:
    """How often which input is asked for: `uniform`, `zipf` with an exponent, `distinct`, `in-turn` or `file`.

    Args:
        trace: for `file`: the inputs' numbers in the order in which they are asked for; then from the start again.
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
                raise InputsUnusable(f"--keys {text}: an exponent from 0 to {MAX_EXPONENT}, e.g. 1.1")
            return cls(name, exponent)
        if name == "file":
            lines = [line.strip() for line in _lines(Path(rest), "--keys").values()]
            numbers = {line: number for number, line in enumerate(dict.fromkeys(lines))}
            return cls(name, trace=tuple(numbers[line] for line in lines))
        if name in ("uniform", "distinct", "in-turn") and not rest:
            return cls(name)
        raise InputsUnusable(f"--keys {text}: uniform, zipf:EXPONENT, distinct, in-turn or file:PATH")


@dataclass(frozen=True)
class Inputs:
    """Inputs by number.

    Args:
        bodies: their JSON texts; empty where a template makes them.
        template: a JSON text in which `{key}` stands for the number.
        count: how many inputs there are.
        popularity: how often which is asked for.
        results: what the model is to answer, as JSON values in the order of `bodies`; any other answer is wrong.
        same: for each of the bodies the number of the first one that is equal to it.
    """

    bodies: Sequence[bytes] = ()
    template: str = ""
    count: int = 1000
    popularity: Popularity = Popularity()
    results: Sequence[Any] = ()
    same: Sequence[int] = ()

    @classmethod
    def listed(cls, inputs: Iterable[Any], popularity: Popularity, results: Sequence[Any] = ()) -> "Inputs":
        """Models or JSON values.

        Raises:
            InputsUnusable: there are none, or not as many results.
        """
        bodies: list[bytes] = []
        try:
            for one in inputs:
                bodies.append(encode_input(one))  # noqa: PERF401 - the error says which one it was
        except PredictionError as error:
            raise InputsUnusable(f"input {len(bodies) + 1}: {error.message}") from None
        if not bodies:
            raise InputsUnusable("there are no inputs")
        if results and len(results) != len(bodies):
            raise InputsUnusable(f"{len(results)} results are expected for {len(bodies)} inputs: give one for each")
        if max(popularity.trace, default=0) >= len(bodies):
            raise InputsUnusable(f"--keys names {max(popularity.trace) + 1} inputs, and there are {len(bodies)}")
        first: dict[bytes, int] = {}
        same = tuple(first.setdefault(body, number) for number, body in enumerate(bodies))
        return cls(tuple(bodies), "", len(bodies), popularity, tuple(results), same)

    @classmethod
    def of_template(cls, template: str, count: int, popularity: Popularity) -> "Inputs":
        """Raises InputsUnusable: it is no JSON text, or has no place for the key."""
        try:
            json.loads(template.replace(KEY, "0"))
        except ValueError as error:
            raise InputsUnusable(f"--template: not JSON with 0 for {KEY}: {error}") from None
        if KEY not in template and (count > 1 or popularity.name == "distinct"):
            raise InputsUnusable(f"--template: {KEY} is missing, so all inputs would be the same (--inputs 1 says so)")
        return cls((), template, max(count, max(popularity.trace, default=0) + 1), popularity)

    @classmethod
    def of_schema(cls, name: str, count: int, popularity: Popularity, seed: int) -> "Inputs":
        """Made up, so that a pydantic model accepts them: `module:Model`.

        Raises:
            InputsUnusable: there is no such model, or no input can be made for it.
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
        except Exception as error:  # noqa: BLE001 - whatever that module does
            raise InputsUnusable(f"--schema {name}: {type(error).__name__}: {error}; give module:Model") from None
        finally:
            sys.path.remove("")
        if not (isinstance(found, type) and issubclass(found, BaseModel)):
            raise InputsUnusable(f"--schema {name}: not a pydantic model")
        made_up = ModelFactory.create_factory(found)
        made_up.seed_random(seed)
        count = max(count, max(popularity.trace, default=0) + 1)
        try:
            return cls.listed((made_up.build() for _ in range(count)), popularity)
        except (FactoryException, ValueError) as error:
            raise InputsUnusable(f"--schema {name}: no input can be made up for it: {error}") from None

    def body(self, key: int) -> bytes:
        """The JSON text of an input."""
        return self.bodies[key] if self.bodies else self.template.replace(KEY, str(key)).encode()

    def keys(self, process: int, processes: int, random: Random) -> Iterator[int]:
        """The numbers that one of several processes asks for, without end; equal inputs have one number.

        Distinct ones end where there are no more inputs.
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
        InputsUnusable: it cannot be read; the line is named.
    """
    values = []
    for number, line in _lines(path, option).items():
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InputsUnusable(f"{option} {path}, line {number}: not JSON: {error}") from None
    return values


def _lines(path: Path, option: str) -> dict[int, str]:
    """By number, those that are empty left out. JSON has characters inside of strings that end a line elsewhere."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputsUnusable(f"{option} {path}: {error}") from None
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    if not lines:
        raise InputsUnusable(f"{option} {path}: it is empty")
    return lines


def _endless(draw: Any) -> Iterator[int]:
    while True:
        yield from draw()
