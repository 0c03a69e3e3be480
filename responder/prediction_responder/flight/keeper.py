"""What a replica does beside its flights: it renews the leases that it holds, and says again what was not heard."""

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
    """The right to call the model for a key, and the duty to say how that ended.

    Args:
        generation: of the model, when the lease was claimed.
        starts: other replicas in which the model was started in this place before and never came to an end.
        fence: of the key; should it change, the lease ends in vain.
        failures, cools_until_ms: how often in a row the model has failed on this input, and until when it rests.
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
    """Keeps leases alive. Its one task runs while there is something to keep.

    Args:
        store: where leases stand.
        lease_s: how long they last; they are renewed three times as often.
        count: called with the name of something odd.
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
        """Whether a lease is kept; not any more when another replica has it."""
        return lease.token in self._held

    def hold(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        self._held[lease.token] = lease
        self._wake()

    def drop(self, lease: Lease) -> None:
        """Renew it no more."""
        self._held.pop(lease.token, None)

    def commit_later(self, commit: Commit) -> None:
        """Somebody may wait for this: it is said as soon as the store listens, unless its lease has ended by then."""
        self._unsent.append((commit, asyncio.get_running_loop().time() + self._lease_s))
        self._wake()

    def told(self, stood: bool) -> bool:  # noqa: FBT001 - the store's word
        """Count a commit that came too late."""
        if not stood:
            self._count("commit_fenced")
        return stood

    async def close(self) -> None:
        """Keep nothing any more."""
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
                await self._say()
                if self._held and loop.time() >= renew_at:
                    await self._renew()
                    renew_at = loop.time() + self._lease_s / 3
            except CacheUnavailable:
                continue  # whoever is asking a question now says so
            except Exception:
                log.exception("keeping_leases_failed")

    async def _renew(self) -> None:
        held = list(self._held.values())
        stands = await self._store.renew([lease.held for lease in held], round(self._lease_s * 1000))
        for lease, still in zip(held, stands, strict=True):
            if not still and self._held.pop(lease.token, None) is not None:
                self._count("lease_lost")

    async def _say(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._unsent:
            commit, until = self._unsent.popleft()
            if until > now:
                try:
                    self.told(await self._store.commit(commit))
                except CacheUnavailable:
                    self._unsent.appendleft((commit, until))
                    raise
