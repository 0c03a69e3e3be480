"""One call per key everywhere, while the lease holds.

A lease is a mark in the place where the answer will be, with a token that nobody else has. Who puts it there leads: it
calls the model, renews the mark while it works, and ends it with a commit that stores the answer and tells those who
wait. Who finds the mark of another follows. A commit changes nothing once another holds the lease: a leader that was
stopped for too long is fenced. ARCHITECTURE.md has the states and why this is enough.
"""

import asyncio
import random
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from responder.cache import (
    CachedAnswers,
    CacheRefused,
    CacheUnavailable,
    Commit,
    Entry,
    LeaseStore,
    Place,
    Slot,
    decode_entry,
    encode_entry,
)
from responder.cache.entry import TOKEN_BYTES, generation_of, is_lease, lease_mark, token_of
from responder.freshness import is_fresh
from responder.keeping import Keeper, Lease
from responder.keys import Key
from responder.waiting import Waiting

REPLICA_BYTES = 8
ON_ITS_WAY_S = 0.05
POLL_S = 1.0  # pushes may be lost: a follower looks again at least this often
ATTEMPTS_KEPT_MS = 3_600_000
JITTER_S = (0.002, 0.030)
VALUE, ERROR, NOTHING = b"V", b"E", b"P"


@dataclass(frozen=True)
class PushedError:
    """How a flight of another replica failed: what `Lease` holders hand to `commit_error`."""

    content: bytes


class Leases:
    """The leases that this replica holds, and those of others that it waits for.

    Args:
        store: where leases stand; shared by all replicas.
        answers: what is read of it.
        lease_s: how long a lease lasts when its holder dies. It is renewed three times as often.
        replica: 8 bytes that no other replica has.
        count: called with the name of something odd.
    """

    def __init__(
        self,
        store: LeaseStore,
        answers: CachedAnswers,
        *,
        lease_s: float,
        replica: bytes | None = None,
        count: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        self._store = store
        self._answers = answers
        self._lease_ms = round(lease_s * 1000)
        self._replica = replica or secrets.token_bytes(REPLICA_BYTES)
        self._sending: set[asyncio.Task[bool]] = set()
        self.keeper = Keeper(store, lease_s, count)
        self.waiting = Waiting()
        store.listen(self.waiting.pushed, self.waiting.look_again)

    def __repr__(self) -> str:
        return f"<Leases of {self._replica.hex()}: {self.keeper!r}, {len(self.waiting)} followed>"

    async def close(self) -> None:
        """Send what is still to be said, if the store listens, and stop renewing."""
        if self._sending:
            await asyncio.wait(set(self._sending))
        await self.keeper.close()

    async def acquire(  # noqa: C901 - one branch for each thing that may stand there
        self,
        key: Key,
        generation: bytes | None,
        *,
        slot: Slot = Slot.VALUE,
        renews: bool = False,
        only_later: bool = False,
        on_lease: Callable[[bytes, bytes], None] = lambda _generation, _token: None,
    ) -> Lease | Entry | PushedError:
        """Lead, or wait for the answer of who does.

        Args:
            generation: of the key's model, as it was looked up; None to ask for it.
            slot: where to begin: in the place of a missing value, or beside one that is to be replaced.
            renews: take no answer that is there, but one that is computed from now on, or is being computed.
            only_later: take none of a flight that had begun before, either.
            on_lease: called with the generation and the token of whoever is found to lead, ourselves included.

        Raises:
            CacheUnavailable: nothing is known of this key; the model may be called without a lease.
        """
        token = self._replica + secrets.token_bytes(TOKEN_BYTES - REPLICA_BYTES)
        began_ms, earlier = self._answers.now_ms(), b""
        while True:
            generation = generation or await self._answers.generation(key)
            lease = Lease(key, Place(key.name, slot), lease_mark(generation, token), generation)
            found = await self._claim(lease)
            if found is None:
                return self._lead(lease, on_lease)
            entry = decode_entry(key.digest, generation, found) if slot is Slot.VALUE else None
            if is_lease(found) and generation_of(found) == generation:
                if only_later and slot is Slot.VALUE:
                    slot = Slot.REFRESH  # that one had begun before
                    continue
                on_lease(generation, token_of(found))
                landed = await self._follow(lease, found)
                if only_later and earlier in (b"", found):
                    earlier = found  # so had this one; whoever comes after it has not
                elif landed is None and slot is Slot.REFRESH:
                    landed = await self._renewed(key, began_ms, only_later=only_later)
                if landed is not None and earlier != found:
                    return landed
            elif entry is not None and renews:
                slot = Slot.REFRESH
            elif entry is not None and is_fresh(entry, self._answers.now_ms()):
                return entry
            # What stands there is of another generation, stale, or no value at all. If ours is the old generation, what
            # stands there may be better than what we would replace it with.
            elif (current := await self._answers.generation(key)) != generation:
                generation = current
            elif await self._take_over(lease, found):
                return self._lead(lease, on_lease)

    async def _claim(self, lease: Lease) -> bytes | None:
        """What stands in the lease's place; None when that is the lease.

        With no reply we may have led since. Then we lead, and renewals and the commit find out.
        """
        try:
            claimed = await self._store.claim(lease.place, lease.mark, self._lease_ms)
        except CacheRefused:
            raise
        except CacheUnavailable as error:
            self._answers.went_down(error)
            return None
        except asyncio.CancelledError:
            self._say_it_was_nothing(lease)
            raise
        lease.attempts, lease.fence = claimed.attempts, claimed.fence
        return None if claimed.found == lease.mark else claimed.found

    async def _take_over(self, lease: Lease, found: bytes) -> bool:
        if is_lease(found):
            lease.attempts = max(0, lease.attempts - 1)  # its holder's own start, which may well come to an end
        try:
            return await self._store.take_over(lease.place, found, lease.mark, self._lease_ms)
        except asyncio.CancelledError:
            self._say_it_was_nothing(lease)
            raise

    async def _renewed(self, key: Key, began_ms: int, *, only_later: bool) -> Entry | None:
        """What a refresh has stored since, or has begun since; a large value is not pushed."""
        found = await self._answers.look_up([key])
        entry = found[0] if found else None
        if not isinstance(entry, Entry):
            return None
        return entry if entry.stored_at_ms - (entry.duration_ms if only_later else 0) >= began_ms else None

    def count_start(self, lease: Lease) -> None:
        """The model starts: should it take its process with it, the next one who leads knows."""
        lease.started = True
        self._store.count_attempt(lease.place, lease.attempts + 1, ATTEMPTS_KEPT_MS)

    async def commit(self, lease: Lease, entry: Entry, ttl_ms: int) -> bool:
        """Hand an answer over to those who wait, and keep it for `ttl_ms`; False when it was not kept."""
        value = encode_entry(lease.key.digest, lease.generation, entry)
        return await self._end(lease, value, ttl_ms, VALUE) and ttl_ms > 0

    async def commit_error(self, lease: Lease, content: bytes) -> None:
        """Hand an error over to those who wait, so that they do not try one after the other."""
        await self._end(lease, content, 0, ERROR)

    def abandon(self, lease: Lease) -> None:
        """Let go of a lease without an answer: those who wait look again, and one of them leads. Waits for nothing."""
        if self.keeper.holds(lease):
            self._say_it_was_nothing(lease)

    def _say_it_was_nothing(self, lease: Lease) -> None:
        """It goes over the connection on which the lease was claimed, after the claim."""
        task = asyncio.ensure_future(self._end(lease, b"", 0, NOTHING))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _lead(self, lease: Lease, on_lease: Callable[[bytes, bytes], None]) -> Lease:
        on_lease(lease.generation, lease.token)
        self.keeper.hold(lease)
        return lease

    async def _end(self, lease: Lease, content: bytes, ttl_ms: int, kind: bytes) -> bool:
        self.keeper.let_go(lease)
        # Of a model that has not started nothing was learnt.
        commit = Commit(lease.held, content, ttl_ms, kind, lease.key.digest, clear_attempts=lease.started)
        try:
            stood = await self._store.commit(commit)
            return self.keeper.told(stood) if kind != NOTHING else stood
        except CacheRefused as error:
            self._answers.went_down(error)
        except CacheUnavailable as error:
            self._answers.went_down(error)
            self.keeper.say_later(commit)
        return False

    async def _follow(self, lease: Lease, mark: bytes) -> Entry | PushedError | None:
        """What the holder of a mark ends with; None when it is time to look again."""
        key, place = lease.key, lease.place
        # We listen before we ask to be told, or what is said in between would be lost.
        with self.waiting.waiter(key.digest, token_of(mark)) as waiter:
            on_its_way_s = 0.0
            while not waiter.push.done():
                left_ms = await self._store.register(place, mark, 4 * self._lease_ms)
                if left_ms is None:
                    # If it ended after we had registered, we were told on the other connection.
                    await asyncio.wait({waiter.push}, timeout=on_its_way_s)
                    break
                on_its_way_s = ON_ITS_WAY_S
                await asyncio.wait({waiter.push}, timeout=min(left_ms / 1000 + random.uniform(*JITTER_S), POLL_S))
        kind, content = waiter.pushed[:1], waiter.pushed[1:]
        if kind == ERROR:
            return PushedError(content)
        return decode_entry(key.digest, lease.generation, content) if kind == VALUE else None
