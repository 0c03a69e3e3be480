"""Followers: flights that wait for another replica's lease to end. A commit pushes to one inbox per replica."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DIGEST_END, TOKEN_END = 17, 33


@dataclass(eq=False)
class Waiter:
    """Waits for the end of the lease with a token.

    `push` becomes the pushed bytes without digest and token: a byte for the kind, then the content. Empty bytes mean:
    look again.
    """

    token: bytes
    push: asyncio.Future[bytes]

    @property
    def pushed(self) -> bytes:
        """The pushed bytes; empty if there are none yet."""
        return self.push.result() if self.push.done() else b""


class Followers:
    """Waiters by the digest of their key."""

    def __init__(self) -> None:
        self._waiters: dict[bytes, set[Waiter]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

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

    def deliver(self, push: bytes) -> None:
        """Pass the end of a lease to the waiters of its key.

        A waiter for another lease of the key only looks again: its lease was lost, or this push is older than it.
        """
        kind, digest, token, content = push[:1], push[1:DIGEST_END], push[DIGEST_END:TOKEN_END], push[TOKEN_END:]
        for waiter in self._waiters.get(digest, ()):
            _tell(waiter, kind + content if token == waiter.token else b"")

    def look_again(self) -> None:
        """Make every waiter look again, because pushes may have been missed."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                _tell(waiter, b"")


def _tell(waiter: Waiter, push: bytes) -> None:
    if not waiter.push.done():
        waiter.push.set_result(push)
