"""The five promises of a flight."""

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prediction_responder.clock import SYSTEM_CLOCK
from prediction_responder.flight.flight import Flight, Flights

Waiter = asyncio.Future[int]


async def run(flight: Flight[Any, Any]) -> int:
    """The work of a flight is a function here."""
    result: int = await flight.work(flight)
    return result


def settle(flight: Flight[Waiter, Any], value: int | None, error: Exception | None) -> None:
    """Hand the ending to every waiter that still waits."""
    for waiter in flight.waiters:
        if not waiter.done():
            waiter.set_exception(RuntimeError(str(error))) if error else waiter.set_result(value or 0)


class Requesters:
    """Coroutines that wait for one key, as requesters do."""

    def __init__(self) -> None:
        self.flights: Flights[Waiter, Any, int] = Flights(run, settle, SYSTEM_CLOCK)
        self.gate = asyncio.Event()
        self.begun = 0
        self.failure: Exception | None = None

    async def work(self, flight: Flight[Waiter, Any]) -> int:
        """The model."""
        self.begun += 1
        flight.start()
        await self.gate.wait()
        if self.failure:
            raise self.failure
        return 42

    async def wait(self, key: str = "k") -> int:
        """One requester: joins the flight of the key or begins it, and waits for its own ending."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        flight = self.flights.joinable(key)
        if flight is None:
            flight = self.flights.begin(key, waiter, self.work)
        else:
            self.flights.join(flight, waiter)
        try:
            return await waiter
        finally:
            self.flights.leave(flight, waiter)

    def start(self, count: int) -> list[asyncio.Task[int]]:
        """That many requesters."""
        return [asyncio.create_task(self.wait()) for _ in range(count)]


async def test_many_requesters_share_one_call() -> None:
    """One call per key, whoever asks."""
    requesters = Requesters()
    tasks = requesters.start(100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert requesters.flights.waiting == 100
    requesters.gate.set()
    assert await asyncio.gather(*tasks) == [42] * 100
    assert requesters.begun == 1
    assert len(requesters.flights) == 0


@pytest.mark.parametrize("cancelled", range(3))
async def test_a_cancelled_requester_hurts_nobody_else(cancelled: int) -> None:
    """Cancelling the one that began the flight, or any follower, disturbs nobody."""
    requesters = Requesters()
    tasks = requesters.start(3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    requesters.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert results.count(42) == 2
    assert requesters.begun == 1


async def test_awaiting_the_shared_task_would_be_noticed() -> None:
    """The fault that other single flights have, planted: one cancelled requester takes everybody with it."""

    class Sharing(Requesters):
        async def wait(self, key: str = "k") -> int:
            waiter: Waiter = asyncio.get_running_loop().create_future()
            flight = self.flights.joinable(key)
            if flight is None:
                flight = self.flights.begin(key, waiter, self.work)
            else:
                self.flights.join(flight, waiter)
            assert flight.task is not None
            await flight.task
            return waiter.result()

    requesters = Sharing()
    tasks = requesters.start(3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    requesters.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results.count(42) == 0


async def test_started_work_outlives_its_last_requester() -> None:
    """What has started runs to its end: it is paid for already."""
    requesters = Requesters()
    (task,) = requesters.start(1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert len(requesters.flights) == 1
    requesters.gate.set()
    await requesters.flights.idle()
    assert requesters.begun == 1


async def test_work_that_has_not_started_ends_with_its_last_requester() -> None:
    """Nobody waits and nothing is paid for: the flight is cancelled and its key is gone."""
    landed: list[object] = []
    flights: Flights[str, Any, int] = Flights(run, lambda *ending: landed.append(ending), SYSTEM_CLOCK)
    never = asyncio.Event()

    async def waits_for_a_permit(_: Flight[str, Any]) -> int:
        await never.wait()
        return 1

    flight = flights.begin("k", "one", waits_for_a_permit)
    await asyncio.sleep(0)
    flights.leave(flight, "one")
    assert flights.joinable("k") is None
    await flights.idle()
    assert landed == []


async def test_a_failure_reaches_every_requester_and_leaves_no_key() -> None:
    """Success and failure are shared; the next requester tries again."""
    requesters = Requesters()
    requesters.failure = ValueError("no")
    tasks = requesters.start(5)
    await asyncio.sleep(0)
    requesters.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 5
    assert len({id(result) for result in results}) == 5  # each has its own object
    requesters.failure = None
    assert await requesters.wait() == 42
    assert requesters.begun == 2


async def test_work_that_cancels_itself_strands_nobody() -> None:
    """A model that raises CancelledError is a failure like any other."""
    requesters = Requesters()

    async def cancels_itself(_: Flight[Waiter, Any]) -> int:
        raise asyncio.CancelledError

    waiter: Waiter = asyncio.get_running_loop().create_future()
    requesters.flights.begin("k", waiter, cancels_itself)
    with pytest.raises(RuntimeError):
        await waiter
    assert len(requesters.flights) == 0


async def test_a_newer_flight_takes_new_requesters_and_the_older_one_still_lands() -> None:
    """`not_before` asks for work begun after a moment; both flights answer those who wait for them."""
    endings: list[tuple[list[str], int | None]] = []
    first_landed = asyncio.Event()

    def land(flight: Flight[str, Any], value: int | None, _: Exception | None) -> None:
        endings.append((list(flight.waiters), value))
        first_landed.set()

    flights: Flights[str, Any, int] = Flights(run, land, SYSTEM_CLOCK)
    gates = {1: asyncio.Event(), 2: asyncio.Event()}

    def work(number: int) -> object:
        async def run(_: Flight[str, Any]) -> int:
            await gates[number].wait()
            return number

        return run

    flights.begin("k", "old", work(1))
    now = asyncio.get_running_loop().time() + 0.001
    assert flights.joinable("k", now) is None
    newer = flights.begin("k", "new", work(2))
    assert flights.joinable("k") is newer
    gates[1].set()
    await first_landed.wait()
    assert flights.joinable("k") is newer
    gates[2].set()
    await flights.idle()
    assert endings == [(["old"], 1), (["new"], 2)]


async def test_the_leaders_context_does_not_leak_into_shared_work() -> None:
    """A trace or a tenant of the one who came first is not everybody's."""
    secret: ContextVar[str] = ContextVar("secret", default="nobody's")
    seen: list[str] = []
    flights: Flights[str, Any, int] = Flights(run, lambda *_: None, SYSTEM_CLOCK)

    async def work(_: Flight[str, Any]) -> int:
        seen.append(secret.get())
        return 1

    secret.set("the leader's")
    flights.begin("k", "one", work)
    await flights.idle()
    assert seen == ["nobody's"]


async def test_take_back_returns_only_those_whose_work_has_not_started() -> None:
    """While draining, what has not started is handed back and the rest goes on."""
    flights: Flights[str, Any, int] = Flights(run, lambda *_: None, SYSTEM_CLOCK)
    gate = asyncio.Event()

    async def started(flight: Flight[str, Any]) -> int:
        flight.start()
        await gate.wait()
        return 1

    async def waiting(_: Flight[str, Any]) -> int:
        await gate.wait()
        return 1

    flights.begin("a", "started", started)
    flights.begin("b", "waiting", waiting)
    await asyncio.sleep(0)
    assert flights.take_back(started=False) == ["waiting"]
    assert len(flights) == 1
    assert flights.take_back(started=True) == ["started"]
    await flights.idle()


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ask", "leave", "open", "fail"])), max_size=40))
async def test_any_schedule_answers_every_requester_once(steps: list[tuple[int, str]]) -> None:  # noqa: C901
    """Arrivals, departures, successes and failures in any order: one joinable flight per key, one ending each."""
    endings: list[str] = []
    flights: Flights[str, Any, int] = Flights(run, lambda flight, *_: endings.extend(flight.waiters), SYSTEM_CLOCK)
    gates: dict[int, asyncio.Future[int]] = {}
    waiting: dict[str, tuple[int, Flight[str, Any]]] = {}
    left: set[str] = set()

    async def work(key: int) -> int:
        return await gates[key]

    for number, (key, step) in enumerate(steps):
        waiter = f"w{number}"
        if step == "ask":
            flight = flights.joinable(key)
            if flight is None:
                gates[key] = asyncio.get_running_loop().create_future()
                flight = flights.begin(key, waiter, lambda _, key=key: work(key))
            else:
                flights.join(flight, waiter)
            waiting[waiter] = key, flight
        elif step == "leave":
            mine = [name for name, (its_key, _) in waiting.items() if its_key == key and name not in left]
            if mine and mine[0] not in endings:
                left.add(mine[0])
                flights.leave(waiting[mine[0]][1], mine[0])
        elif key in gates and not gates[key].done():
            gates[key].set_result(1) if step == "open" else gates[key].set_exception(ValueError())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    for gate in gates.values():
        if not gate.done():
            gate.set_result(1)
    await flights.idle()
    for gate in gates.values():
        if not gate.cancelled():
            gate.exception()
    assert sorted(endings) == sorted(set(waiting) - left)
    assert all(flights.joinable(key) is None for key in range(4))
