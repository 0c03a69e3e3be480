"""One call per key in this process, however many callers.

Flights promise:

1. Per key, one flight at a time takes new waiters.
2. The work belongs to no caller: it runs in a task of its own. Waiters are records, not awaiting tasks, so the
   cancellation of one cannot reach the work or another waiter.
3. Success and failure reach every waiter.
4. A flight's key is removed when the flight ends, however it ends.
5. Waiting is observable: `repr()`, `len()`, `waiting`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import Context
from typing import Generic, TypeVar

from prediction_responder.clock import Clock

W = TypeVar("W", bound=Hashable)
X = TypeVar("X")
T = TypeVar("T")


class Flight(Generic[W, X]):
    """One computation and its waiters, in the order in which they joined; the first one leads.

    A flight without a leader is background work; `asked` is whether a waiter has joined it by now.
    """

    __slots__ = ("asked", "begun_at", "key", "leader", "started", "task", "waiters", "work")

    def __init__(self, key: Hashable, leader: W | None, work: X, begun_at: float) -> None:
        self.key = key
        self.work = work
        self.leader = leader
        self.asked = leader is not None
        self.waiters: dict[W, None] = {} if leader is None else {leader: None}
        self.begun_at = begun_at
        self.started = False
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Mark the model as started: from now on the work runs to its own time limit, even when all waiters leave."""
        self.started = True

    def __repr__(self) -> str:
        return f"<Flight {self.key!r} waiting={len(self.waiters)} {'started' if self.started else 'not started'}>"


class Flights(Generic[W, X, T]):
    """The flights in progress.

    Args:
        run: does the work of a flight.
        clock: when flights begin.
        finish: called once for each flight that ends and was not cancelled, with its value or its exception, after its
            key is removed. It answers `flight.waiters`.
    """

    def __init__(
        self,
        run: Callable[[Flight[W, X]], Awaitable[T]],
        finish: Callable[[Flight[W, X], T | None, Exception | None], None],
        clock: Clock,
    ) -> None:
        self._work = run
        self._finish = finish
        self._clock = clock
        self._newest: dict[Hashable, Flight[W, X]] = {}
        self._all: set[Flight[W, X]] = set()
        self._background: set[Flight[W, X]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many flights are in progress, without background work."""
        return len(self._all) - len(self._background)

    def __repr__(self) -> str:
        return f"<Flights {len(self)} in flight, {self.waiting} waiting, {self.background} in the background>"

    @property
    def background(self) -> int:
        """How many flights are background work."""
        return len(self._background)

    @property
    def waiting(self) -> int:
        """How many waiters there are."""
        return sum(len(flight.waiters) for flight in self._all)

    def joinable(self, key: Hashable, not_before: float = 0.0) -> Flight[W, X] | None:
        """The flight that a waiter may join: the newest of its key, if it began at `not_before` or later."""
        flight = self._newest.get(key)
        return flight if flight is not None and flight.begun_at >= not_before else None

    def join(self, flight: Flight[W, X], waiter: W) -> None:
        """Add a waiter to a flight."""
        flight.waiters[waiter] = None
        flight.asked = True
        self._background.discard(flight)

    def begin(self, key: Hashable, leader: W | None, work: X) -> Flight[W, X]:
        """Start a flight. It replaces an older flight of its key: later waiters join the new one.

        Without a leader it is background work.
        """
        flight = Flight(key, leader, work, self._clock.now_s())
        self._newest[key] = flight
        self._all.add(flight)
        if leader is None:
            self._background.add(flight)
        self._empty.clear()
        # An empty context: the leader's trace, tenant or other context variables must not leak into shared work.
        flight.task = asyncio.get_running_loop().create_task(self._run(flight), context=Context())
        # A task that is cancelled before its first step never enters the coroutine, so a callback removes the flight.
        flight.task.add_done_callback(lambda _: self._remove(flight))
        return flight

    def leave(self, flight: Flight[W, X], waiter: W) -> None:
        """Remove a waiter. If it was the last one and the model has not started, cancel the flight."""
        flight.waiters.pop(waiter, None)
        if not flight.waiters and not flight.started:
            self._cancel(flight)

    def take_back(self, *, started: bool) -> list[W]:
        """End the flights whose model has not started, or all if `started`, and return their waiters."""
        taken: list[W] = []
        for flight in [one for one in self._all if started or not one.started]:
            taken.extend(flight.waiters)
            flight.waiters.clear()
            self._cancel(flight)
        return taken

    def drop_background(self) -> int:
        """End the background flights whose model has not started; returns how many there were."""
        dropped = [one for one in self._background if not one.started]
        for flight in dropped:
            self._cancel(flight)
        return len(dropped)

    async def idle(self) -> None:
        """Wait until no flight is in progress."""
        await self._empty.wait()

    def _cancel(self, flight: Flight[W, X]) -> None:
        if flight.task is not None:
            flight.task.cancel()
        self._remove(flight)

    def _remove(self, flight: Flight[W, X]) -> None:
        if self._newest.get(flight.key) is flight:
            del self._newest[flight.key]
        self._all.discard(flight)
        self._background.discard(flight)
        if not self._all:
            self._empty.set()

    async def _run(self, flight: Flight[W, X]) -> None:
        value: T | None = None
        failure: Exception | None = None
        try:
            value = await self._work(flight)
        except asyncio.CancelledError:
            if not flight.waiters:
                raise  # by `_cancel`, which is called only on flights without waiters
            failure = RuntimeError("the work cancelled itself")
        except Exception as error:  # noqa: BLE001 - every waiter gets it
            failure = error
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - it must not end the event loop, nor strand the waiters
            failure = RuntimeError(f"the work raised {type(error).__name__}")
            failure.__cause__ = error
        # From here to `_finish` nothing awaits, so no waiter can join a flight that has its value.
        self._remove(flight)
        self._finish(flight, value, failure)
