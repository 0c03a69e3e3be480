"""A closed-loop load in a process of its own: so many requests in flight, until so many replies have come.

    python -m benchmarks.rpc_load QUEUE [--total N] [--window N] [--keys N] [--fresh] [--headers] [--cache-control TEXT]

It prints one line of JSON, and exits with 1 when a reply is wrong or missing. It speaks through the lane and not
through the client library, so that it costs little beside what it measures.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import sys
import time
import uuid

import numpy as np
import uvloop

from lane import Delivery, Fate, Inbox, Message, Outbox, QueueSpec, Template, header_field

PATIENCE_S = 20.0
BODY = b'{"pair":"%b/EUR","horizon_minutes":5,"returns":[0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8]}'
TRACE = header_field(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


class Load:
    """One run.

    Args:
        keys: how many different bodies there are.
        fresh: every run has bodies that no run had before.
        headers: send a deadline and a trace context with each request, as the client library does.
        cache_control: request directives.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        total: int,
        window: int,
        keys: int,
        fresh: bool,
        headers: bool,
        cache_control: str,
    ) -> None:
        self._queue = queue.encode()
        self._total, self._window = total, window
        salt = uuid.uuid4().hex[:8] if fresh else "C"
        source = random.Random(7)
        self._keys = [source.randrange(keys) if not fresh else number for number in range(total)]
        self._bodies = [BODY % f"{salt}{key}".encode() for key in range(max(self._keys) + 1)]
        self._fields = b""
        if headers:
            self._fields += header_field(b"deadline", b"%d" % ((time.time_ns() // 10**6) + 300_000)) + TRACE
        if cache_control:
            self._fields += header_field(b"cache-control", cache_control.encode())
        reply_to = f"bench.{uuid.uuid4().hex}"
        self._template = Template(content_type=b"application/json", reply_to=reply_to.encode())
        self._inbox = Inbox(
            url,
            [QueueSpec(reply_to, durable=False, exclusive=True)],
            name="load",
            prefetch=1000,
            no_ack=True,
        )
        self._outbox = Outbox(url, name="load", on_fate=self._on_fate)
        self._sent = 0
        self._sent_at = np.zeros(total)
        self._took_s = np.zeros(total)
        self._first: dict[int, bytes] = {}
        self.wrong = 0

    def _on_fate(self, messages: list[Message], fate: Fate) -> None:
        if fate is not Fate.CONFIRMED:
            self.wrong += len(messages)

    def _send(self, count: int) -> None:
        now = time.perf_counter()
        messages = []
        for number in range(self._sent, min(self._sent + count, self._total)):
            self._sent_at[number] = now
            body, identifier = self._bodies[self._keys[number]], b"%d" % number
            messages.append(
                Message(self._queue, body, self._template, identifier, fields=self._fields, mandatory=False)
            )
        self._sent += len(messages)
        self._outbox.send(messages)

    def _take(self, batch: list[Delivery]) -> None:
        now = time.perf_counter()
        for reply in batch:
            number = int(reply.properties.correlation_id or b"-1")
            self._took_s[number] = now - self._sent_at[number]
            body = reply.body or b""
            key = self._keys[number]
            if reply.properties.type == b"error" or self._first.setdefault(key, body) != body:
                self.wrong += 1

    async def run(self) -> dict[str, float]:
        """Send, receive, and say how it went."""
        got = 0
        async with self._inbox, self._outbox:
            await self._inbox.consuming()
            await self._outbox.up()
            began = time.perf_counter()
            self._send(self._window)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S) as patience:
                    async for batch in self._inbox:
                        patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_S)
                        self._take(batch)
                        got += len(batch)
                        if got >= self._total:
                            break
                        self._send(len(batch))
            seconds = time.perf_counter() - began
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._outbox.drained()
        took_ms = np.percentile(self._took_s[: max(got, 1)] * 1000, [50, 99, 100])
        return {
            "total": self._total,
            "missing": self._total - got,
            "wrong": self.wrong,
            "per_second": round(got / seconds, 1),
            "p50_ms": round(float(took_ms[0]), 3),
            "p99_ms": round(float(took_ms[1]), 3),
            "max_ms": round(float(took_ms[2]), 3),
        }


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("queue")
    parser.add_argument("--url", default=os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/"))
    parser.add_argument("--total", type=int, default=20_000)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--headers", action="store_true")
    parser.add_argument("--cache-control", default="")
    given = vars(parser.parse_args())
    result = uvloop.run(Load(given.pop("url"), given.pop("queue"), **given).run())
    print(json.dumps(result))
    sys.exit(1 if result["wrong"] or result["missing"] else 0)


if __name__ == "__main__":
    main()
