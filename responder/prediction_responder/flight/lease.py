"""One call per key across all replicas, while the lease holds.

A lease is a mark in the place of the answer, with a token that no other lease has. The replica that puts it there
leads: it calls the model, renews the mark while it works, and ends the lease with a commit that stores the answer and
pushes it to the followers. A replica that finds another's mark follows. A commit changes nothing once another replica
holds the lease: a leader that was stopped for too long is fenced.

`Leases.acquire` does the I/O of a search for a lease; the decisions are in `flight.step`.
docs/explanation/leases.md has the states, and why this is enough.
"""

import asyncio
import secrets

from prediction_responder.cache import (
    CachedAnswers,
    CacheRefused,
    CacheUnavailable,
    Claimed,
    Entry,
    LeaseStore,
    Place,
    Slot,
)
from prediction_responder.cache.value import REPLICA_BYTES, LeaseMark, generation_of, read
from prediction_responder.clock import Clock
from prediction_responder.flight.claims import Claims
from prediction_responder.flight.commit import MAX_COOL_DOWN_MS, Commits, Cooling
from prediction_responder.flight.crashes import Crashes
from prediction_responder.flight.follower import Followers, PushedError
from prediction_responder.flight.keeper import Keeper, Lease
from prediction_responder.flight.step import (
    Alone,
    Follow,
    Found,
    Give,
    Lead,
    LookAgain,
    Search,
    TakeOver,
    after_following,
    step,
)
from prediction_responder.flight.work import Progress
from prediction_responder.messages import Key
from prediction_responder.observe.events import NOBODY, Observer


class Leases:
    """The leases that this replica holds, and those of other replicas that it waits for.

    Args:
        store: where leases are kept; shared by all replicas.
        answers: the answers in that store.
        clock: for cool-downs and renewals.
        lease_s: how long a lease lasts when its holder dies. It is renewed after each third of that.
        replica: 8 bytes that no other replica has.
        observer: is told of leases that were lost and of commits that came too late.
    """

    def __init__(
        self,
        store: LeaseStore,
        answers: CachedAnswers,
        clock: Clock,
        *,
        lease_s: float,
        replica: bytes | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self._answers = answers
        self._clock = clock
        self._replica = replica or secrets.token_bytes(REPLICA_BYTES)
        self.keeper = Keeper(store, lease_s, clock, observer)
        self.commits = Commits(store, answers, self.keeper, clock)
        self.crashes = Crashes(store, answers, self._replica, clock)
        self._claims = Claims(store, self.commits, self._replica, lease_s)
        self.followers = Followers(store, lease_s)

    def __repr__(self) -> str:
        return f"<Leases of {self._replica.hex()}: {self.keeper!r}, {len(self.followers)} followed>"

    async def close(self) -> None:
        """Wait for the commits that are being sent, then stop renewing."""
        await self.commits.close()
        await self.keeper.close()

    async def acquire(
        self, key: Key, generation: bytes | None, progress: Progress, *, seen: bytes = b"", only_later: bool = False
    ) -> Lease | Entry | PushedError | Cooling | None:
        """Lead, or wait for the leader's result. None: call the model without a lease and commit nothing.

        Args:
            generation: of the key's model, from the look-up; None to read it.
            progress: is told what the search asks and finds.
            seen: the head of a cached answer that the request does not accept; the lease then stands beside it.
            only_later: take no result of a call that began before this one.

        Raises:
            CacheUnavailable: the state of this key is unknown; the model may be called without a lease.
        """
        token = self._claims.new_token()
        slot = Slot.REFRESH if seen else Slot.VALUE
        search = Search(generation, slot, seen, only_later, is_later=not only_later, unwanted=frozenset({seen}))
        while True:
            ended = await self._look(key, token, search, progress)
            if not isinstance(ended, LookAgain):
                return ended
            search = ended.search

    async def _look(
        self, key: Key, token: bytes, search: Search, progress: Progress
    ) -> Lease | Entry | PushedError | Cooling | LookAgain | None:
        """Claim once, and do what follows from what is found."""
        generation = search.generation
        if generation is None:
            generation = await self._read_generation(key, progress)
            search = search._replace(generation=generation)
        lease = Lease(key, Place(key.name, search.slot), LeaseMark(generation, token))
        progress.asks(generation, self._answers.next_number())
        try:
            claimed = await self._claims.claim(lease, search.seen)
        except CacheRefused:
            raise
        except CacheUnavailable as error:
            # No reply: the claim may have been granted. So lead; renewals and the commit find out.
            self._answers.note_outage(error)
            return self._lead(lease, progress)
        move = step(search, self._read(lease, claimed), self._clock.now_ms())
        if claimed.found is None and not claimed.moved and not isinstance(move, Lead):
            # Our mark stands, and we do not lead. Remove it before we follow: its end wakes every follower of the key.
            await asyncio.wait({self.commits.release(lease)})
        if isinstance(move, Follow):
            progress.meets(move.mark)
            progress.waits()
            pushed = await self.followers.follow(key, Place(key.name, move.search.slot), move.mark)
            move = after_following(move.search, move.mark, pushed)
        match move:
            case Lead():
                return self._lead(lease, progress)
            case TakeOver():
                return await self._take_over(lease, claimed.found or b"", search, progress)
            case Alone(mark):
                progress.meets(mark)
                return None
            case Give(result):
                return result
        return move

    async def _take_over(self, lease: Lease, found: bytes, search: Search, progress: Progress) -> Lease | LookAgain:
        """Replace what was found. If our generation is the old one, that may be better than what would replace it."""
        current = await self._read_generation(lease.key, progress)
        if current == lease.generation and await self._claims.take_over(lease, found):
            return self._lead(lease, progress)
        return LookAgain(search._replace(generation=current))

    async def acquire_refresh(self, key: Key, seen: bytes, progress: Progress) -> Lease | int:
        """Lead the refresh of an answer that is still good, whose head is `seen`. Waits for no other replica.

        Returns:
            The lease; or for how many milliseconds not to try again, because another replica leads or the model cools
            down; 0 when the answer has been replaced.

        Raises:
            CacheUnavailable: the cache cannot be used now.
        """
        token = self._claims.new_token()
        lease = Lease(key, Place(key.name, Slot.REFRESH), LeaseMark(generation_of(seen), token))
        progress.asks(lease.generation, self._answers.next_number())
        try:
            claimed = await self._claims.claim(lease, seen)
        except CacheRefused:
            raise
        except CacheUnavailable:
            self.commits.release(lease)
            raise
        if claimed.found is not None or claimed.moved:
            return claimed.left_ms
        cools_ms = lease.cools_until_ms - self._clock.now_ms()
        if 0 < cools_ms <= MAX_COOL_DOWN_MS:
            self.commits.release(lease)
            return cools_ms
        return self._lead(lease, progress)

    async def _read_generation(self, key: Key, progress: Progress) -> bytes:
        progress.asks(None, self._answers.next_number())
        return await self._answers.generation(key)

    @staticmethod
    def _read(lease: Lease, claimed: Claimed) -> Found:
        digest, generation = lease.key.digest, lease.generation
        place, beside = read(digest, generation, claimed.found), read(digest, generation, claimed.beside)
        return Found(place, beside, claimed.moved, lease.cools_until_ms)

    def _lead(self, lease: Lease, progress: Progress) -> Lease:
        progress.meets(lease.standing)
        self.keeper.hold(lease)
        self.crashes.note_deaths(lease)
        return lease
