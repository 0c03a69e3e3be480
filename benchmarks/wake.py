"""Measure the time from a leader's commit to the answer at a follower in another process.

    python -m benchmarks.wake REDIS_URL COUNT

It prints one line of JSON: p50 and p99 in milliseconds, counted from the moment when the leader sends its commit, and
the same for a bare message through Redis' pub/sub between the same two processes.
"""

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import time

import uvloop

from prediction_responder.cache import CachedAnswers, Entry
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.redis import RedisCache
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.redis_pipeline import Subscription
from prediction_responder.cache.value import LeaseMark, Unshared
from prediction_responder.clock import SYSTEM_CLOCK
from prediction_responder.flight.keeper import Lease
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Key

BODY = b'{"result":{"price":3847.564254}}'


class Unheard:
    """Hears of a search's progress; no request waits for it here."""

    def asks(self, generation: bytes | None, number: int) -> None:
        """A question to the cache is sent."""

    def meets(self, mark: LeaseMark | Unshared) -> None:
        """A mark is found."""

    def waits(self) -> None:
        """Another replica leads."""


def key(salt: str, number: int) -> Key:
    """Make a key of this run."""
    return Key(number.to_bytes(16), f"{salt}{{{number}}}:v", f"{salt}generation")


async def follow(url: str, salt: str, count: int) -> None:
    """Wait for one answer after another; print the time at which each arrived. Then do the same for bare messages."""
    async with RedisCache(url, timeout_s=1.0, inbox=f"{salt}follower") as store:
        leases = Leases(store, CachedAnswers(store), SYSTEM_CLOCK, lease_s=3.0)
        loop = asyncio.get_running_loop()
        for _ in range(count):
            number = int(await loop.run_in_executor(None, sys.stdin.readline))
            entry = await leases.acquire(key(salt, number), None, Unheard())
            at = time.monotonic()
            assert isinstance(entry, Entry), entry
            print(at, flush=True)
    heard: asyncio.Queue[float] = asyncio.Queue()
    bare = Subscription(
        {f"{salt}bare".encode(): lambda _message: heard.put_nowait(time.monotonic())},
        lambda: print("ready", flush=True),
    )
    async with RedisLink(url, timeout_s=1.0, subscription=bare):
        for _ in range(count):
            print(await heard.get(), flush=True)


async def lead(url: str, salt: str, count: int, follower: "subprocess.Popen[bytes]") -> tuple[list[float], list[float]]:
    """Measure the milliseconds from each commit to the follower's answer, and the same for bare messages."""
    took_ms: list[float] = []
    bare_ms: list[float] = []
    loop = asyncio.get_running_loop()
    assert follower.stdin is not None
    assert follower.stdout is not None
    async with (
        RedisCache(url, timeout_s=1.0, inbox=f"{salt}leader") as store,
        RedisLink(url, timeout_s=1.0) as link,
    ):
        leases = Leases(store, CachedAnswers(store), SYSTEM_CLOCK, lease_s=3.0)
        for number in range(count):
            one = key(salt, number)
            lease = await leases.acquire(one, None, Unheard())
            assert isinstance(lease, Lease), lease
            follower.stdin.write(b"%d\n" % number)
            follower.stdin.flush()
            while not await link.ask("SCARD", beside_name(one.name, Part.INBOXES)):  # noqa: ASYNC110 - Redis sets no event
                await asyncio.sleep(0.01)  # then both processes are idle, as they are while a model runs
            now_ms, at = time.time_ns() // 1_000_000, time.monotonic()
            await leases.commits.commit(lease, Entry(now_ms, now_ms + 5000, 10, BODY), 5000)
            woken_at = float(await loop.run_in_executor(None, follower.stdout.readline))
            took_ms.append((woken_at - at) * 1000)
        await leases.close()
        await loop.run_in_executor(None, follower.stdout.readline)  # the follower's "ready": it is subscribed
        for _ in range(count):
            await asyncio.sleep(0.01)  # as above
            at = time.monotonic()
            await link.ask("PUBLISH", f"{salt}bare", BODY)
            heard_at = float(await loop.run_in_executor(None, follower.stdout.readline))
            bare_ms.append((heard_at - at) * 1000)
    return took_ms, bare_ms


def main() -> None:
    """Run the leader, or the follower if a salt is given."""
    url, count, *salt = sys.argv[1:]
    if salt:
        uvloop.run(follow(url, salt[0], int(count)))
        return
    salt_of_run = f"wake{secrets.token_hex(6)}."
    command = [sys.executable, "-m", "benchmarks.wake", url, count, salt_of_run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as follower:
        took_ms, bare_ms = map(sorted, uvloop.run(lead(url, salt_of_run, int(count), follower)))
    facts = {
        "p50_ms": statistics.median(took_ms),
        "p99_ms": took_ms[len(took_ms) * 99 // 100],
        "bare_p50_ms": statistics.median(bare_ms),
        "bare_p99_ms": bare_ms[len(bare_ms) * 99 // 100],
    }
    print(json.dumps({name: round(value, 3) for name, value in facts.items()}))


if __name__ == "__main__":
    main()
