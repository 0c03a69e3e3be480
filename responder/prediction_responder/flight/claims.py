"""Claims leases in the store, and gives back a claim whose search was cancelled."""

import asyncio
import secrets

from prediction_responder.cache import Claimed, LeaseStore
from prediction_responder.cache.value import REPLICA_BYTES, TOKEN_BYTES, LeaseMark, Outdated, read, read_failures
from prediction_responder.flight.commit import Commits
from prediction_responder.flight.keeper import Lease


class Claims:
    """Puts marks of this replica into slots.

    Args:
        store: where leases are kept.
        commits: ends a lease that may have been granted to a search that was cancelled.
        replica: the first bytes of this replica's tokens.
        lease_s: the length of a lease.
    """

    def __init__(self, store: LeaseStore, commits: Commits, replica: bytes, lease_s: float) -> None:
        self._store = store
        self._commits = commits
        self._replica = replica
        self._lease_ms = round(lease_s * 1000)

    def new_token(self) -> bytes:
        """A token that no other lease has."""
        return self._replica + secrets.token_bytes(TOKEN_BYTES - REPLICA_BYTES)

    async def claim(self, lease: Lease, seen: bytes) -> Claimed:
        """Claim a lease, and note what stands beside it. `found` is None when its mark is in the slot now.

        Args:
            seen: see `LeaseStore.claim`.

        Raises:
            CacheUnavailable: the claim may have been granted; not if it is CacheRefused.
        """
        try:
            claimed = await self._store.claim(lease.place, lease.mark, self._lease_ms, seen)
        except asyncio.CancelledError:
            self._commits.release(lease)
            raise
        # This replica is alive: what it started and has not ended is no death.
        if claimed.starts:
            lease.starts = tuple(one for one in claimed.starts if not one.startswith(self._replica))
        lease.fence = claimed.fence
        if claimed.failures:
            lease.failures, lease.cools_until_ms = read_failures(lease.generation, claimed.failures)
        return claimed._replace(found=None) if claimed.found == lease.mark else claimed

    async def take_over(self, lease: Lease, found: bytes) -> bool:
        """Replace exactly what was found by the mark of a lease. False if the slot holds something else by now."""
        standing = read(lease.key.digest, lease.generation, found)
        if isinstance(standing, Outdated):
            standing = standing.content
        if isinstance(standing, LeaseMark):
            # Its holder may still end its call, so its start is no death.
            holder = standing.replica
            lease.starts = tuple(one for one in lease.starts if not one.startswith(holder))
        try:
            return await self._store.take_over(lease.place, found, lease.mark, self._lease_ms)
        except asyncio.CancelledError:
            self._commits.release(lease)
            raise
