"""Renews the leases that this replica holds, and repeats commits that got no reply."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from prediction_responder.cache import CacheUnavailable, Commit, Held, LeaseStore, Place
from prediction_responder.cache.value import LeaseMark
from prediction_responder.clock import Clock
from prediction_responder.messages import Key
from prediction_responder.observe.events import Observer, Oddity
from prediction_responder.observe.logs import logger

log = logger(__name__)

TICK_S = 0.1
UNSENT_KEPT = 1024


@dataclass(eq=False)
class Lease:
    """The right to call the model for a key, and the duty to commit the outcome.

    Args:
        standing, mark: its mark, and the bytes of it.
        starts: who else started the model for this place before and never ended it; see `value.start_id`.
        fence: of the key, at the claim; when it changes, the commit has no effect.
        failures, cools_until_ms: how often in a row the model failed on this input, and the end of its cool-down.
        started: whether the model was started under this lease.
    """

    key: Key
    place: Place
    standing: LeaseMark
    starts: tuple[bytes, ...] = ()
    fence: bytes = b""
    failures: int = 0
    cools_until_ms: int = 0
    started: bool = False
    mark: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.mark = self.standing.encoded

    @property
    def token(self) -> bytes:
        return self.standing.token

    @property
    def generation(self) -> bytes:
        """The model's generation when the lease was claimed."""
        return self.standing.generation

    @property
    def held(self) -> Held:
        return Held(self.place, self.mark, self.fence)


class Keeper:
    """Keeps leases alive. Its one task runs while there is a lease to renew or a commit to repeat.

    Args:
        store: where leases are kept.
        lease_s: the length of a lease; it is renewed after each third of that.
        clock: for renewals.
        observer: is told of leases that were lost and of commits that came too late.
    """

    def __init__(self, store: LeaseStore, lease_s: float, clock: Clock, observer: Observer) -> None:
        self._clock = clock
        self._store = store
        self._lease_s = lease_s
        self._observer = observer
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
        self._unsent.append((commit, self._clock.now_s() + self._lease_s))
        self._wake()

    def count_fenced(self, stood: bool) -> bool:  # noqa: FBT001 - the store's reply
        """Count a commit that came too late. Returns the store's reply as it is."""
        if not stood:
            self._observer.odd(Oddity.COMMIT_FENCED)
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
        renew_at = self._clock.now_s() + self._lease_s / 3
        while self._held or self._unsent:
            await asyncio.sleep(TICK_S)
            try:
                await self._resend()
                if self._held and self._clock.now_s() >= renew_at:
                    await self._renew()
                    renew_at = self._clock.now_s() + self._lease_s / 3
            except CacheUnavailable:
                continue  # look-ups and claims report the outage
            except Exception:
                log.exception("keeping_leases_failed")

    async def _renew(self) -> None:
        held = list(self._held.values())
        stands = await self._store.renew([lease.held for lease in held], round(self._lease_s * 1000))
        for lease, still in zip(held, stands, strict=True):
            if not still and self._held.pop(lease.token, None) is not None:
                self._observer.odd(Oddity.LEASE_LOST)

    async def _resend(self) -> None:
        now = self._clock.now_s()
        while self._unsent:
            commit, until = self._unsent.popleft()
            if until > now:
                try:
                    self.count_fenced(await self._store.commit(commit))
                except CacheUnavailable:
                    self._unsent.appendleft((commit, until))
                    raise
