"""Four replicas, forty keys, a hundred callers, and something that goes wrong every other second.

    python -m deploy.servers -- python -m tests.chaos [--seconds 14] [--only NAME...] [--mixed 45] [--json FILE]

One row for each kind of fault and one for all of them mixed. A model call is recorded by the process that makes it,
with the machine's monotonic clock, so that calls of one key that overlap are seen from outside. They may overlap where
Redis has lost its leases, or where a leader was stopped for longer than its lease: within a window around the fault.
Anywhere else, and any wrong answer or error, is a failure: exit status 1.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.found import Servers
from deploy.processes import RedisProcess
from prediction_client import PredictionClient, PredictionError
from prediction_responder.cache.redis_link import RedisLink
from tests.pace import Pace
from tests.real import ResponderProcess

REPLICAS, CALLERS, KEYS = 4, 100, 40
LEASE_S = 1.5 * Pace().now()  # a starved process may not renew in time: that is no fault of what is tested
LIMIT_S = 10 * LEASE_S / 1.5  # of a model call, and so of a request: several leaders of one key may be hurt in a row
AFTERWARDS_S = LEASE_S + 0.2  # how long after a fault its traces may be seen
EVERY_S = AFTERWARDS_S + 2.0  # so that there is time without a fault between two of them
FAULTS = ("flushall", "kill pubsub", "kill normal", "sleep", "restart", "kill -9", "stop")


@dataclass
class Row:
    """What a run showed."""

    faults: str
    events: int = 0
    requests: int = 0
    errors: int = 0
    wrong: int = 0
    calls: int = 0
    overlapping: int = 0
    outside: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    worst_ms: float = 0.0
    odd: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nothing happened that must not."""
        return self.requests > 0 and not self.wrong and not self.outside and not self.errors


@dataclass
class Scene:
    """What faults happen to, and when they did."""

    redis: RedisProcess
    link: RedisLink
    replicas: list[ResponderProcess]
    chance: random.Random
    windows: list[tuple[float, float]] = field(default_factory=list)

    async def hurt(self, fault: str) -> None:
        """One fault; it returns when it is over."""
        began, victim = time.monotonic(), self.chance.choice(self.replicas)
        await _FAULTS[fault](self, victim)
        self.windows.append((began, time.monotonic() + AFTERWARDS_S))

    async def ask(self, *command: str | int) -> None:
        """Of Redis; it may fail, it is being hurt."""
        with contextlib.suppress(Exception):
            await self.link.ask(*command)

    async def flushall(self, _victim: ResponderProcess) -> None:
        await self.ask("FLUSHALL")

    async def kill_pubsub(self, _victim: ResponderProcess) -> None:
        await self.ask("CLIENT", "KILL", "TYPE", "pubsub")

    async def kill_normal(self, _victim: ResponderProcess) -> None:
        await self.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def sleep(self, _victim: ResponderProcess) -> None:
        await self.ask("DEBUG", "SLEEP", "0.6")

    async def restart(self, _victim: ResponderProcess) -> None:
        self.redis.kill()
        await asyncio.sleep(0.5)
        await asyncio.to_thread(self.redis.start)

    async def kill_9(self, victim: ResponderProcess) -> None:
        victim.signal(signal.SIGKILL)
        await asyncio.to_thread(victim.wait, 5)
        await asyncio.to_thread(victim.start)

    async def stop(self, victim: ResponderProcess) -> None:
        victim.signal(signal.SIGSTOP)
        await asyncio.sleep(2.2)
        victim.signal(signal.SIGCONT)


_FAULTS: dict[str, Callable[[Scene, ResponderProcess], Awaitable[None]]] = {
    "flushall": Scene.flushall,
    "kill pubsub": Scene.kill_pubsub,
    "kill normal": Scene.kill_normal,
    "sleep": Scene.sleep,
    "restart": Scene.restart,
    "kill -9": Scene.kill_9,
    "stop": Scene.stop,
}


async def run(amqp_url: str, faults: list[str], seconds: float, seed: int) -> Row:
    """One row."""
    chance = random.Random(seed)
    row = Row(" + ".join(faults) if len(faults) < len(FAULTS) else "all mixed")
    with (
        tempfile.TemporaryDirectory() as name,
        tempfile.TemporaryDirectory() as calls,
        RedisProcess.running(Path(name, "redis")) as redis,
    ):
        servers = Servers(amqp_url, redis.url, "given")
        namespace = f"chaos{os.getpid()}-{chance.randrange(10**9)}."
        environment = {
            "AMQP_URL": servers.amqp_url,
            "REDIS_URL": servers.redis_url,
            "RESPONDER_NAMESPACE": namespace,
            "RESPONDER_LEASE_S": str(LEASE_S),
            "MODEL_LIMIT_S": str(LIMIT_S),
            "RESPONDER_LOG_LEVEL": "ERROR",
            "RESPONDER_QUEUE_TYPE": "classic",
            "ORACLE_FOLDER": calls,
        }
        them = [ResponderProcess("tests.models:chaotic", environment) for _ in range(REPLICAS)]
        try:
            for one in them:
                one.launch()
            for one in them:
                await asyncio.to_thread(one.wait_until_ready)
            async with RedisLink(redis.url, timeout_s=1.0) as link:
                scene = Scene(redis, link, them, chance)
                await _load(scene, amqp_url, namespace, faults, seconds, row)
        finally:
            for one in them:
                one.end()
        _judge(Path(calls), scene.windows, row)
    return row


async def _load(scene: Scene, amqp_url: str, namespace: str, faults: list[str], seconds: float, row: Row) -> None:
    loop = asyncio.get_running_loop()
    ends_at, took_ms = loop.time() + seconds, list[float]()
    async with PredictionClient(amqp_url, namespace=namespace, timeout_s=2 * LIMIT_S) as client:

        async def call(source: random.Random) -> None:
            while loop.time() < ends_at:
                number = source.randrange(KEYS)
                began = time.perf_counter()
                try:
                    answer = await client.predict("chaotic", {"number": number})
                    row.wrong += answer["square"] != number**2
                except PredictionError:
                    row.errors += 1
                took_ms.append((time.perf_counter() - began) * 1000)

        async def hurt() -> None:
            while faults and loop.time() < ends_at - 3:
                await asyncio.sleep(EVERY_S)
                await scene.hurt(scene.chance.choice(faults))
                row.events += 1

        await asyncio.gather(hurt(), *(call(random.Random(number)) for number in range(CALLERS)))
    took_ms.sort()
    row.requests = len(took_ms)
    row.p50_ms, row.worst_ms = round(statistics.median(took_ms), 1), round(took_ms[-1], 1)
    row.p99_ms = round(took_ms[len(took_ms) * 99 // 100], 1)


def _judge(folder: Path, windows: list[tuple[float, float]], row: Row) -> None:
    """Calls of one key that overlap, and those of them that no fault explains."""
    calls: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for path in folder.glob("*.log"):
        begun: defaultdict[int, list[float]] = defaultdict(list)
        for line in path.read_text().splitlines():
            event, number, at = line.split()
            if event == "start":
                row.calls += 1
                begun[int(number)].append(float(at))
            elif begun[int(number)]:
                calls[int(number)].append((begun[int(number)].pop(0), float(at)))
    for intervals in calls.values():
        intervals.sort()
        for index, (begin, end) in enumerate(intervals):
            for other, _ in intervals[index + 1 :]:
                if other >= end:
                    break
                row.overlapping += 1
                if not any(since <= other <= until or since <= begin <= until for since, until in windows):
                    row.outside += 1
                    past = [
                        f"{begin - since:.2f} s, {begin - until:.2f} s" for since, until in windows if since < begin
                    ]
                    row.odd.append(f"{end - begin:.2f} s, the other {other - begin:.2f} s later; the fault {past[-1:]}")


def main() -> int:
    """The table; 0 when nothing happened that must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=14, help="for each kind of fault (14)")
    parser.add_argument("--mixed", type=float, default=45, help="seconds of all faults mixed (45); 0 for none")
    parser.add_argument("--only", nargs="*", choices=["none", *FAULTS], help="these kinds (all, and none)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to have a run again, as far as that goes")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    chosen = parser.parse_args()
    kinds = ["none", *FAULTS] if chosen.only is None else chosen.only
    plans = [([] if kind == "none" else [kind], chosen.seconds) for kind in kinds]
    if chosen.mixed:
        plans.append((list(FAULTS), chosen.mixed))
    print(f"seed {chosen.seed}; {REPLICAS} replicas, {CALLERS} callers, {KEYS} keys, lease {LEASE_S:g} s", flush=True)
    columns = (
        "faults",
        "events",
        "requests",
        "errors",
        "wrong",
        "calls",
        "overlap",
        "outside",
        "p50",
        "p99",
        "worst ms",
    )
    print(f"{columns[0]:12}" + "".join(f"{column:>10}" for column in columns[1:]), flush=True)
    rows = []
    for faults, seconds in plans:
        row = asyncio.run(run(os.environ["AMQP_URL"], faults, seconds, chosen.seed))
        rows.append(row)
        name, *values, odd = asdict(row).values()
        print(f"{name or 'none':12}" + "".join(f"{value:>10}" for value in values), *odd, sep="\n", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0 if all(row.is_well for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
