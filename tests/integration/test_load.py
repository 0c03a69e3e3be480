"""The load tool as people run it: on a real broker, against a responder that is fast, frozen, wrong or gone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lateness import lateness_p99_ms
from deploy.found import Servers
from prediction_responder import Answer, Unavailable, predictor
from tests.books import Report
from tests.models import Done, Task, oracle
from tests.pace import Pace
from tests.real import ROOT, ResponderProcess, embedded, responder_process, settings, until

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(150)]

TEMPLATE = ("--template", '{"number": {key}}')
ORACLE = "tests.models:oracle"
TOOL_WORK_US = 100.0  # what the tool spends on a request, about


def answered(service: ResponderProcess) -> float:
    """How many replies a responder has made."""
    lines = service.metrics().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("responder_replies_total{"))


class Tool:
    """`producer load` in a process of its own."""

    def __init__(self, servers: Servers, namespace: str) -> None:
        self._environment = os.environ | {"AMQP_URL": servers.amqp_url, "RESPONDER_NAMESPACE": namespace}

    def command(self, *words: str) -> list[str]:
        """What a shell would run."""
        return [sys.executable, "-m", "prediction_client", "load", *words]

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        """It, running."""
        pipe = subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self.command(*words), env=self._environment, cwd=ROOT, stdout=pipe, stderr=pipe
        )

    async def __call__(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """The exit status, the facts of the last run, and what was said to people."""
        process = await self.start(*words, "--json")
        out, err = await process.communicate()
        assert out, err.decode()
        facts = json.loads(out)
        return process.returncode or 0, facts["runs"][-1] | {"broken": facts["broken"]}, err.decode()


def children_of(pid: int) -> list[Path]:
    """Where the kernel tells of them."""
    return [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def tool(servers: Servers, namespace: str) -> Tool:
    """On this run's servers."""
    return Tool(servers, namespace)


async def test_a_schedule_is_kept(pace: Pace, servers: Servers, namespace: str, tool: Tool, report: Report) -> None:
    """Two thousand a second: all answered and correct, one model call for each input, and sent on time.

    In the median of three runs, beside a bare event loop with the same schedule and as much work: a busy machine
    makes both late.
    """
    late_ms: list[float] = []
    bare_ms: list[float] = []
    with responder_process(servers, namespace, ORACLE):
        for turn in range(3):
            bare_ms.append(await asyncio.to_thread(lateness_p99_ms, 2000, 2.0, TOOL_WORK_US))
            words = (*TEMPLATE, "--inputs", "200", "--keys", "zipf:1.1", "--same-answers", "--tenant", str(turn))
            status, facts, _ = await tool("oracle", "--rate", "2000", "--for", "3s", "--warm-up", "1s", *words)
            assert status == 0, facts
            assert (facts["answers"], facts["errors"], facts["offered_per_s"]) == (6000, {}, 2000)
            assert facts["model_calls"] == facts["latency"].get("miss", {}).get("count", 0)
            assert facts["most_calls_of_one_input"] <= 1
            late_ms.append(facts["behind_schedule"]["p99_ms"])
    report("the load tool at 2,000 a second", {"late, p99 ms": sorted(late_ms), "a bare loop": sorted(bare_ms)})
    assert sorted(late_ms)[1] < max(2.0 * pace.now(), 3 * sorted(bare_ms)[1])


async def test_several_processes_are_one_load(pace: Pace, servers: Servers, namespace: str, tool: Tool) -> None:
    """Merged: as many requests as one would make, of the same inputs; `distinct` means it over all of them."""
    with responder_process(servers, namespace, ORACLE):
        words = ("oracle", "--rate", "300", "--for", "2s", "--processes", "3", *TEMPLATE)
        status, facts, _ = await tool(*words, "--keys", "in-turn", "--inputs", "50")
        assert (status, facts["answers"], facts["distinct_inputs"], facts["model_calls"]) == (0, 600, 50, 50)
        status, facts, _ = await tool(*words, "--keys", "distinct")
        assert (status, facts["distinct_inputs"], facts["model_calls"]) == (0, 600, 600)
        closed = ("--closed", "1", "--requests", "10", "--processes", "3", "--for", "5s", "--think", "10ms")
        status, facts, _ = await tool("oracle", *closed, *TEMPLATE)
        assert (status, facts["answers"]) == (0, 10)
        assert facts["seconds"] < 3 * pace.now()


async def test_a_stalled_service_shows_in_the_percentiles(
    pace: Pace,
    servers: Servers,
    namespace: str,
    tool: Tool,
    full: bool,  # noqa: FBT001
    report: Report,
) -> None:
    """Frozen for 5 s of 60 at 200 a second (2 s of 12 in the short form): p99 says 3 s at least, the maximum 5 s."""
    frozen_s, seconds = (5.0, 60) if full else (2.0, 12)
    with responder_process(servers, namespace, ORACLE) as service:
        process = await tool.start(
            "oracle", "--rate", "200", "--for", f"{seconds}s", "--inputs", "100", *TEMPLATE, "--json"
        )
        try:
            await until(lambda: answered(service) >= 200 * seconds / 3, 60)
            service.signal(signal.SIGSTOP)
            await asyncio.sleep(frozen_s)
        finally:
            service.signal(signal.SIGCONT)
        out, err = await process.communicate()
    facts = json.loads(out)["runs"][0]
    whole = facts["latency"]["all"]
    report("frozen under load", {"frozen s": frozen_s, "p99 ms": whole["p99_ms"], "max ms": whole["max_ms"]})
    assert process.returncode == 0, err
    assert facts["answers"] == 200 * seconds
    assert whole["p99_ms"] >= 600 * frozen_s
    assert 980 * frozen_s <= whole["max_ms"] <= 1000 * frozen_s + 300 * frozen_s * pace.now()


async def test_a_closed_loop_hides_the_stall_and_says_so(servers: Servers, namespace: str, tool: Tool) -> None:
    """The same freeze, seen by one who waits: one slow request among hundreds; so there is a warning."""
    with responder_process(servers, namespace, ORACLE) as service:
        process = await tool.start("oracle", "--closed", "1", "--for", "5s", *TEMPLATE, "--think", "5ms", "--json")
        try:
            await until(lambda: answered(service) >= 50, 60)
            service.signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)
        finally:
            service.signal(signal.SIGCONT)
        out, err = await process.communicate()
    facts = json.loads(out)["runs"][0]
    assert process.returncode == 0
    assert "closed loop: callers wait for answers" in err.decode()
    assert facts["latency"]["all"]["max_ms"] > 800
    assert facts["latency"]["all"]["p99_ms"] < facts["latency"]["all"]["max_ms"] / 2


async def test_a_wrong_reply_makes_it_fail(servers: Servers, namespace: str, tool: Tool, tmp_path: Path) -> None:
    """By the expected results, or because the answers to one input differ; however many errors are allowed."""
    inputs, results = tmp_path / "inputs.jsonl", tmp_path / "results.jsonl"
    inputs.write_text("".join(f'{{"number": {number}}}\n' for number in range(5)))
    results.write_text("".join(f'{{"square": {number**2 + (number == 3)}}}\n' for number in range(5)))
    words = (
        "--closed",
        "2",
        "--requests",
        "20",
        "--keys",
        "in-turn",
        "--payloads",
        str(inputs),
        "--max-errors",
        "100%",
    )
    with responder_process(servers, namespace, ORACLE):
        status, facts, said = await tool("oracle", *words, "--expected", str(results))
        assert (status, facts["wrong"], facts["answers"]) == (1, 4, 16)
        assert "4 replies were wrong" in said
    calls = 0

    @predictor(name="fickle", ttl_s=0)
    async def fickle(task: Task) -> Answer[Done]:
        nonlocal calls
        calls += 1
        return Answer(Done(square=calls), store=False)

    async with embedded(fickle, settings(servers, namespace)):
        status, facts, _ = await tool("fickle", *words, "--same-answers")
        assert (status, facts["wrong"], facts["answers"]) == (1, 15, 5)
        assert (await tool("fickle", *words))[0] == 0


async def test_a_missing_reply_makes_it_fail(pace: Pace, servers: Servers, namespace: str, tool: Tool) -> None:
    """The responder is frozen for good; the tool does not wait longer than a request may take."""
    words = ("oracle", "--rate", "50", "--for", "2s", "--timeout", "1s", "--max-errors", "100%", *TEMPLATE)
    with responder_process(servers, namespace, ORACLE) as service:
        service.signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(20):
                status, facts, said = await tool(*words)
        finally:
            service.signal(signal.SIGCONT)
    assert (status, facts["missing"], facts["answers"], facts["errors"]) == (1, 100, 0, {"NO_REPLY": 100})
    assert "100 replies never came" in said
    assert 1000 <= facts["failed_after"]["NO_REPLY"]["p50_ms"] <= 1000 + 1500 * pace.now()


async def test_thresholds_set_the_exit_status(servers: Servers, namespace: str, tool: Tool) -> None:
    """Of the latency and of typed errors, which are counted by code; an unknown model is one of them."""

    @predictor(name="half", ttl_s=60)
    async def half(task: Task) -> Done:
        if task.number % 2:
            raise Unavailable(retry_after_s=1)
        return Done(square=task.number**2)

    words = ("--rate", "100", "--for", "1s", "--keys", "in-turn", "--inputs", "10", *TEMPLATE)
    async with embedded(half, settings(servers, namespace)):
        status, facts, _ = await tool("half", *words)
        assert (status, facts["errors"], facts["answers"]) == (1, {"UNAVAILABLE": 50}, 50)
        assert (await tool("half", *words, "--max-errors", "50%"))[0] == 0
        status, facts, _ = await tool("half", *words, "--max-errors", "50", "--max-p99", "0.001ms")
        assert status == 1
        assert "--max-p99" in facts["broken"][0]
        assert (await tool("half", *words, "--max-errors", "50", "--max-p99", "5s"))[0] == 0
        status, facts, _ = await tool("nobody", *words)
        assert (status, facts["errors"]) == (1, {"UNKNOWN_MODEL": 100})


async def test_the_same_load_without_the_cache(servers: Servers, namespace: str, tool: Tool, tmp_path: Path) -> None:
    """Compared in one table, one picture and one page."""
    picture, page = tmp_path / "load.png", tmp_path / "load.html"
    words = ("--rate", "100", "--for", "2s", "--keys", "zipf:1.1", "--inputs", "20", *TEMPLATE)
    with responder_process(servers, namespace, ORACLE):
        process = await tool.start("oracle", *words, "--compare", "--png", str(picture), "--html", str(page))
        out, _ = await process.communicate()
    table = out.decode()
    assert process.returncode == 0
    assert "without the cache, model calls, according to the replies: 200 for" in table
    assert "(1 per input, at most 1 for one)" in table
    assert table.index("bypass") < table.index("hit")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Without the cache" in page.read_text()


async def test_ctrl_c_ends_it_with_what_there_is(pace: Pace, servers: Servers, namespace: str, tool: Tool) -> None:
    """The table of the requests so far, exit status 130, and no process left behind."""
    with responder_process(servers, namespace, ORACLE) as service:
        words = ("--inputs", "100", "--keys", "in-turn", "--processes", "2", *TEMPLATE)
        process = await tool.start("oracle", "--rate", "100", "--for", "60s", *words, "--json")
        await until(lambda: 'responder_model_calls_total{model="oracle",outcome="ok"} 100.0' in service.metrics())
        children = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            out, err = await process.communicate()
    facts = json.loads(out)["runs"][0]
    assert process.returncode == 130
    assert facts["interrupted"]
    assert facts["errors"] == {}
    assert facts["seconds"] < 30 * pace.now()
    assert facts["answers"] > 50
    assert b"Traceback" not in err
    assert len(children) >= 2
    await until(lambda: not any(child.exists() for child in children))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--amqp-url", "amqp://127.0.0.1:1/", "--rate", "5", "--timeout", "2s"), "the broker cannot be reached: "),
        (("--amqp-url", "amqp://me:canary@host:port/", "--rate", "5"), "Invalid URL: port can't be converted"),
        (("--tenant", "x" * 2000, "--closed", "2", "--requests", "4"), "tenant has 2000 bytes; the limit is 1024"),
    ],
    ids=["no broker", "no URL", "no request"],
)
async def test_what_cannot_begin_is_one_line(tool: Tool, words: tuple[str, ...], said: str) -> None:
    """And exit status 1."""
    process = await tool.start("oracle", *words, *TEMPLATE)
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert err.decode().startswith(said)
    assert err.count(b"\n") == 1


async def test_ctrl_c_while_it_connects(tool: Tool) -> None:
    """To somebody who listens and says nothing: no waiting, no traceback."""
    connected = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        words = ("--processes", "2", "--amqp-url", f"amqp://127.0.0.1:{port}/", "--rate", "5", *TEMPLATE)
        process = await tool.start("oracle", *words)
        await connected.wait()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(8):
            _, err = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in err


async def test_it_asks_as_an_ordinary_user(servers: Servers, namespace: str, tool: Tool) -> None:
    """Through the exchanges that such a user may write to; see docs/guides/security.md."""
    exchange = f"{namespace}predictions.replies"
    chosen = settings(servers, namespace, reply_exchange=exchange, require_user_id="guest")
    words = ("--rate", "50", "--for", "1s", "--user-id", "guest", "--reply-exchange", exchange, *TEMPLATE)
    async with embedded(oracle, chosen):
        status, facts, _ = await tool("oracle", *words)
        assert (status, facts["answers"]) == (0, 50)
