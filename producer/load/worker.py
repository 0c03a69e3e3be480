"""One process that makes requests, on a lane of its own: no task, future or timer for each of an open loop's."""

import asyncio
import contextlib
import gc
import itertools
import logging
import selectors
import signal
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection

from lane import Amqp, Binding, Consumer, Fate, Message, Publisher, QueueSpec
from producer.load.arrivals import ClosedLoop, OpenLoop
from producer.load.ledger import NO_BROKER, NOT_SENT, Ledger
from producer.load.plan import Plan
from producer.many import error_of_fate
from producer.prediction import REPLY_HEADERS, prediction_of
from producer.request import RequestWriter

SHIP_EVERY_S = 0.2
SWEEP_EVERY_S = 0.05
# Requests that are due within one wake-up share a write. A broker pays for writes: on two cores it keeps up with 15,000
# requests a second in a write each 2 ms, and not in one each half millisecond. So few are on time, and many are cheap.
WAKE_S, WAKE_S_PER_RATE = (0.0005, 0.002), 0.002 / 15_000
AT_ONCE = 500  # requests in one write
CONNECT_TIMEOUT_S = 10.0


class Worker:
    """Makes the requests of one process, and ships what became of them.

    Args:
        plan: the whole run's.
        number: which of its processes this is.
        orders: brings the moment to begin; whatever comes then, or the end of the pipe, ends the run.
        reports: where shipments go.
    """

    def __init__(self, plan: Plan, number: int, orders: Connection, reports: Connection) -> None:
        self._plan, self._number, self._orders, self._reports = plan, number, orders, reports
        self._random = plan.random(number)
        self._keys = plan.inputs.keys(number, plan.processes, self._random)
        self._reply_queue = f"{plan.broker.reply_prefix}{uuid.uuid4().hex}"
        prefix = "" if plan.broker.exchange else f"{plan.broker.namespace}predictions."
        self._writer = RequestWriter(prefix=prefix, reply_to=self._reply_queue, user_id=plan.broker.user_id)
        self._ledger = Ledger(
            timeout_s=plan.timeout_s,
            results=plan.inputs.results,
            same_answers=plan.same_answers,
            on_end=self._answered,
        )
        session = uuid.uuid4().hex[:12].encode()
        self._identifiers = (b"%b-%d" % (session, number) for number in itertools.count(1))
        self._requesters: dict[bytes, asyncio.Future[None]] = {}
        self._began = self._cpu_before = 0.0
        self._is_cut = False

    async def run(self) -> None:
        """Connect, say so, wait for the moment to begin, and make requests until the plan or the parent ends it."""
        async with self._lane() as (inbox, outbox):
            try:
                async with asyncio.timeout(min(CONNECT_TIMEOUT_S, self._plan.timeout_s)):
                    await outbox.up()
                    await inbox.consuming()
            except TimeoutError:
                why = outbox.last_error or inbox.last_error or "no answer"
                self._reports.send(f"the broker cannot be reached: {why}")
                return
            self._reports.send(None)
            self._began = await asyncio.to_thread(self._orders.recv)
            asyncio.get_running_loop().add_reader(self._orders.fileno(), self._cut)
            gc.collect()
            gc.freeze()
            gc.set_threshold(100_000)
            self._cpu_before = time.process_time()
            reader = asyncio.create_task(self._read(inbox))
            arrivals = self._plan.arrivals
            sends = self._on_schedule if isinstance(arrivals, OpenLoop) else self._in_turn
            sender = asyncio.create_task(sends(inbox, outbox))
            try:
                await self._until_all_have_ended(sender, reader)
            finally:
                sender.cancel()
        await reader
        await self._ship(is_last=True)

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[tuple[Consumer, Publisher]]:
        broker = self._plan.broker
        carrier = Amqp(broker.url)
        binding = Binding(broker.reply_exchange, self._reply_queue) if broker.reply_exchange else None
        inbox = carrier.inbox(
            [QueueSpec(self._reply_queue, durable=False, exclusive=True, binding=binding)],
            name="prediction load replies",
            prefetch=1000,
            headers=REPLY_HEADERS,
            no_ack=True,
            on_lost=lambda: self._ledger.end_all("OUTCOME_UNKNOWN", self._now()),
        )
        outbox = carrier.outbox(name="prediction load requests", exchange=broker.exchange, on_fate=self._on_fate)
        async with inbox, outbox:
            yield inbox, outbox

    def _now(self) -> float:
        """Seconds since the moment to begin, which all processes share."""
        return time.monotonic() - self._began

    async def _on_schedule(self, inbox: Consumer, outbox: Publisher) -> None:
        assert isinstance(self._plan.arrivals, OpenLoop)
        arrivals, processes = self._plan.arrivals, self._plan.processes
        wake_s = sorted((*WAKE_S, arrivals.highest_rate / processes * WAKE_S_PER_RATE))[1]
        times = arrivals.times(self._number, processes, self._random)
        planned = zip(times, self._keys, strict=False)
        upcoming = next(planned, None)
        while upcoming is not None:
            now = self._now()
            batch: list[Message | None] = []
            while upcoming is not None and upcoming[0] <= now and len(batch) < AT_ONCE:
                batch.append(self._message(*upcoming, now, inbox))
                upcoming = next(planned, None)
            outbox.send([message for message in batch if message is not None])
            if upcoming is not None:
                left_s = upcoming[0] - self._now()
                await asyncio.sleep(0 if left_s <= 0 else max(left_s, wake_s))

    async def _in_turn(self, inbox: Consumer, outbox: Publisher) -> None:
        assert isinstance(self._plan.arrivals, ClosedLoop)
        arrivals, process, processes = self._plan.arrivals, self._number, self._plan.processes
        left = arrivals.share(arrivals.requests, process, processes)

        async def requester() -> None:
            """It says itself when its next request is due."""
            nonlocal left
            await asyncio.sleep(-arrivals.warm_up_s - self._now())
            while True:
                due = self._now()
                if left == 0 or due >= (arrivals.duration_s or due + 1):
                    return
                if (key := next(self._keys, None)) is None:
                    return
                left = left - 1 if left is not None and due >= 0 else left
                if (message := self._message(due, key, due, inbox)) is not None:
                    assert message.correlation_id is not None
                    ended = self._requesters[message.correlation_id] = asyncio.get_running_loop().create_future()
                    outbox.send((message,))
                    await ended
                await asyncio.sleep(arrivals.think_s if message is not None else SWEEP_EVERY_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(arrivals.share(arrivals.in_flight, process, processes) or 0):
                group.create_task(requester())

    def _message(self, due: float, key: int, now: float, inbox: Consumer) -> Message | None:
        """A request, entered in the ledger; None if it cannot be made."""
        if not inbox.is_consuming or len(self._ledger) >= self._plan.max_in_flight:
            self._ledger.fail(NOT_SENT if inbox.is_consuming else NO_BROKER, due, now, key)
            return None
        identifier = next(self._identifiers)
        self._ledger.begin(identifier, due, now, key)
        left_s = max(0.001, self._plan.timeout_s - (now - due))
        return self._writer.message(
            identifier,
            self._plan.model,
            self._plan.inputs.body(key),
            left_s=left_s,
            give_up_at=asyncio.get_running_loop().time() + left_s,
            cache_control=self._plan.cache_control,
            tenant=self._plan.tenant,
            trace={},
        )

    def _answered(self, identifier: bytes) -> None:
        requester = self._requesters.pop(identifier, None)
        if requester is not None and not requester.done():
            requester.set_result(None)

    async def _read(self, inbox: Consumer) -> None:
        async for batch in inbox:
            now = self._now()
            for delivery in batch:
                identifier = delivery.properties.correlation_id
                if identifier is not None and identifier in self._ledger:
                    self._ledger.end(identifier, prediction_of(delivery), now)
                else:
                    self._ledger.note_unawaited()

    def _on_fate(self, messages: Sequence[Message], fate: Fate) -> None:
        if fate is Fate.CONFIRMED:
            return
        for message in messages:
            identifier, model = message.token
            if identifier in self._ledger:
                self._ledger.end(identifier, error_of_fate(fate, model), self._now())

    async def _until_all_have_ended(self, sender: "asyncio.Task[None]", reader: "asyncio.Task[None]") -> None:
        shipped_at = time.monotonic()
        while not self._is_cut and (len(self._ledger) or not sender.done()):
            await asyncio.sleep(SWEEP_EVERY_S)
            self._ledger.end_late(self._now())
            for task in (sender, reader):
                if task.done():
                    task.result()  # or what went wrong
            if time.monotonic() - shipped_at >= SHIP_EVERY_S:
                shipped_at = time.monotonic()
                await self._ship()

    async def _ship(self, *, is_last: bool = False) -> None:
        shipment = self._ledger.shipment(time.process_time() - self._cpu_before, is_last=is_last)
        with contextlib.suppress(OSError):  # nobody is interested any more
            await asyncio.to_thread(self._reports.send, shipment)  # a pipe may be full, and a schedule does not wait

    def _cut(self) -> None:
        """The parent has had enough, or has gone."""
        self._is_cut = True
        asyncio.get_running_loop().remove_reader(self._orders.fileno())


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop that is on time: uvloop's timers, and epoll's, count in whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def work(plan: Plan, number: int, orders: Connection, reports: Connection) -> None:
    """What a process does; it ends when the parent closes the pipes."""
    for noisy in ("lane", "aiormq"):  # what there is to say of connections is said to the parent
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group; the parent says what to do
    with contextlib.suppress(EOFError), asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(Worker(plan, number, orders, reports).run())
