"""Who in this replica waits for the end of another replica's flight. Commits push it to one inbox per replica."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

DIGEST_END, TOKEN_END = 17, 33


@dataclass(eq=False)
class Waiter:
    """One who waits for the end of the flight with a token.

    `push` becomes what was pushed, without digest and token: a byte that says what it is, and the content; or nothing,
    when it is time to look again.
    """

    token: bytes
    push: asyncio.Future[bytes]

    @property
    def pushed(self) -> bytes:
        """What was pushed, if anything was."""
        return self.push.result() if self.push.done() else b""


class Followers:
    """Waiters by the digest of their key."""

    def __init__(self) -> None:
        self._waiters: dict[bytes, set[Waiter]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiters.values()))

    @contextmanager
    def waiter(self, digest: bytes, token: bytes) -> Iterator[Waiter]:
        """A waiter that hears what is pushed from now on."""
        one = Waiter(token, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(digest, set()).add(one)
        try:
            yield one
        finally:
            self._waiters[digest].discard(one)
            if not self._waiters[digest]:
                del self._waiters[digest]

    def pushed(self, push: bytes) -> None:
        """A flight has ended. Who waits for another one of the same key learns only that it is time to look again:

        either the one it waited for has lost its lease, or this push is older than that one.
        """
        kind, digest, token, content = push[:1], push[1:DIGEST_END], push[DIGEST_END:TOKEN_END], push[TOKEN_END:]
        for waiter in self._waiters.get(digest, ()):
            _tell(waiter, kind + content if token == waiter.token else b"")

    def look_again(self) -> None:
        """Pushes may have been missed."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                _tell(waiter, b"")


def _tell(waiter: Waiter, push: bytes) -> None:
    if not waiter.push.done():
        waiter.push.set_result(push)
