"""Servers as they were found, and the reaper that ends what must not outlive a command."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class NoServers(Exception):
    """There is no way to get the servers here; the message says what to install."""


class Server(Protocol):
    """One server that can be hurt."""

    url: str

    def kill(self) -> None:
        """End it at once, as a crash would."""

    def start(self) -> None:
        """Start it again, on the same port, and wait until it answers."""

    def freeze(self) -> None:
        """Stop it without closing its sockets."""

    def thaw(self) -> None:
        """Let it go on."""


@dataclass(frozen=True)
class Servers:
    """Where they are, and how they came about.

    Args:
        amqp_url, redis_url: for whoever may do anything there.
        source: in a word.
        broker, redis: the processes, where they are ours to hurt.
        control: `rabbitmqctl`, where we may.
        service: the same URLs, as a responder logs in that may do no more than it must.
    """

    amqp_url: str
    redis_url: str
    source: str
    broker: Server | None = None
    redis: Server | None = None
    control: Callable[..., str] | None = None
    service: tuple[str, str] | None = None

    def environment(self, namespace: str) -> dict[str, str]:
        """A responder's."""
        amqp_url, redis_url = self.service or (self.amqp_url, self.redis_url)
        return {"AMQP_URL": amqp_url, "REDIS_URL": redis_url, "RESPONDER_NAMESPACE": namespace}


def say(text: str) -> None:
    """One step, in one line, to standard error."""
    print(f"servers: {text}", file=sys.stderr, flush=True)


@contextmanager
def reaper(cleanup: str) -> Iterator[Callable[[], None]]:
    """Run a shell command when this context ends, or this process in any way, unless what it yields was called.

    Yields:
        Call it when the cleaning up has been done.
    """
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT TERM HUP; read -r word; [ \"$word\" = done ] || {{ sleep 0.5; {cleanup}; }}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    is_clean = False

    def done() -> None:
        nonlocal is_clean
        is_clean = True

    try:
        yield done
    finally:
        process.communicate(b"done\n" if is_clean else b"")
