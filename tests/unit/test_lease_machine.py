"""Leases among replicas that freeze, die and are not heard, in virtual time: whatever happens in whatever order."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import looptime
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from prediction_responder.cache import (
    CachedAnswers,
    CacheUnavailable,
    Claimed,
    Commit,
    Entry,
    Held,
    Place,
    Slot,
)
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.value import LeaseMark, Unshared
from prediction_responder.flight.keeper import Lease
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Key
from tests.stores import Through

T = TypeVar("T")
LEASE_S, TIMEOUT_S = 3.0, 0.2
WINDOW_S = 10.0 + 2 * LEASE_S  # what was hurt shows when a call that had begun meanwhile ends
KEY = Key(b"d" * 16, "{d}:v", "generation")
REPLICAS = st.integers(0, 2)


class LoopClock:
    """The loop's virtual time, as every clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now_s = loop.time

    def now_ms(self) -> int:
        return round(self.now_s() * 1000)


class Wire(Through):
    """A replica's way to the store, which takes time, loses requests and replies, and stops with its replica."""

    inner: MemoryCache

    def __init__(self, world: "World", store: MemoryCache) -> None:
        super().__init__(store)
        self._world = world
        self.loses: list[str] = []
        self.runs = asyncio.Event()
        self.runs.set()
        self.is_dead = False

    async def _over(self, work: Callable[[], Awaitable[T]]) -> T:
        await self.runs.wait()
        lost = self.loses.pop() if self.loses else ""
        await asyncio.sleep(0.001)
        if lost == "request" or self.is_dead:  # what the dead say reaches nobody
            await asyncio.sleep(TIMEOUT_S)
            raise CacheUnavailable("lost")
        done = await work()
        await asyncio.sleep(TIMEOUT_S if lost else 0.001)
        await self.runs.wait()
        if lost:
            raise CacheUnavailable("lost")
        return done

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        return await self._over(lambda: self._world.granted(place, mark, self.inner.claim(place, mark, lease_ms, seen)))

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        return await self._over(
            lambda: self._world.taken(place, mark, self.inner.take_over(place, seen, mark, lease_ms))
        )

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        return await self._over(lambda: self._world.renewed(held, self.inner.renew(held, lease_ms)))

    async def commit(self, commit: Commit) -> bool:
        return await self._over(lambda: self._world.committed(commit, self.inner))

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        def pushed(push: bytes) -> None:
            if self.runs.is_set() and not self.is_dead and "push" not in self.loses:
                on_push(push)

        self.inner.listen(pushed, on_gap)


class Nothing:
    """Hears of progress, and has no use for it."""

    def asks(self, generation: bytes | None, number: int) -> None:
        """Ignored."""

    def meets(self, mark: LeaseMark | Unshared) -> None:
        """Ignored."""

    def waits(self) -> None:
        """Ignored."""


class World:
    """What really happened, seen by nobody but the test."""

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.memory = MemoryCache(clock=clock)
        self.holders: dict[Slot, bytes] = {}
        self.running: dict[object, float] = {}
        self.overlaps: list[float] = []
        self.hurt: list[float] = []
        self.version = 0

    async def granted(self, place: Place, mark: bytes, claim: Awaitable[Claimed]) -> Claimed:
        claimed = await claim
        if claimed.found is None and not claimed.moved:
            self.holders[place.slot] = mark
        return claimed

    async def taken(self, place: Place, mark: bytes, take_over: Awaitable[bool]) -> bool:
        taken = await take_over
        if taken:
            self.holders[place.slot] = mark
        return taken

    async def renewed(self, held: Sequence[Held], renew: Awaitable[list[bool]]) -> list[bool]:
        stands = await renew
        for one, still in zip(held, stands, strict=True):
            if still:
                self.holders[one.place.slot] = one.mark
        return stands

    async def committed(self, commit: Commit, store: MemoryCache) -> bool:
        place, mark, _ = commit.held
        [there] = await store.get_many([beside_name(place.name, Part(place.slot.value))])
        stood = await store.commit(commit)
        empty = there is None and place.slot is Slot.VALUE
        assert not stood or empty or mark == self.holders[place.slot] == there, "a stale commit was accepted"
        return stood

    def begin(self, *, counts: bool) -> object:
        """A call; one that was asked for although there may be another does not count."""
        call = object()
        if counts:
            if self.running:
                self.overlaps.append(self.clock.now_s())
            self.running[call] = self.clock.now_s()
        return call

    def end(self, call: object) -> None:
        self.running.pop(call, None)


class Sim:
    """One replica: everybody who asks it shares one flight, as the service sees to."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wire = Wire(world, world.memory.beside())
        self.answers = CachedAnswers(self.wire)
        self.leases = Leases(self.wire, self.answers, world.clock, lease_s=LEASE_S)
        self.flights: list[asyncio.Task[None]] = []
        self.leads = False

    def ask(self, work_s: float, ttl_s: float, *, fails: bool, renews: bool = False) -> None:
        self._begin(lambda: self._fly(work_s, ttl_s, fails=fails, renews=renews))

    def refresh(self, work_s: float, ttl_s: float, *, fails: bool) -> None:
        self._begin(lambda: self._refresh(work_s, ttl_s, fails=fails))

    def _begin(self, flight: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.flights = [task for task in self.flights if not task.done() or task.exception()]
        if len(self.flights) < 2:
            self.flights.append(asyncio.ensure_future(flight()))

    async def _fly(self, work_s: float, ttl_s: float, *, fails: bool, renews: bool) -> None:
        asked_in = self.world.version
        try:
            lease = await self.leases.acquire(KEY, None, Nothing(), only_later=renews)
        except CacheUnavailable:
            return  # the model is called without a lease
        if isinstance(lease, Entry):
            assert int(lease.body) >= asked_in, "an answer that was invalidated before the question"
        if isinstance(lease, Lease):
            await self._lead(lease, work_s, ttl_s, fails=fails, counts=not renews)

    async def _refresh(self, work_s: float, ttl_s: float, *, fails: bool) -> None:
        """What a request does that was answered with what is there."""
        found = await self.answers.look_up([KEY])
        if not found or not isinstance(found[0], Entry):
            return
        with suppress(CacheUnavailable):
            lease = await self.leases.acquire_refresh(KEY, found[0].head, Nothing())
            if isinstance(lease, Lease):
                await self._lead(lease, work_s, ttl_s, fails=fails, counts=True)

    async def _lead(self, lease: Lease, work_s: float, ttl_s: float, *, fails: bool, counts: bool) -> None:
        version, call = self.world.version, self.world.begin(counts=counts)
        self.leads = True
        try:
            await asyncio.sleep(work_s)
            await self.wire.runs.wait()
        finally:
            self.leads = False
            self.world.end(call)
        if fails:
            await self.leases.commits.commit_error(lease, b"error", cool_ms=0 if ttl_s == 0 else 250)
        else:
            now_ms, ttl_ms = self.world.clock.now_ms(), round(ttl_s * 1000)
            await self.leases.commits.commit(lease, Entry(now_ms, now_ms + ttl_ms, 1, b"%d" % version), 2 * ttl_ms)


class LeaseMachine(RuleBasedStateMachine):
    """Three replicas and one key."""

    @initialize()
    def begin(self) -> None:
        self.loop = looptime.new_event_loop()
        self.world = World(LoopClock(self.loop))
        self.sims = self._run(self._make())

    async def _make(self) -> list[Sim]:
        return [Sim(self.world) for _ in range(3)]

    def _run(self, work: Awaitable[T]) -> T:
        async def within() -> T:
            return await work

        return self.loop.run_until_complete(within())

    async def _do(self, change: Callable[[], Any]) -> None:
        change()

    def _hurt(self) -> None:
        self.world.hurt.append(self.loop.time())

    @rule(
        replica=REPLICAS,
        work_s=st.sampled_from([0.0, 0.5, 2.9, 10.0]),
        ttl_s=st.sampled_from([0.0, 1.0, 60.0]),
        fails=st.booleans(),
        renews=st.booleans(),
    )
    def ask(self, replica: int, work_s: float, ttl_s: float, fails: bool, renews: bool) -> None:  # noqa: FBT001 - drawn
        sim = self.sims[replica]
        if renews:
            self._hurt()  # its answer replaces the lease of a call in the air, so another may begin beside that
        if not sim.wire.is_dead:
            self._run(self._do(lambda: sim.ask(work_s, ttl_s, fails=fails, renews=renews)))

    @rule(
        replica=REPLICAS,
        work_s=st.sampled_from([0.0, 0.5, 2.9, 10.0]),
        ttl_s=st.sampled_from([0.0, 1.0, 60.0]),
        fails=st.booleans(),
    )
    def refresh(self, replica: int, work_s: float, ttl_s: float, fails: bool) -> None:  # noqa: FBT001 - drawn
        sim = self.sims[replica]
        if not sim.wire.is_dead:
            self._run(self._do(lambda: sim.refresh(work_s, ttl_s, fails=fails)))

    @rule(replica=REPLICAS, work_s=st.sampled_from([0.5, 2.9, 10.0]), seconds=st.sampled_from([0.1, 1.0, 3.1, 12.0]))
    def refresh_for_longer_than_the_value_lives(self, replica: int, work_s: float, seconds: float) -> None:
        """And have another one ask for it meanwhile."""
        self.ask(replica, 0.0, 1.0, fails=False, renews=False)
        self.pass_time(0.1)
        self.refresh(replica, work_s, 1.0, fails=False)
        self.pass_time(seconds)
        self.ask((replica + 1) % 3, work_s, 1.0, fails=False, renews=False)
        self.pass_time(0.1)

    @rule()
    def invalidate(self) -> None:
        """From now on no earlier answer; calls in the air become useless, so another may begin beside them."""
        self._hurt()
        self._run(self.world.memory.fence(KEY.name))
        self.world.version += 1

    @rule()
    def invalidate_the_model(self) -> None:
        """The same, for every answer of the model."""
        self._hurt()
        self._run(self.world.memory.settle_generation(KEY.generation_name, secrets.token_bytes(8)))
        self._run(self.world.memory.renew_generation(KEY.generation_name, secrets.token_bytes(8)))
        self.world.version += 1

    @rule(seconds=st.sampled_from([0.0005, 0.0015, 0.1, 1.0, 3.1, 12.0]))
    def pass_time(self, seconds: float) -> None:
        if any(not sim.wire.runs.is_set() or sim.wire.loses for sim in self.sims):
            self._hurt()
        self._run(asyncio.sleep(seconds))
        if any(not sim.wire.runs.is_set() for sim in self.sims):
            self._hurt()

    @rule(replica=REPLICAS)
    def freeze(self, replica: int) -> None:
        self._hurt()
        self.sims[replica].wire.runs.clear()

    @rule(seconds=st.sampled_from([0.1, 3.1, 12.0]), work_s=st.sampled_from([0.5, 10.0]))
    def freeze_the_leader(self, seconds: float, work_s: float) -> None:
        """And have another one asked meanwhile."""
        leaders = [index for index, sim in enumerate(self.sims) if sim.leads and sim.wire.runs.is_set()]
        for index in leaders[:1]:
            self.freeze(index)
            self.pass_time(seconds)
            self.ask((index + 1) % 3, work_s, 60.0, fails=False, renews=False)

    @rule(seconds=st.sampled_from([0.0, 0.0015, 0.1]))
    def thaw(self, seconds: float) -> None:
        for sim in self.sims:
            self._run(self._do(sim.wire.runs.set))
        self.pass_time(seconds)

    @rule(replica=REPLICAS, what=st.lists(st.sampled_from(["request", "reply", "push"]), min_size=1, max_size=4))
    def lose(self, replica: int, what: list[str]) -> None:
        self._hurt()
        self.sims[replica].wire.loses = what

    @rule()
    def flush(self) -> None:
        self._hurt()
        self._run(self.world.memory.__aexit__(None, None, None))

    @precondition(lambda self: sum(not sim.wire.is_dead for sim in self.sims) > 1)
    @rule(replica=REPLICAS)
    def kill(self, replica: int) -> None:
        self._hurt()
        sim = self.sims[replica]
        sim.wire.is_dead = True
        self._run(self._end(sim))

    async def _end(self, sim: Sim) -> None:
        for task in sim.flights:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await sim.leases.keeper.close()

    def teardown(self) -> None:
        """Every live waiter resolves, and calls overlap only where something was hurt within two leases."""
        if not hasattr(self, "loop"):
            return
        try:
            for sim in self.sims:
                sim.wire.loses = []
                self._run(self._do(sim.wire.runs.set))
            self._run(asyncio.sleep(60))
            live = [sim for sim in self.sims if not sim.wire.is_dead]
            assert all(task.done() for sim in live for task in sim.flights), "somebody waits for ever"
            for sim in live:
                for task in sim.flights:
                    task.result()
                assert not len(sim.leases.followers)
            for at in self.world.overlaps:
                assert any(at - WINDOW_S <= hurt <= at for hurt in self.world.hurt), "two calls, and nothing was hurt"
        finally:
            for sim in self.sims:
                self._run(self._end(sim))
                self._run(sim.leases.close())
            self.loop.close()


LeaseMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestLeases = LeaseMachine.TestCase


class Undisturbed(RuleBasedStateMachine):
    """Nobody is hurt: calls never overlap, and an answer is computed once for as long as it lives."""

    begin = LeaseMachine.begin
    _make, _run, _do, _hurt, _end = (
        LeaseMachine._make,
        LeaseMachine._run,
        LeaseMachine._do,
        LeaseMachine._hurt,
        LeaseMachine._end,
    )
    pass_time = LeaseMachine.pass_time
    refresh = LeaseMachine.refresh
    refresh_for_longer_than_the_value_lives = LeaseMachine.refresh_for_longer_than_the_value_lives

    @rule(
        replica=REPLICAS,
        work_s=st.sampled_from([0.0, 0.5, 2.9, 10.0]),
        ttl_s=st.sampled_from([0.0, 1.0, 60.0]),
        fails=st.booleans(),
    )
    def ask(self, replica: int, work_s: float, ttl_s: float, fails: bool, renews: bool = False) -> None:  # noqa: FBT001, FBT002 - drawn
        LeaseMachine.ask(self, replica, work_s, ttl_s, fails, renews=False)

    def teardown(self) -> None:
        LeaseMachine.teardown(self)  # type: ignore[arg-type]
        if hasattr(self, "world"):
            assert self.world.overlaps == []


TestUndisturbed = Undisturbed.TestCase
