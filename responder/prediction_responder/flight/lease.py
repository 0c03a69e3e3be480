"""One call per key across all replicas, while the lease holds.

A lease is a mark in the place of the answer, with a token that no other lease has. The replica that puts it there
leads: it calls the model, renews the mark while it works, and ends the lease with a commit that stores the answer and
pushes it to the followers. A replica that finds another's mark follows. A commit changes nothing once another replica
holds the lease: a leader that was stopped for too long is fenced. docs/explanation/leases.md has the states, and why
this is enough.
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
PUSH_DELAY_S = 0.05  # a push may arrive this much later than a reply: it comes on another connection
POLL_S = 1.0  # pushes may be lost: a follower looks again at least this often
JITTER_S = (0.002, 0.030)


@dataclass(frozen=True)
class PushedError:
    """How the call of another replica failed: the content that its leader passed to `commit_error`."""

    content: bytes


@dataclass(frozen=True)
class Cooling:
    """The model failed on this input recently, and is not called again before `until_ms`."""

    until_ms: int


class Leases:
    """The leases that this replica holds, and those of other replicas that it waits for.

    Args:
        store: where leases are kept; shared by all replicas.
        answers: the answers in that store.
        lease_s: how long a lease lasts when its holder dies. It is renewed after each third of that.
        replica: 8 bytes that no other replica has.
        count: called with the kind of an oddity.
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
        store.listen(self.followers.deliver, self.followers.look_again)

    def __repr__(self) -> str:
        return f"<Leases of {self._replica.hex()}: {self.keeper!r}, {len(self.followers)} followed>"

    async def close(self) -> None:
        """Wait for the commits that are being sent, then stop renewing."""
        await self.commits.close()
        await self.keeper.close()

    async def acquire(  # noqa: C901 - one branch for each kind of content
        self,
        key: Key,
        generation: bytes | None,
        *,
        seen: bytes = b"",
        only_later: bool = False,
        on_lease: Callable[[bytes, bytes], None] = lambda _generation, _token: None,
    ) -> Lease | Entry | PushedError | Cooling | None:
        """Lead, or wait for the leader's result. None: call the model without a lease and commit nothing.

        Args:
            generation: of the key's model, from the look-up; None to read it.
            seen: the head of a cached answer that the request does not accept; the lease then stands beside it.
            only_later: take no result of a call that began before this one. No clock decides that: a cached answer may
                be older, and so may the call of the first lease that is found; the next lease is later.
            on_lease: called with the generation and the token of each mark that leads, our own included.

        Raises:
            CacheUnavailable: the state of this key is unknown; the model may be called without a lease.
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
                # No reply: the claim may have been granted. So lead; renewals and the commit find out.
                self._answers.note_outage(error)
                return self._lead(lease, on_lease)
            if claimed.moved:  # the seen value was replaced, or is gone
                slot, seen = Slot.VALUE, b""
                continue
            found = claimed.found
            if found is None and self._cools(lease):
                self.commits.release(lease)
                return Cooling(lease.cools_until_ms)
            if found is None and not only_later and _is_lease_in(generation, claimed.beside):
                # The place is empty, but a refresh stands beside it: follow that, to avoid a second call.
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
                    slot = Slot.REFRESH  # that call began before this one
                    continue
                on_lease(generation, token_of(found))
                is_later = is_later or earlier not in (b"", found)
                result = await self._follow(lease, found)
                if not is_later:
                    earlier = found
                    # That call began beside the seen value and has ended: what replaces its answer began later.
                    is_later = result is not None and bool(seen)
                    unwanted |= {result.head} if isinstance(result, Entry) else set()
                elif result is not None:
                    return result
                elif slot is Slot.REFRESH:
                    slot, seen = Slot.VALUE, b""  # a large answer is not pushed but stored
                if result is None:
                    generation = None  # read it again: no replica follows a lease of an old generation
            elif entry is not None:
                if is_later and is_fresh(entry, self._answers.now_ms()) and entry.head not in unwanted:
                    return entry
                slot, seen = Slot.REFRESH, entry.head
                unwanted.add(seen)
            # The content is of another generation, or unreadable. If our generation is the old one, the content may be
            # better than what would replace it.
            elif (current := await self._answers.generation(key)) != generation:
                generation = current
            elif await self._take_over(lease, found):
                return self._lead(lease, on_lease)

    async def acquire_refresh(
        self, key: Key, seen: bytes, on_lease: Callable[[bytes, bytes], None] = lambda _generation, _token: None
    ) -> Lease | int:
        """Lead the refresh of an answer that is still good, whose head is `seen`. Waits for no other replica.

        Returns:
            The lease; or for how many milliseconds not to try again, because another replica leads or the model cools
            down; 0 when the answer has been replaced.

        Raises:
            CacheUnavailable: the cache cannot be used now.
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
        """Whether the cool-down lasts though its mark has expired. The wait is bounded, because clocks may differ."""
        return 0 < lease.cools_until_ms - self._answers.now_ms() <= MAX_COOL_DOWN_MS

    def _new_token(self) -> bytes:
        return self._replica + secrets.token_bytes(TOKEN_BYTES - REPLICA_BYTES)

    async def _claim(self, lease: Lease, seen: bytes) -> Claimed:
        """Claim a lease. `found` is None when its mark is in the slot now."""
        try:
            claimed = await self._store.claim(lease.place, lease.mark, self._lease_ms, seen)
        except asyncio.CancelledError:
            self.commits.release(lease)
            raise
        lease.starts = tuple(one for one in claimed.starts if one != self._replica)  # this replica is alive
        lease.fence = claimed.fence
        lease.failures, lease.cools_until_ms = read_failures(lease.generation, claimed.failures)
        return claimed._replace(found=None) if claimed.found == lease.mark else claimed

    async def _take_over(self, lease: Lease, found: bytes) -> bool:
        if is_lease(found):
            holder = token_of(found)[:REPLICA_BYTES]  # it may still end its call, so its start is no death
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
        """The result of the holder of a mark; None when it is time to look again."""
        key, place = lease.key, lease.place
        # Listen before registering, or a push in between would be lost.
        with self.followers.waiter(key.digest, token_of(mark)) as waiter:
            push_delay_s = 0.0
            while not waiter.push.done():
                left_ms = await self._store.register(place, mark, 4 * self._lease_ms)
                if left_ms is None:
                    # If it ended after an earlier registration, its push may still arrive on the other connection.
                    await asyncio.wait({waiter.push}, timeout=push_delay_s)
                    break
                push_delay_s = PUSH_DELAY_S
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
