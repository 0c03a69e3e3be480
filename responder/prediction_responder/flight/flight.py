"""One call per key in this process, whoever asks.

A flight in five promises:

1. Per key, one flight at a time takes new waiters.
2. The work belongs to no caller: it runs in a task of its own. Waiters are records, not awaiters, so there is no
   await through which the cancellation of one could reach the work or another waiter.
3. Success and failure reach every waiter.
4. No key survives its flight, whatever happened.
5. Waiting is observable: `repr()`, `len()`, `waiting`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

W = TypeVar("W", bound=Hashable)
T = TypeVar("T")


class Flight(Generic[W]):
    """One computation and those who wait for it. `waiters` keeps the order of boarding; the first one leads.

    A flight without a leader is background work; `asked` is whether anybody has boarded it by now.
    """

    __slots__ = ("about", "asked", "begun_at", "key", "leader", "started", "task", "waiters")

    def __init__(self, key: Hashable, leader: W | None, begun_at: float, about: object = None) -> None:
        self.key = key
        self.leader = leader
        self.asked = leader is not None
        self.waiters: dict[W, None] = {} if leader is None else {leader: None}
        self.begun_at = begun_at
        self.about = about
        self.started = False
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The model begins: from now on the work runs to its own limit."""
        self.started = True

    def __repr__(self) -> str:
        return f"<Flight {self.key!r} waiting={len(self.waiters)} {'started' if self.started else 'not started'}>"


Work = Callable[[Flight[W]], Awaitable[T]]
Finish = Callable[[Flight[W], T | None, Exception | None], None]


class Flights(Generic[W, T]):
    """The flights that are in the air.

    Args:
        land: called once for each flight that ends, with its value or its exception, after its key is gone. It
            answers `flight.waiters`.
    """

    def __init__(self, finish: "Finish[W, T]") -> None:
        self._finish = finish
        self._newest: dict[Hashable, Flight[W]] = {}
        self._all: set[Flight[W]] = set()
        self._background: set[Flight[W]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many are in the air, but for background work."""
        return len(self._all) - len(self._background)

    def __repr__(self) -> str:
        return f"<Flights {len(self)} in the air, {self.waiting} waiting, {self.background} in the background>"

    @property
    def background(self) -> int:
        """How many fly in the background."""
        return len(self._background)

    @property
    def waiting(self) -> int:
        """How many waiters there are."""
        return sum(len(flight.waiters) for flight in self._all)

    def joinable(self, key: Hashable, not_before: float = 0.0) -> Flight[W] | None:
        """The flight that a waiter may join: the newest of its key, if it began at `not_before` or later."""
        flight = self._newest.get(key)
        return flight if flight is not None and flight.begun_at >= not_before else None

    def join(self, flight: Flight[W], waiter: W) -> None:
        """Add a waiter to a flight."""
        flight.waiters[waiter] = None
        flight.asked = True
        self._background.discard(flight)

    def begin(self, key: Hashable, leader: W | None, work: "Work[W, T]", about: object = None) -> Flight[W]:
        """Start a flight, which takes the place of an older one of its key for those who come later.

        Without a leader it is background work. `about` is whatever its owner wants to remember of it.
        """
        loop = asyncio.get_running_loop()
        flight = Flight(key, leader, loop.time(), about)
        self._newest[key] = flight
        self._all.add(flight)
        if leader is None:
            self._background.add(flight)
        self._empty.clear()
        # An empty context: the leader's trace, tenant or anything else of its own must not leak into shared work.
        flight.task = loop.create_task(self._fly(flight, work), context=Context())
        # A task that is cancelled before its first step never enters the coroutine, so the end is seen from outside.
        flight.task.add_done_callback(lambda _: self._remove(flight))
        return flight

    def leave(self, flight: Flight[W], waiter: W) -> None:
        """Remove a waiter. The flight of the last one is cancelled if the model has not started."""
        flight.waiters.pop(waiter, None)
        if not flight.waiters and not flight.started:
            self._cancel(flight)

    def take_back(self, *, started: bool) -> list[W]:
        """End the flights that have not started, or every one, and return those who waited for them."""
        taken: list[W] = []
        for flight in [one for one in self._all if started or not one.started]:
            taken.extend(flight.waiters)
            flight.waiters.clear()
            self._cancel(flight)
        return taken

    def drop_background(self) -> int:
        """End the background work that has not started; how much that was."""
        dropped = [one for one in self._background if not one.started]
        for flight in dropped:
            self._cancel(flight)
        return len(dropped)

    async def idle(self) -> None:
        """Wait until nothing is in the air."""
        await self._empty.wait()

    def _cancel(self, flight: Flight[W]) -> None:
        if flight.task is not None:
            flight.task.cancel()
        self._remove(flight)

    def _remove(self, flight: Flight[W]) -> None:
        if self._newest.get(flight.key) is flight:
            del self._newest[flight.key]
        self._all.discard(flight)
        self._background.discard(flight)
        if not self._all:
            self._empty.set()

    async def _fly(self, flight: Flight[W], work: "Work[W, T]") -> None:
        value: T | None = None
        failure: Exception | None = None
        try:
            value = await work(flight)
        except asyncio.CancelledError:
            if not flight.waiters:
                raise  # ours: `_cancel` is called on flights without waiters only
            failure = RuntimeError("the work was cancelled from inside")
        except Exception as error:  # noqa: BLE001 - it belongs to the waiters
            failure = error
        # From here to the landing nothing awaits: nobody can board a flight that has its value.
        self._remove(flight)
        self._finish(flight, value, failure)
