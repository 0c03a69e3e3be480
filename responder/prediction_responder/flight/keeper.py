"""Renews the leases that this replica holds, and repeats commits that got no reply."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from prediction_responder.cache import CacheUnavailable, Commit, Held, LeaseStore, Place
from prediction_responder.cache.value import token_of
from prediction_responder.messages import Key
from prediction_responder.observe.logs import logger

log = logger(__name__)

TICK_S = 0.1
UNSENT_KEPT = 1024


@dataclass(eq=False)
class Lease:
    """The right to call the model for a key, and the duty to commit the outcome.

    Args:
        generation: of the model, when the lease was claimed.
        starts: other replicas that started the model for this place before and never ended it.
        fence: of the key, at the claim; when it changes, the commit has no effect.
        failures, cools_until_ms: how often in a row the model failed on this input, and the end of its cool-down.
        started: whether the model was started under this lease.
    """

    key: Key
    place: Place
    mark: bytes
    generation: bytes
    starts: tuple[bytes, ...] = ()
    fence: bytes = b""
    failures: int = 0
    cools_until_ms: int = 0
    started: bool = False

    @property
    def token(self) -> bytes:
        return token_of(self.mark)

    @property
    def held(self) -> Held:
        return Held(self.place, self.mark, self.fence)


class Keeper:
    """Keeps leases alive. Its one task runs while there is a lease to renew or a commit to repeat.

    Args:
        store: where leases are kept.
        lease_s: the length of a lease; it is renewed after each third of that.
        count: called with the kind of an oddity.
    """

    def __init__(self, store: LeaseStore, lease_s: float, count: Callable[[str], None]) -> None:
        self._store = store
        self._lease_s = lease_s
        self._count = count
        self._held: dict[bytes, Lease] = {}
        self._unsent: deque[tuple[Commit, float]] = deque(maxlen=UNSENT_KEPT)
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Keeper {len(self._held)} held, {len(self._unsent)} unsent>"

    def holds(self, lease: Lease) -> bool:
        """Whether a lease is still renewed; False once another replica has it."""
        return lease.token in self._held

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self._held[lease.token] = lease
        self._wake()

    def drop(self, lease: Lease) -> None:
        """Stop renewing a lease."""
        self._held.pop(lease.token, None)

    def commit_later(self, commit: Commit) -> None:
        """Repeat a commit until the store replies, for the length of a lease at most: followers may wait for it."""
        self._unsent.append((commit, asyncio.get_running_loop().time() + self._lease_s))
        self._wake()

    def count_fenced(self, stood: bool) -> bool:  # noqa: FBT001 - the store's reply
        """Count a commit that came too late. Returns the store's reply as it is."""
        if not stood:
            self._count("commit_fenced")
        return stood

    async def close(self) -> None:
        """Stop renewing and repeating."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._keep())

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + self._lease_s / 3
        while self._held or self._unsent:
            await asyncio.sleep(TICK_S)
            try:
                await self._resend()
                if self._held and loop.time() >= renew_at:
                    await self._renew()
                    renew_at = loop.time() + self._lease_s / 3
            except CacheUnavailable:
                continue  # look-ups and claims report the outage
            except Exception:
                log.exception("keeping_leases_failed")

    async def _renew(self) -> None:
        held = list(self._held.values())
        stands = await self._store.renew([lease.held for lease in held], round(self._lease_s * 1000))
        for lease, still in zip(held, stands, strict=True):
            if not still and self._held.pop(lease.token, None) is not None:
                self._count("lease_lost")

    async def _resend(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._unsent:
            commit, until = self._unsent.popleft()
            if until > now:
                try:
                    self.count_fenced(await self._store.commit(commit))
                except CacheUnavailable:
                    self._unsent.appendleft((commit, until))
                    raise
