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

from prediction_responder.cache import (
    CachedAnswers,
    CacheRefused,
    CacheUnavailable,
    Claimed,
    Entry,
    LeaseStore,
    Place,
    Slot,
    decode_entry,
)
from prediction_responder.cache.keys import beside_name
from prediction_responder.cache.value import (
    TOKEN_BYTES,
    cools_until_ms,
    generation_of,
    is_lease,
    is_unshared,
    lease_mark,
    read_failures,
    token_of,
)
from prediction_responder.flight.commit import ERROR, HANDED_OVER, MAX_COOL_DOWN_MS, VALUE, Commits
from prediction_responder.flight.crashes import Crashes
from prediction_responder.flight.follower import Followers
from prediction_responder.flight.freshness import is_fresh
from prediction_responder.flight.keeper import Keeper, Lease
from prediction_responder.messages import Key

REPLICA_BYTES = 8
ON_ITS_WAY_S = 0.05
POLL_S = 1.0  # pushes may be lost: a follower looks again at least this often
JITTER_S = (0.002, 0.030)


@dataclass(frozen=True)
class PushedError:
    """How a flight of another replica failed: what `Lease` holders hand to `commit_error`."""

    content: bytes


@dataclass(frozen=True)
class Cooling:
    """The model has failed on this input lately, and is not tried again before `until_ms`."""

    until_ms: int


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
        self.keeper = Keeper(store, lease_s, count)
        self.commits = Commits(store, answers, self.keeper)
        self.crashes = Crashes(store, answers, self._replica)
        self.followers = Followers()
        store.listen(self.followers.pushed, self.followers.look_again)

    def __repr__(self) -> str:
        return f"<Leases of {self._replica.hex()}: {self.keeper!r}, {len(self.followers)} followed>"

    async def close(self) -> None:
        """Send what is still to be said, if the store listens, and stop renewing."""
        await self.commits.close()
        await self.keeper.close()

    async def acquire(  # noqa: C901 - one branch for each thing that may stand there
        self,
        key: Key,
        generation: bytes | None,
        *,
        seen: bytes = b"",
        only_later: bool = False,
        on_lease: Callable[[bytes, bytes], None] = lambda _generation, _token: None,
    ) -> Lease | Entry | PushedError | Cooling | None:
        """Lead, or wait for the answer of who does. None: call the model, and tell nobody.

        Args:
            generation: of the key's model, as it was looked up; None to ask for it.
            seen: the head of an answer that is there and not wanted; its lease is to stand beside it.
            only_later: take nothing whose computation had begun before, and wait for none. No clock says when that was:
                what is there may be older, and so may be the first lease that is met; the next one is not.
            on_lease: called with the generation and the token of whoever is found to lead, ourselves included.

        Raises:
            CacheUnavailable: nothing is known of this key; the model may be called without a lease.
        """
        token = self._new_token()
        unwanted, earlier, is_later = {seen}, b"", not only_later
        slot = Slot.REFRESH if seen else Slot.VALUE
        while True:
            generation = generation or await self._answers.generation(key)
            lease = Lease(key, Place(key.name, slot), lease_mark(generation, token), generation)
            try:
                claimed = await self._claim(lease, seen)
            except CacheRefused:
                raise
            except CacheUnavailable as error:
                # With no reply we may have led since. Then we lead, and renewals and the commit find out.
                self._answers.went_down(error)
                return self._lead(lease, on_lease)
            if claimed.moved:  # there is something newer than what was seen, or nothing
                slot, seen = Slot.VALUE, b""
                continue
            found = claimed.found
            if found is None and self._cools(lease):
                self.commits.release(lease)
                return Cooling(lease.cools_until_ms)
            if found is None and not only_later and _is_lease_in(generation, claimed.beside):
                # Somebody works on it beside the place that we found empty, and would not want another call.
                self.commits.release(lease)
                found, slot, seen = claimed.beside, Slot.REFRESH, b""
                lease = Lease(key, Place(key.name, slot), lease.mark, generation)
            if found is None:
                return self._lead(lease, on_lease)
            if (until_ms := cools_until_ms(generation, found)) is not None:
                return Cooling(until_ms)
            entry = decode_entry(key.digest, generation, found) if slot is Slot.VALUE else None
            if generation_of(found) == generation and is_unshared(found):
                on_lease(generation, token_of(found))
                return None
            if _is_lease_in(generation, found):
                if only_later and slot is Slot.VALUE:
                    slot = Slot.REFRESH  # that one had begun before
                    continue
                on_lease(generation, token_of(found))
                is_later = is_later or earlier not in (b"", found)
                landed = await self._follow(lease, found)
                if not is_later:
                    earlier = found
                    # It began beside the value that was seen, and has ended: what replaces its answer began later.
                    is_later = landed is not None and bool(seen)
                    unwanted |= {landed.head} if isinstance(landed, Entry) else set()
                elif landed is not None:
                    return landed
                elif slot is Slot.REFRESH:
                    slot, seen = Slot.VALUE, b""  # a large answer is not pushed
                if landed is None:
                    generation = None  # by now it may be another, in which nobody would follow our lease
            elif entry is not None:
                if is_later and is_fresh(entry, self._answers.now_ms()) and entry.head not in unwanted:
                    return entry
                slot, seen = Slot.REFRESH, entry.head
                unwanted.add(seen)
            # What stands there is of another generation, or no value at all. If ours is the old generation, what
            # stands there may be better than what we would replace it with.
            elif (current := await self._answers.generation(key)) != generation:
                generation = current
            elif await self._take_over(lease, found):
                return self._lead(lease, on_lease)

    async def acquire_refresh(
        self, key: Key, seen: bytes, on_lease: Callable[[bytes, bytes], None] = lambda _generation, _token: None
    ) -> Lease | int:
        """Lead the refresh of an answer that is still good, whose head is `seen`. Waits for nobody.

        Returns:
            The lease, or for how many milliseconds there is no need to try again: another one leads, or the model has
            failed lately; 0 when it is done.

        Raises:
            CacheUnavailable: not now.
        """
        generation = generation_of(seen)
        mark = lease_mark(generation, self._new_token())
        lease = Lease(key, Place(key.name, Slot.REFRESH), mark, generation)
        try:
            claimed = await self._claim(lease, seen)
        except CacheRefused:
            raise
        except CacheUnavailable:
            self.commits.release(lease)
            raise
        if claimed.found is not None or claimed.moved:
            return claimed.left_ms
        if self._cools(lease):
            self.commits.release(lease)
            return lease.cools_until_ms - self._answers.now_ms()
        return self._lead(lease, on_lease)

    def _cools(self, lease: Lease) -> bool:
        """Whether the model is not to be tried yet, though the mark that said so has gone. Clocks may differ."""
        return 0 < lease.cools_until_ms - self._answers.now_ms() <= MAX_COOL_DOWN_MS

    def _new_token(self) -> bytes:
        return self._replica + secrets.token_bytes(TOKEN_BYTES - REPLICA_BYTES)

    async def _claim(self, lease: Lease, seen: bytes) -> Claimed:
        """What stands in the lease's place; nothing when that is the lease."""
        try:
            claimed = await self._store.claim(lease.place, lease.mark, self._lease_ms, seen)
        except asyncio.CancelledError:
            self.commits.release(lease)
            raise
        lease.starts = tuple(one for one in claimed.starts if one != self._replica)  # we are alive
        lease.fence = claimed.fence
        lease.failures, lease.cools_until_ms = read_failures(lease.generation, claimed.failures)
        return claimed._replace(found=None) if claimed.found == lease.mark else claimed

    async def _take_over(self, lease: Lease, found: bytes) -> bool:
        if is_lease(found):
            holder = token_of(found)[:REPLICA_BYTES]  # whose start may well come to an end
            lease.starts = tuple(one for one in lease.starts if one != holder)
        try:
            return await self._store.take_over(lease.place, found, lease.mark, self._lease_ms)
        except asyncio.CancelledError:
            self.commits.release(lease)
            raise

    def _lead(self, lease: Lease, on_lease: Callable[[bytes, bytes], None]) -> Lease:
        on_lease(lease.generation, lease.token)
        self.keeper.hold(lease)
        self.crashes.note_deaths(lease)
        return lease

    async def _follow(self, lease: Lease, mark: bytes) -> Entry | PushedError | None:
        """What the holder of a mark ends with; None when it is time to look again."""
        key, place = lease.key, lease.place
        # We listen before we ask to be told, or what is said in between would be lost.
        with self.followers.waiter(key.digest, token_of(mark)) as waiter:
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
        if kind == HANDED_OVER:
            [handed_over] = await self._store.get_many([beside_name(place.name, "h")])
            content = handed_over or b""
        return decode_entry(key.digest, lease.generation, content) if kind in (VALUE, HANDED_OVER) else None


def _is_lease_in(generation: bytes, found: bytes) -> bool:
    return generation_of(found) == generation and is_lease(found)
