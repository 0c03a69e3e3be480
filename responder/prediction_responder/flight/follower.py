"""Followers: flights that wait for another replica's lease to end. A commit pushes to one inbox per replica."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prediction_responder.cache import Entry, LeaseStore, Place
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.push import ERROR, HANDED_OVER, VALUE, Push, read_push
from prediction_responder.cache.value import LeaseMark, read
from prediction_responder.messages import Key

PUSH_DELAY_S = 0.05  # a push may arrive this much later than a reply: it comes on another connection
POLL_S = 1.0  # pushes may be lost: a follower looks again at least this often
JITTER_S = (0.002, 0.030)


@dataclass(frozen=True)
class PushedError:
    """How the call of another replica failed: the content that its leader passed to `commit_error`."""

    content: bytes


@dataclass(eq=False)
class Waiter:
    """Waits for the end of the lease with a token. `push` becomes None when it is time to look again."""

    token: bytes
    push: asyncio.Future[Push | None]

    @property
    def pushed(self) -> Push | None:
        """The push; None if there is none."""
        return self.push.result() if self.push.done() else None


class Followers:
    """Waiters by the digest of their key.

    Args:
        store: where followers register.
        lease_s: the length of a lease; a follower that is not heard of for four of them is forgotten.
    """

    def __init__(self, store: LeaseStore, lease_s: float) -> None:
        self._store = store
        self._keep_ms = 4 * round(lease_s * 1000)
        self._waiters: dict[bytes, set[Waiter]] = {}
        store.listen(self.deliver, self.look_again)

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    async def follow(self, key: Key, place: Place, mark: LeaseMark) -> Entry | PushedError | None:
        """The result of the holder of a mark; None when it is time to look again.

        Raises:
            CacheUnavailable: the store cannot be used now.
        """
        # Listen before registering, or a push in between would be lost.
        with self.waiter(key.digest, mark.token) as waiter:
            push_delay_s = 0.0
            while not waiter.push.done():
                left_ms = await self._store.register(place, mark.encoded, self._keep_ms)
                if left_ms is None:
                    # If it ended after an earlier registration, its push may still arrive on the other connection.
                    await asyncio.wait({waiter.push}, timeout=push_delay_s)
                    break
                push_delay_s = PUSH_DELAY_S
                await asyncio.wait({waiter.push}, timeout=min(left_ms / 1000 + random.uniform(*JITTER_S), POLL_S))
        match waiter.pushed:
            case Push(kind, _, _, content) if kind == ERROR:
                return PushedError(content)
            case Push(kind, _, _, content) if kind == VALUE:
                value: bytes | None = content
            case Push(kind) if kind == HANDED_OVER:
                [value] = await self._store.get_many([beside_name(place.name, Part.HANDED_OVER)])
            case _:
                return None
        standing = read(key.digest, mark.generation, value)
        return standing if isinstance(standing, Entry) else None

    @contextmanager
    def waiter(self, digest: bytes, token: bytes) -> Iterator[Waiter]:
        """A waiter that receives pushes from now on."""
        one = Waiter(token, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(digest, set()).add(one)
        try:
            yield one
        finally:
            self._waiters[digest].discard(one)
            if not self._waiters[digest]:
                del self._waiters[digest]

    def deliver(self, pushed: bytes) -> None:
        """Pass the end of a lease to the waiters of its key.

        A waiter for another lease of the key only looks again: its lease was lost, or this push is older than it.
        """
        push = read_push(pushed)
        for waiter in self._waiters.get(push.digest, ()):
            _tell(waiter, push if push.token == waiter.token else None)

    def look_again(self) -> None:
        """Make every waiter look again, because pushes may have been missed."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                _tell(waiter, None)


def _tell(waiter: Waiter, push: Push | None) -> None:
    if not waiter.push.done():
        waiter.push.set_result(push)
