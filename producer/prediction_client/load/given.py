"""Conversion of command-line options to a plan. An invalid option is a ValueError that says what to change."""

import math
import re
from pathlib import Path
from typing import Literal

from prediction_client.load.arrivals import Arrivals, ClosedLoop, OpenLoop
from prediction_client.load.inputs import Inputs, Popularity, read_json_lines

DEFAULT_S = 10.0
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) *(us|ms|s|m|h)?")


def seconds_of(option: str, text: str, *, or_none: bool = True) -> float:
    """The seconds of a duration, e.g. `50ms`, `30s`, `5m` or `2`.

    Args:
        option: the option's name, for the error message.
        text: the duration.
        or_none: whether 0 is allowed.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{option} {text}: not a duration; try 50ms, 30s or 5m")
    seconds = float(found[1]) * UNITS_S[found[2] or "s"]
    if not seconds and not or_none:
        raise ValueError(f"{option} {text}: must be longer than 0")
    return seconds


def arrivals_of(
    rate: str | None,
    spacing: str,
    closed: int | None,
    think: str,
    requests: int | None,
    duration: str | None,
    warm_up: str,
) -> Arrivals:
    """The schedule of requests."""
    duration_s = None if duration is None else seconds_of("--for", duration, or_none=False)
    warm_up_s = seconds_of("--warm-up", warm_up)
    if closed is not None:
        if rate is not None:
            raise ValueError("--rate and --closed cannot be combined: give one of them")
        if requests is None and duration_s is None:
            duration_s = DEFAULT_S
        return ClosedLoop(closed, duration_s, requests, seconds_of("--think", think), warm_up_s)
    if rate is None:
        raise ValueError("--rate is missing, e.g. --rate 200 (or --closed 10 for a closed loop)")
    if requests is not None or seconds_of("--think", think):
        raise ValueError("--requests and --think need --closed; with --rate, use --for")
    first, last = _rates(rate)
    return OpenLoop(first, duration_s or DEFAULT_S, last, _spacing(spacing), warm_up_s)


def _rates(text: str) -> tuple[float, float | None]:
    first, is_ramp, last = text.partition("..")
    try:
        rates = [float(one) for one in ((first, last) if is_ramp else (first,))]
    except ValueError:
        rates = []
    if not rates or not all(0 <= one < math.inf for one in rates) or max(rates) == 0:
        raise ValueError(f"--rate {text}: must be requests per second, e.g. 2000, or a ramp, e.g. 100..2000")
    return rates[0], rates[1] if is_ramp else None


def _spacing(text: str) -> Literal["constant", "poisson"]:
    match text:
        case "constant" | "poisson":
            return text
        case _:
            raise ValueError(f"--arrivals {text}: must be constant or poisson")


def inputs_of(
    keys: str,
    count: int,
    payloads: Path | None,
    template: str | None,
    schema: str | None,
    expected: Path | None,
    seed: int,
) -> Inputs:
    """The inputs to send."""
    if sum(one is not None for one in (payloads, template, schema)) != 1:
        raise ValueError(
            """give the inputs in exactly one way: --template '{"pair": "P{key}/EUR"}', --payloads FILE.jsonl, or """
            "--schema my_models:Features"
        )
    if expected is not None and payloads is None:
        raise ValueError("--expected needs --payloads: it has one result for each of their lines")
    popularity = Popularity.parse(keys)
    if payloads is not None:
        results = [] if expected is None else read_json_lines(expected, "--expected")
        return Inputs.listed(read_json_lines(payloads, "--payloads"), popularity, results)
    if template is not None:
        return Inputs.of_template(template, count, popularity)
    return Inputs.of_schema(schema or "", count, popularity, seed)
