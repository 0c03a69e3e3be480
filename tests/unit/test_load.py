"""The load tool without a broker: schedules, inputs, books, figures and verdicts."""

import itertools
import json
import math
from array import array
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from prediction_client.cli import cli
from prediction_client.errors import PredictionError
from prediction_client.load import (
    Arrivals,
    Broker,
    ClosedLoop,
    Inputs,
    OpenLoop,
    Plan,
    Popularity,
    Run,
    page,
    plots,
    report,
)
from prediction_client.load.ledger import Ledger, is_same_json
from prediction_client.load.measured import CELLS
from prediction_client.load.report import Thresholds
from prediction_client.load.shipment import Calls, Shipment
from prediction_client.prediction import Prediction
from prediction_schemas import CacheStatus

RATES = st.floats(1, 5000)
ALL = Inputs.listed([{"number": number} for number in range(10)], Popularity())


class Shaped(BaseModel):
    """An input with rules."""

    pair: str = Field(pattern=r"^[A-Z]{3}/[A-Z]{3}$")
    share: float = Field(ge=0, le=1)


def plan(arrivals: Arrivals | None = None, inputs: Inputs = ALL, **more: Any) -> Plan:
    """Of a run that nobody makes."""
    return Plan(Broker("amqp://nowhere/"), "price", arrivals or OpenLoop(100, 10), inputs, **more)


def answers(*took_s: float, due_s: float = 1.0, key: int = 0) -> Calls:
    """Requests that began at one moment."""
    count = len(took_s)
    return Calls(array("d", [due_s] * count), array("d", took_s), array("q", [key] * count))


def prediction(value: Any, status: CacheStatus = CacheStatus(hit=True)) -> Prediction[Any]:  # noqa: B008
    """A reply."""
    return Prediction(value, status, 0, "price", "1", 1)


@given(RATES, RATES, st.floats(0.1, 3), st.integers(1, 5), st.floats(0, 1))
def test_processes_share_a_schedule(rate: float, last: float, seconds: float, processes: int, warm_up: float) -> None:
    """Together they make as many requests as one alone, at the same times; in order, and none too late."""
    arrivals = OpenLoop(rate, seconds, last, warm_up_s=warm_up)
    times = [list(arrivals.times(number, processes, Random(1))) for number in range(processes)]
    assert sorted(itertools.chain(*times)) == list(arrivals.times(0, 1, Random(1)))
    assert all(one == sorted(one) for one in times)
    whole = sorted(itertools.chain(*times))
    assert -warm_up <= whole[0]
    assert whole[-1] <= seconds + 1e-6
    assert abs(len([at for at in whole if at >= 0]) - arrivals.total) <= 2


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_poisson_arrivals_add_up_to_their_rate(processes: int, seed: int) -> None:
    """A thousand a second for five seconds, however many processes: within five standard deviations."""
    arrivals = OpenLoop(1000, 5, spacing="poisson")
    times = [at for number in range(processes) for at in arrivals.times(number, processes, Random(f"{seed} {number}"))]
    assert abs(len(times) - 5000) < 5 * math.sqrt(5000)
    gaps = [after - before for before, after in itertools.pairwise(sorted(times))]
    assert 0.3 < sum(gap < 0.0005 for gap in gaps) / len(gaps) < 0.5  # 1 - exp(-0.5); of even gaps it would be none


def test_processes_do_not_draw_alike() -> None:
    """Or popular inputs would be asked for by all of them in the same moments; and the same seed draws the same."""
    drawn = [list(itertools.islice(ALL.keys(number, 3, plan(seed=5).random(number)), 50)) for number in range(3)]
    assert len({tuple(keys) for keys in drawn}) == 3
    assert drawn[1] == list(itertools.islice(ALL.keys(1, 3, plan(seed=5).random(1)), 50))


def test_a_ramp_begins_and_ends_with_its_rates() -> None:
    """From 100 to 500 a second in ten seconds."""
    times = list(OpenLoop(100, 10, 500).times(0, 1, Random(1)))
    in_second = Counter(map(int, times))
    assert [round(in_second[second], -1) for second in (0, 4, 9)] == [120, 280, 480]


@given(st.integers(1, 50), st.integers(1, 5))
def test_a_closed_loop_is_divided_without_a_rest(number: int, processes: int) -> None:
    """Of requesters and of requests."""
    loop = ClosedLoop(number)
    assert sum(loop.share(number, process, processes) or 0 for process in range(processes)) == number


@pytest.mark.parametrize("name", ["uniform", "zipf:1.1", "in-turn"])
def test_keys_are_those_that_there_are(name: str) -> None:
    """All of them, and the popular ones as often as the law says."""
    inputs = Inputs.of_template('{"pair": "{key}"}', 100, Popularity.parse(name))
    drawn = Counter(itertools.islice(inputs.keys(0, 1, Random(1)), 100_000))
    assert set(drawn) == set(range(100))
    if name == "zipf:1.1":
        assert drawn[0] / drawn[9] == pytest.approx(10**1.1, rel=0.15)
    else:
        assert max(drawn.values()) / min(drawn.values()) < 1.3


def test_distinct_keys_are_of_one_request_each(tmp_path: Path) -> None:
    """Over all processes, and in another run too; of a file until it ends."""
    inputs = Inputs.of_template('{"pair": "{key}"}', 1, Popularity.parse("distinct"))
    drawn = [
        key
        for seed in range(3)
        for process in range(3)
        for key in itertools.islice(inputs.keys(process, 3, Random(f"{seed} {process}")), 1000)
    ]
    assert len(set(drawn)) == len(drawn) == 9000
    listed = Inputs.listed(range(10), Popularity.parse("distinct"))
    assert sorted(key for process in range(3) for key in listed.keys(process, 3, Random(1))) == list(range(10))
    trace = tmp_path / "trace"
    trace.write_text("b\na\n\nb\n")
    replayed = Inputs.listed([1, 2], Popularity.parse(f"file:{trace}"))
    assert list(itertools.islice(replayed.keys(0, 1, Random(1)), 5)) == [0, 1, 0, 0, 1]


def test_inputs_are_made_up_for_a_schema() -> None:
    """Its rules hold, and the same seed makes the same ones."""
    made = Inputs.of_schema("tests.unit.test_load:Shaped", 20, Popularity(), seed=3)
    assert made.bodies == Inputs.of_schema("tests.unit.test_load:Shaped", 20, Popularity(), seed=3).bodies
    assert len({Shaped.model_validate_json(body).pair for body in made.bodies}) > 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--rate is missing"),
        (["--rate", "5"], "give the inputs in exactly one way"),
        (["--rate", "x"], "--rate x: must be requests per second"),
        (["--rate", "5.."], "--rate 5..: must be requests per second"),
        (["--rate", "nan"], "--rate nan: must be requests per second"),
        (["--rate", "5", "--template", '"{key}"', "--timeout", "0s"], "--timeout 0s: must be longer than 0"),
        (["--rate", "5", "--template", '"{key}"', "--png", "/nowhere/x.png"], "--png /nowhere/x.png: its folder"),
        (["--rate", "5", "--template", '"{key}"', "--html", "x.htm"], "--html x.htm: the name must end with .html"),
        (["--rate", "5", "--template", '"{key}"', "--keys", "zipf:nan"], "the exponent must be from 0 to 20"),
        (["--rate", "5", "--template", '"{key}"', "--keys", "zipf:-1"], "the exponent must be from 0 to 20"),
        (["--closed", "60000", "--template", '"{key}"'], "--closed: at most 50,000 for each process"),
        (["--rate", "5", "--template", '"{key}"', "--same-answers", "--processes", "2"], "within one process"),
        (["--rate", "0"], "--rate 0: must be requests per second"),
        (["--rate", "5", "--closed", "2"], "give one of them"),
        (["--rate", "5", "--requests", "2"], "--requests and --think need --closed"),
        (["--rate", "5", "--for", "soon"], "--for soon: not a duration; try 50ms, 30s or 5m"),
        (["--rate", "5", "--for", "0s"], "--for 0s: must be longer than 0"),
        (["--rate", "5", "--arrivals", "random"], "--arrivals random: must be constant or poisson"),
        (["--rate", "5", "--template", "{", "--keys", "uniform"], "--template: not JSON"),
        (["--rate", "5", "--template", "{}"], "{key} is missing"),
        (["--rate", "5", "--template", '"{key}"', "--keys", "zip"], "--keys zip: must be uniform, zipf:EXPONENT"),
        (["--rate", "5", "--template", '"{key}"', "--keys", "zipf:x"], "not a number: 'x'"),
        (["--rate", "5", "--template", '"{key}"', "--keys", "file:/nowhere"], "--keys /nowhere: "),
        (["--rate", "5", "--template", '"{key}"', "--max-p99", "1"], ""),
        (["--rate", "5", "--template", '"{key}"', "--max-p99", "fast"], "--max-p99 fast: not a duration"),
        (
            ["--rate", "5", "--template", '"{key}"', "--max-errors", "few"],
            "--max-errors few: must be a number or a percentage",
        ),
        (["--rate", "5", "--payloads", "/nowhere"], "--payloads /nowhere: "),
        (["--rate", "5", "--template", '"{key}"', "--expected", "x"], "--expected needs --payloads"),
        (
            ["--rate", "5", "--schema", "nowhere:Model"],
            "--schema nowhere:Model: ModuleNotFoundError: No module",
        ),
        (["--rate", "5", "--schema", "tests.unit.test_load:plan"], "not a pydantic model"),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_change(words: list[str], said: str) -> None:
    """And exit status 2, before anything is sent; 1 where only the broker is missing."""
    done = CliRunner().invoke(cli, ["load", "price", "--amqp-url", "amqp://127.0.0.1:1/", "--timeout", "1s", *words])
    if not said:
        assert done.exit_code == 1
        assert "the broker cannot be reached" in done.output
        return
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert said in done.output


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    """With its number; and as many results as inputs are asked for."""
    file = tmp_path / "inputs.jsonl"
    file.write_text('{"pair": 1}\n{"pair"\n')
    words = ["load", "price", "--rate", "5", "--payloads", str(file)]
    assert f"--payloads {file}, line 2: not JSON" in CliRunner().invoke(cli, words).output
    file.write_text('{"text": "one line\u2028still"}\n\n\n{"a": NaN}\n')
    assert "input 2: the input cannot be written as JSON" in CliRunner().invoke(cli, words).output
    file.write_text('{"text": "one line\u2028still"}\n\n\n{"a"\n')
    assert f"--payloads {file}, line 4: not JSON" in CliRunner().invoke(cli, words).output
    file.write_text("[" * 100_000)
    assert f"--payloads {file}, line 1: not JSON" in CliRunner().invoke(cli, words).output
    file.write_text("1\n2\n")
    assert (
        "--keys distinct: 2 inputs are too few for 50 requests"
        in CliRunner().invoke(cli, [*words, "--keys", "distinct"]).output
    )
    results = tmp_path / "results.jsonl"
    results.write_text("1\n")
    done = CliRunner().invoke(cli, [*words, "--expected", str(results)])
    assert "there are 1 results for 2 inputs" in done.output


def test_only_a_correct_reply_counts() -> None:
    """Wrong, missing and refused ones are told apart, and those of the warm-up are not counted."""
    ended: list[bytes] = []
    ledger = Ledger(timeout_s=2, results=[{"a": 1, "b": 2}, 5], same_answers=False, on_end=ended.append)
    for number, due in enumerate((-0.5, 1.0, 1.0, 1.1, 1.2, 1.3)):
        ledger.begin(b"%d" % number, due, due + 0.001, key=number % 2)
    ledger.end(b"0", prediction({"a": 1, "b": 2}), 1.0)
    ledger.end(b"1", prediction(5), 1.5)
    ledger.end(b"2", prediction({"b": 2, "a": True}), 1.5)  # in JSON true is not 1
    ledger.end(b"3", PredictionError("no", code="UNAVAILABLE"), 1.5)
    ledger.end(b"4", PredictionError("not JSON", code="MALFORMED_REPLY"), 1.5)
    ledger.end_late(3.79)
    assert b"5" in ledger
    ledger.end_late(3.81)
    shipment = ledger.shipment()
    assert {status: len(calls.due) for status, calls in shipment.answers.items()} == {"hit": 1}
    assert {code: len(calls.due) for code, calls in shipment.failures.items()} == {
        "WRONG_REPLY": 2,
        "UNAVAILABLE": 1,
        "NO_REPLY": 1,
    }
    assert shipment.answers["hit"].took.tolist() == [0.5]
    assert len(shipment.behind_s) == 5
    assert sorted(ended) == [b"%d" % number for number in range(6)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (4, 4.0, True),
        ({"a": [1, {"b": None}], "c": 2}, {"c": 2.0, "a": [1, {"b": None}]}, True),
        (2**70, 2**70, True),
        (1, True, False),
        ({"a": 0}, {"a": False}, False),
        ([1, 2], [1], False),
        ({"a": 1}, {"b": 1}, False),
        (None, 0, False),
        ("1", 1, False),
    ],
)
def test_json_values_are_compared_as_json_has_them(one: Any, other: Any, same: bool) -> None:  # noqa: FBT001
    """Numbers by their value, members in any order; true is no number."""
    assert is_same_json(one, other) is same
    assert is_same_json(other, one) is same


def test_equal_inputs_are_one_input() -> None:
    """So that calls per distinct input are what they say."""
    inputs = Inputs.listed([{"a": 1}, {"a": 2}, {"a": 1}], Popularity("in-turn"))
    assert list(itertools.islice(inputs.keys(0, 1, Random(1)), 4)) == [0, 1, 0, 0]


def test_what_is_unfinished_has_not_failed() -> None:
    """When a run is ended: it is told apart, with the time that it has waited; and the seconds are those of the run."""
    ledger = Ledger(timeout_s=30, results=(), same_answers=False)
    ledger.begin(b"1", 1.0, 1.0, key=0)
    ledger.give_up(6.0)
    shipment = ledger.shipment()
    shipment.now_s = 7.0
    run = Run(plan(OpenLoop(10, 60)))
    run.is_interrupted = True
    run.add(0, shipment)
    facts = run.summary()
    assert (facts["unfinished"], facts["errors"], facts["seconds"]) == (1, {}, 7.0)
    assert facts["unfinished_after"]["max_ms"] == pytest.approx(5000, rel=0.01)
    assert "1 requests were unfinished" in report.warnings(run)[0]


def test_the_seconds_of_a_run_are_those_that_it_took() -> None:
    """Where nothing was answered, and where a closed loop ended before its time."""
    run = Run(plan(ClosedLoop(2, duration_s=8, requests=100)))
    run.add(0, Shipment({"hit": answers(0.5)}, {"UNKNOWN_MODEL": answers(0.5, due_s=1.5)}, now_s=2.1))
    assert run.summary()["seconds"] == 2.0
    assert Thresholds(errors=5).broken_by(run) == ["only 2 of 100 requests were sent: there were no more inputs"]


def test_different_answers_to_one_input_can_be_wrong() -> None:
    """Where the model is known to be deterministic."""
    ledger = Ledger(timeout_s=2, results=(), same_answers=True)
    for number, value in enumerate((1, 1, 2)):
        ledger.begin(b"%d" % number, 0.0, 0.0, key=7)
        ledger.end(b"%d" % number, prediction(value), 1.0)
    shipment = ledger.shipment()
    assert len(shipment.answers["hit"].due) == 2
    assert len(shipment.failures["WRONG_REPLY"].due) == 1


def test_latency_is_told_by_cache_status() -> None:
    """Mean and percentiles of each; calls per distinct input from the replies; replies after the end are no goodput."""
    run = Run(plan())
    run.add(0, Shipment({"hit": answers(*[0.001] * 98, key=1), "miss": answers(1.0, 20.0, key=1)}))
    run.add(1, Shipment({"collapsed": answers(0.5, key=2), "bypass": answers(0.5, key=2)}, unawaited=3))
    facts = run.summary()
    assert facts["latency"]["hit"] == {"count": 98} | dict.fromkeys(
        ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "p99.9_ms", "max_ms"), 1.0
    )
    assert facts["latency"]["all"]["p99_ms"] == pytest.approx(1000, rel=0.01)
    assert facts["latency"]["all"]["max_ms"] == pytest.approx(20_000, rel=0.01)
    assert (facts["distinct_inputs"], facts["model_calls"], facts["most_calls_of_one_input"]) == (2, 3, 2)
    assert (facts["answers"], facts["goodput_per_s"], facts["unawaited_replies"]) == (102, 10.1, 3)


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 100)), min_size=1, max_size=60))
def test_a_timeline_has_a_bounded_number_of_cells(calls: list[tuple[float, float]]) -> None:
    """However long the run is; and none of its requests gets lost when cells are joined."""
    run = Run(plan(OpenLoop(1, 5000)))
    for due, took in calls:
        run.add(0, Shipment({"hit": answers(took, due_s=due)}, {"UNAVAILABLE": answers(took, due_s=due)}))
    assert max(run.cells) < CELLS
    assert sum(cell.answers["hit"] for cell in run.cells.values()) == len(calls)
    assert sum(cell.ended for cell in run.cells.values()) == len(calls)
    assert sum(cell.failures for cell in run.cells.values()) == len(calls)
    assert sum(cell.latency_us.get_total_count() for cell in run.cells.values()) == len(calls)
    assert len(run.moments(80)) <= 80


@pytest.mark.parametrize(
    ("limits", "failures", "broken"),
    [
        ({}, {}, []),
        ({}, {"UNAVAILABLE": 1}, ["1 errors, at most 0 allowed (--max-errors): UNAVAILABLE 1"]),
        ({"max_errors": "1"}, {"UNAVAILABLE": 1}, []),
        ({"max_errors": "1%"}, {"UNAVAILABLE": 1}, []),
        ({"max_errors": "1%"}, {"UNAVAILABLE": 3}, ["3 errors, at most 1 allowed (--max-errors): UNAVAILABLE 3"]),
        ({"max_errors": "100%"}, {"WRONG_REPLY": 1}, ["1 replies were wrong"]),
        ({"max_errors": "100%"}, {"NO_REPLY": 2}, ["2 replies never came"]),
        ({"p99": "100ms"}, {}, []),
        ({"p99": "9ms"}, {}, ["p99 was 10.0"]),
        ({"p50": "1ms", "p95": "2ms"}, {}, ["p50 was 10.0", "p95 was 10.0"]),
    ],
)
def test_thresholds_decide(limits: dict[str, str], failures: dict[str, int], broken: list[str]) -> None:
    """Typed errors as many as are allowed; a wrong reply and a missing one never."""
    run = Run(plan())
    took = [0.01] * 100
    run.add(0, Shipment({"hit": answers(*took)}, {code: answers(*took[:count]) for code, count in failures.items()}))
    said = Thresholds.parse(limits.pop("max_errors", "0"), **limits).broken_by(run)
    assert len(said) == len(broken)
    assert all(text.startswith(expected) for text, expected in zip(said, broken, strict=True))


def test_a_run_without_answers_is_not_good() -> None:
    """Not even where every error is allowed."""
    assert Thresholds.parse("100%").broken_by(Run(plan())) == ["no request was answered"]


def test_a_closed_loop_and_a_late_tool_are_told_of() -> None:
    """For their figures flatter, or measure the tool."""
    assert "coordinated omission" in report.warnings(Run(plan(ClosedLoop(1, requests=1))))[0]
    run = Run(plan())
    run.add(0, Shipment(behind_s=array("d", [0.02] * 100)))
    assert "requests were sent late, p99 20.0 ms" in report.warnings(run)[0]


def test_pictures_and_pages_are_whole(tmp_path: Path) -> None:
    """One file each, nothing from elsewhere; a name that looks like markup stays text; runs without answers too."""
    runs = [Run(plan(), "without the cache"), Run(plan(), "with <b>the</b> cache")]
    for run in runs:
        run.add(0, Shipment({"hit": answers(0.1, 0.2), "odd": answers(0.1)}, {"UNAVAILABLE": answers(0.2)}))
    for shown in ([Run(plan())], runs[:1], runs):
        plots.png(shown, tmp_path / "load.png", "title")
        assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
        page.write(shown, ["p99 was <bad>"], tmp_path / "load.html", "<i>price</i>: 5 requests")
        text = (tmp_path / "load.html").read_text()
        assert text.count("<svg") == len(plots.PLOTS)
        assert "<i>price" not in text
        assert "<b>the" not in text
        assert "p99 was &lt;bad&gt;" in text
        assert not [word for word in ("<script", "<link", "src=", "@import") if word in text]
        json.dumps(report.as_json(shown, []))
