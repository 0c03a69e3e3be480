"""Ends leases: with an answer or an error for the followers, or without a result."""

import asyncio
from dataclasses import dataclass

from prediction_responder.cache import (
    CachedAnswers,
    CacheRefused,
    CacheUnavailable,
    Commit,
    Entry,
    LeaseStore,
    encode_entry,
)
from prediction_responder.cache.push import ERROR, NOTHING, VALUE
from prediction_responder.cache.value import CoolDown, Unshared, failures_note
from prediction_responder.clock import Clock
from prediction_responder.flight.keeper import Keeper, Lease

UNSHARED_MS = 60_000
MAX_COOL_DOWN_MS = 8_000


@dataclass(frozen=True)
class Cooling:
    """The model failed on this input recently, and is not called again before `until_ms`."""

    until_ms: int


class Commits:
    """Ends leases.

    Args:
        store: where leases are kept.
        answers: is told when the store fails.
        keeper: renews leases until they end, and repeats commits that got no reply.
        clock: for the ends of cool-downs.
    """

    def __init__(self, store: LeaseStore, answers: CachedAnswers, keeper: Keeper, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._answers = answers
        self._keeper = keeper
        self._sending: set[asyncio.Task[bool]] = set()

    async def close(self) -> None:
        """Wait for the commits that are being sent."""
        if self._sending:
            await asyncio.wait(set(self._sending))

    async def commit(self, lease: Lease, entry: Entry, lives_ms: int) -> bool:
        """Push an answer to the followers and keep it for `lives_ms`. Returns whether it is kept."""
        value = encode_entry(lease.key.digest, lease.generation, entry, entry.stored_at_ms + lives_ms)
        return await self._end(lease, VALUE, value, lives_ms, failures=b"") and lives_ms > 0

    async def commit_too_large(self, lease: Lease, entry: Entry) -> None:
        """Push an answer too large to be kept. For UNSHARED_MS, no replica waits for another's call of its key."""
        value = encode_entry(lease.key.digest, lease.generation, entry)
        await self._end(
            lease, VALUE, value, mark=Unshared(lease.generation, lease.token).encoded, mark_ms=UNSHARED_MS, failures=b""
        )

    async def commit_error(self, lease: Lease, content: bytes, cool_ms: int = 0) -> None:
        """Push an error to the followers, so that they do not try one after the other.

        Args:
            cool_ms: how long the model is not to be called again on this input; 0 if the next request may.
        """
        if cool_ms == 0:
            await self._end(lease, ERROR, content)
            return
        until_ms = self._clock.now_ms() + cool_ms
        mark = CoolDown(lease.generation, until_ms).encoded
        note = failures_note(lease.generation, until_ms, lease.failures + 1)
        await self._end(lease, ERROR, content, mark=mark, mark_ms=cool_ms, failures=note)

    def abandon(self, lease: Lease) -> None:
        """End a lease, if still held, without a result: followers look again, and one leads. Does not wait."""
        if self._keeper.holds(lease):
            self.release(lease)

    def release(self, lease: Lease) -> "asyncio.Task[bool]":
        """End a lease that may have been granted, after its claim. The task that does it need not be awaited."""
        task = asyncio.ensure_future(self._end(lease, NOTHING))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _end(
        self,
        lease: Lease,
        kind: bytes,
        content: bytes = b"",
        lives_ms: int = 0,
        mark: bytes = b"",
        mark_ms: int = 0,
        failures: bytes | None = None,
    ) -> bool:
        self._keeper.drop(lease)
        if not failures and not lease.failures:
            failures = None  # there is no note to erase
        # If the model never started, its crash count stays.
        clear = lease.started
        commit = Commit(lease.held, content, lives_ms, kind, lease.key.digest, clear, mark, mark_ms, failures)
        try:
            stood = await self._store.commit(commit)
            return self._keeper.count_fenced(stood) if kind != NOTHING else stood
        except CacheRefused as error:
            self._answers.note_outage(error)
        except CacheUnavailable as error:
            self._answers.note_outage(error)
            self._keeper.commit_later(commit)
        return False
