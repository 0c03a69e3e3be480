"""One process that sends requests on its own connections. An open loop needs no task, future or timer per request."""

import asyncio
import contextlib
import gc
import itertools
import logging
import math
import selectors
import time
import uuid
from collections.abc import Sequence
from multiprocessing.connection import Connection

from amqp_lane import Consumer, Fate, Message, Publisher
from prediction_client.errors import PredictionError
from prediction_client.load.arrivals import ClosedLoop, OpenLoop
from prediction_client.load.ledger import NO_BROKER, NOT_SENT, Ledger
from prediction_client.load.plan import Plan
from prediction_client.load.shipment import Shipment
from prediction_client.many import error_of_fate
from prediction_client.prediction import prediction_of
from prediction_client.reply_channel import ReplyChannel

SHIP_EVERY_S = 0.2
SWEEP_EVERY_S = 0.05
# Requests that are due within one wake-up share a write, because writes cost the broker time: on two cores it keeps up
# with 15,000 requests a second in a write every 2 ms, but not every 0.5 ms. A low rate is on time, a high one is cheap.
WAKE_S, WAKE_S_PER_RATE = (0.0005, 0.002), 0.002 / 15_000
AT_ONCE = 500  # requests in one write
MIN_CONNECT_S, MAX_CONNECT_S = 2.0, 10.0


class Worker:
    """Sends the requests of one process, and reports their outcomes.

    Args:
        plan: the plan of the whole run.
        number: the number of this process.
        orders: brings the start time; any later message, or the end of the pipe, ends the run.
        reports: takes the shipments.
    """

    def __init__(self, plan: Plan, number: int, orders: Connection, reports: Connection) -> None:
        self._plan, self._number, self._orders, self._reports = plan, number, orders, reports
        self._random = plan.random(number)
        self._keys = plan.inputs.keys(number, plan.processes, self._random)
        self._ledger = Ledger(
            timeout_s=plan.timeout_s,
            results=plan.inputs.results,
            same_answers=plan.same_answers,
            on_end=self._wake_caller,
        )
        session = uuid.uuid4().hex[:12].encode()
        self._identifiers = (b"%b-%d" % (session, number) for number in itertools.count(1))
        self._callers: dict[bytes, asyncio.Future[None]] = {}
        self._began = self._cpu_before = 0.0
        self._channel = ReplyChannel(
            plan.broker,
            purpose="prediction load",
            on_lost=lambda: self._ledger.end_all("OUTCOME_UNKNOWN", self._now()),
            on_fate=self._on_fate,
        )
        self._heard = asyncio.Event()  # the parent sent an order, or ended

    async def run(self) -> None:
        """Connect, report that, wait for the start time, and send requests until the plan or the parent ends it."""
        loop = asyncio.get_running_loop()
        self._request(b"", b"", 1.0)  # a request that can never be sent raises here, before the run begins
        loop.add_reader(self._orders.fileno(), self._heard.set)
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000)
        try:
            async with self._channel:
                if not await self._connect():
                    return
                self._report(None)
                await self._heard.wait()
                loop.remove_reader(self._orders.fileno())  # and its callback, which may be scheduled already
                self._began = self._orders.recv()
                self._heard.clear()
                loop.add_reader(self._orders.fileno(), self._heard.set)
                self._cpu_before = time.process_time()
                await self._work(self._channel.inbox, self._channel.outbox)
        finally:
            loop.remove_reader(self._orders.fileno())
        self._report(self._shipment(is_last=True))

    async def _connect(self) -> bool:
        """Wait for the broker; False if it cannot be reached, or if the parent ends the run."""
        connecting = asyncio.ensure_future(self._channel.up())
        hearing = asyncio.ensure_future(self._heard.wait())
        try:
            timeout_s = max(MIN_CONNECT_S, min(MAX_CONNECT_S, self._plan.timeout_s))
            await asyncio.wait({connecting, hearing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done() and not hearing.done():
                why = self._channel.problem or "no answer"
                self._report(f"the broker cannot be reached: {why}")
            return connecting.done() and not hearing.done()
        finally:
            connecting.cancel()
            hearing.cancel()

    async def _work(self, inbox: Consumer, outbox: Publisher) -> None:
        reader = asyncio.create_task(self._read(inbox))
        sends = self._send_on_schedule if isinstance(self._plan.arrivals, OpenLoop) else self._send_in_turn
        sender = asyncio.create_task(sends(inbox, outbox))
        try:
            await self._wait_for_end(sender, reader)
        finally:
            sender.cancel()
            await asyncio.wait({sender})  # first: a caller whose request ends would send the next one
            self._ledger.give_up(self._now())
            await inbox.stop()
            await reader
        if not sender.cancelled():
            sender.result()  # raises its error

    def _now(self) -> float:
        """Seconds since the start time, which all processes share."""
        return time.monotonic() - self._began

    async def _send_on_schedule(self, inbox: Consumer, outbox: Publisher) -> None:
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

    async def _send_in_turn(self, inbox: Consumer, outbox: Publisher) -> None:
        assert isinstance(self._plan.arrivals, ClosedLoop)
        arrivals, process, processes = self._plan.arrivals, self._number, self._plan.processes
        callers = arrivals.share(arrivals.in_flight, process, processes) or 0
        left = arrivals.share(arrivals.requests, process, min(processes, arrivals.in_flight))
        ends_at = math.inf if arrivals.duration_s is None else arrivals.duration_s

        async def call_in_a_loop() -> None:
            """Send one request after another; each is due when the pause after the one before ends."""
            nonlocal left
            await asyncio.sleep(-arrivals.warm_up_s - self._now())
            while left != 0 and (due := self._now()) < ends_at and (key := next(self._keys, None)) is not None:
                left = left - 1 if left is not None and due >= 0 else left
                message = self._message(due, key, due, inbox)
                if message is not None:
                    assert message.correlation_id is not None
                    ended = self._callers[message.correlation_id] = asyncio.get_running_loop().create_future()
                    outbox.send((message,))
                    await ended
                pause_s = arrivals.think_s if message is not None else SWEEP_EVERY_S
                if left != 0:
                    await asyncio.sleep(min(pause_s, max(0.0, ends_at - self._now())))

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(call_in_a_loop())

    def _message(self, due: float, key: int, now: float, inbox: Consumer) -> Message | None:
        """Make a request and enter it in the ledger; None if it cannot be sent."""
        left_s = self._plan.timeout_s - (now - due)
        if not inbox.is_consuming or len(self._ledger) >= self._plan.max_in_flight or left_s <= 0:
            self._ledger.fail(NOT_SENT if inbox.is_consuming else NO_BROKER, due, now, key)
            return None
        identifier = next(self._identifiers)
        self._ledger.begin(identifier, due, now, key)
        return self._request(identifier, self._plan.inputs.body(key), left_s)

    def _request(self, identifier: bytes, body: bytes, left_s: float) -> Message:
        return self._channel.writer.message(
            identifier,
            self._plan.model,
            body,
            left_s=left_s,
            give_up_at=asyncio.get_running_loop().time() + left_s,
            cache_control=self._plan.cache_control,
            tenant=self._plan.tenant,
            trace={},
        )

    def _wake_caller(self, identifier: bytes) -> None:
        caller = self._callers.pop(identifier, None)
        if caller is not None and not caller.done():
            caller.set_result(None)

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

    async def _wait_for_end(self, sender: "asyncio.Task[None]", reader: "asyncio.Task[None]") -> None:
        shipped_at = time.monotonic()
        while not self._heard.is_set() and (len(self._ledger) or not sender.done()):
            await asyncio.sleep(SWEEP_EVERY_S)
            self._ledger.end_late(self._now())
            for task in (sender, reader):
                if task.done():
                    task.result()  # raises its error
            if time.monotonic() - shipped_at >= SHIP_EVERY_S:
                shipped_at = time.monotonic()
                # In a thread: the pipe may be full, and the schedule must not wait.
                await asyncio.to_thread(self._report, self._shipment())

    def _shipment(self, *, is_last: bool = False) -> Shipment:
        shipment = self._ledger.shipment()
        shipment.now_s, shipment.cpu_s = self._now(), time.process_time() - self._cpu_before
        shipment.problem, shipment.is_last = self._channel.problem, is_last
        return shipment

    def _report(self, what: Shipment | str | None) -> None:
        with contextlib.suppress(OSError):  # the parent has ended
            self._reports.send(what)


def precise_loop() -> asyncio.AbstractEventLoop:
    """An event loop with precise timers: those of uvloop and epoll have a resolution of one millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def work(plan: Plan, number: int, orders: Connection, reports: Connection) -> None:
    """The main function of a process; it ends when the parent closes the pipes."""
    for noisy in ("amqp_lane", "aiormq"):  # connection problems are reported to the parent
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    with contextlib.suppress(EOFError), asyncio.Runner(loop_factory=precise_loop) as runner:
        try:
            runner.run(Worker(plan, number, orders, reports).run())
        except (ValueError, PredictionError) as error:  # e.g. an invalid URL, or a name that is too long
            reports.send(str(error))
