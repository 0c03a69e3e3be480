"""A requester that keeps books: Jepsen's words and ours, and a supervisor for replicas that die."""

import asyncio
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from amqp_lane import Fate, Inbox, Message, Outbox, QueueSpec, Settlement, Template, header_field
from deploy.found import Servers
from tests.real import ResponderProcess

Report = Callable[[str, dict[str, object]], None]


class Books:
    """What was asked and what came back.

    attempted: handed to the connection. confirmed: the broker has it. answered: with a result or a typed error, at
    least once. lost: confirmed and neither answered nor dead-lettered. wrong: another result than the oracle's.
    duplicated: further replies to one request, on the wire. unexpected: replies that nobody asked for.
    """

    def __init__(self) -> None:
        self.asked: dict[bytes, int] = {}
        self.confirmed: set[bytes] = set()
        self.not_sent: dict[bytes, Fate] = {}
        self.answered: dict[bytes, str] = {}
        self.latest_reply_at = 0.0
        self.wrong = 0
        self.duplicated = 0
        self.unexpected = 0
        self.statuses: Counter[str] = Counter()
        self.retry_after_ms: list[int] = []
        self.changed = asyncio.Event()

    @property
    def codes(self) -> Counter[str]:
        """How requests ended: `ok` or an error code."""
        return Counter(self.answered.values())

    @property
    def open(self) -> set[bytes]:
        """Confirmed and not answered."""
        return self.confirmed - self.answered.keys()

    def row(self, dead_lettered: int = 0) -> dict[str, object]:
        """The counters."""
        return {
            "attempted": len(self.asked),
            "confirmed": len(self.confirmed),
            "answered": len(self.answered),
            "lost": max(0, len(self.open) - dead_lettered),
            "wrong": self.wrong,
            "duplicated (wire)": self.duplicated,
            "unexpected": self.unexpected,
        }


class Requester:
    """Asks the oracle over the lane, as many at once as it is told.

    Args:
        queue: of the model.
        reply_queue: None for an exclusive one; a name for a durable one, which outlives the broker.
    """

    def __init__(self, url: str, queue: str, reply_queue: str | None = None, reply_queue_type: str = "quorum") -> None:
        self.books = Books()
        self._queue = queue.encode()
        self.reply_queue = reply_queue or f"replies-{random.randbytes(8).hex()}"
        spec = QueueSpec(self.reply_queue, durable=False, exclusive=True)
        if reply_queue is not None:
            spec = QueueSpec(self.reply_queue, arguments={"x-queue-type": reply_queue_type, "x-expires": 600_000})
        self.inbox = Inbox(
            url, [spec], name="requester", prefetch=1000, headers=(b"cache-status", b"retry-after-ms"), heartbeat_s=5
        )
        self.outbox = Outbox(url, name="requests", on_fate=self._on_fate, patience_s=30.0, heartbeat_s=5)
        self._template = Template(content_type=b"application/json", reply_to=self.reply_queue.encode(), persistent=True)
        self._numbers = iter(range(10**9))

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, queue: str, reply_queue: str | None = None) -> AsyncIterator["Requester"]:
        """One that consumes its replies."""
        one = cls(url, queue, reply_queue)
        async with one.inbox, one.outbox:
            await one.inbox.consuming()
            await one.outbox.up()
            task = asyncio.create_task(one._run())
            try:
                yield one
            finally:
                await one.inbox.stop()
                await task

    def ask(
        self,
        number: int,
        *,
        seconds: float = 0.0,
        ending: str = "answer",
        deadline_ms: int | None = None,
        cache_control: str | None = None,
        identifier: bytes | None = None,
    ) -> bytes:
        """Send one request; its identifier."""
        identifier = identifier or b"%d" % next(self._numbers)
        body = json.dumps({"number": number, "seconds": seconds, "ending": ending}).encode()
        fields = b""
        if deadline_ms is not None:
            fields += header_field(b"deadline", b"%d" % (time.time_ns() // 1_000_000 + deadline_ms))
        if cache_control is not None:
            fields += header_field(b"cache-control", cache_control.encode())
        self.books.asked[identifier] = number
        message = Message(self._queue, body, self._template, correlation_id=identifier, fields=fields, token=identifier)
        self.outbox.send((message,))
        return identifier

    async def until(self, condition: Callable[[Books], object], timeout_s: float) -> bool:
        """Wait until the books say so; False when that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(self.books):
                    self.books.changed.clear()
                    await self.books.changed.wait()
        except TimeoutError:
            return False
        return True

    async def all_answered(self, timeout_s: float) -> bool:
        """Wait until every request was confirmed or refused, and every confirmed one is answered."""
        return await self.until(
            lambda books: len(books.confirmed) + len(books.not_sent) == len(books.asked) and not books.open, timeout_s
        )

    def _on_fate(self, messages: list[Message], fate: Fate) -> None:
        for one in messages:
            if fate is Fate.CONFIRMED:
                self.books.confirmed.add(one.token)
            else:
                self.books.not_sent[one.token] = fate
        self.books.changed.set()

    async def _run(self) -> None:
        books = self.books
        async for batch in self.inbox:
            for one in batch:
                identifier = one.properties.correlation_id or b""
                number = books.asked.get(identifier)
                reply = json.loads(one.body or b"null")
                if number is None:
                    books.unexpected += 1
                    continue
                code = reply["error"]["code"] if "error" in reply else "ok"
                books.wrong += code == "ok" and reply["result"] != {"square": number**2}
                books.duplicated += identifier in books.answered
                books.answered.setdefault(identifier, code)
                status = (one.properties.headers.get(b"cache-status") or b"").decode()
                books.statuses[status.partition("ttl=")[0]] += 1
                hint = one.properties.headers.get(b"retry-after-ms")
                if hint is not None:
                    books.retry_after_ms.append(int(hint))
            books.latest_reply_at = time.monotonic()
            books.changed.set()
            self.inbox.settle(batch, Settlement.ACK)


class Fleet:
    """Replicas that are started again when they die, as an orchestrator does."""

    def __init__(self, them: list[ResponderProcess]) -> None:
        self.them = them
        self.deaths = 0
        self._ends = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @classmethod
    @contextmanager
    def running(
        cls,
        servers: Servers,
        namespace: str,
        model: str,
        count: int,
        *,
        module: str = "prediction_responder",
        **environment: str,
    ) -> Iterator["Fleet"]:
        """So many running ones; `module` is what is run."""
        urls = servers.environment(namespace)
        one = cls([ResponderProcess(model, urls | environment, module) for _ in range(count)])
        try:
            for each in one.them:
                each.launch()
            for each in one.them:
                each.wait_until_ready()
            one._watcher.start()
            yield one
        finally:
            one._ends.set()
            if one._watcher.ident is not None:
                one._watcher.join()
            for each in one.them:
                each.end()

    def kill_one(self, chance: random.Random) -> int:
        """SIGKILL one that is ready; its process id."""
        ready = [each for each in self.them if each.process is not None and each.process.poll() is None]
        victim = chance.choice(ready or self.them)
        assert victim.process is not None
        victim.signal(signal.SIGKILL)
        return victim.process.pid

    def memory_mb(self) -> float:
        """What all of them hold in memory."""
        return sum(_rss_mb(each.process.pid) for each in self.them if each.process is not None)

    def _watch(self) -> None:
        while not self._ends.wait(0.02):
            for each in self.them:
                if each.process is not None and each.process.poll() is not None:
                    self.deaths += 1
                    each.launch()


def _rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
