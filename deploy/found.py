"""The description of the servers that were found, and a reaper that cleans up even if this process is killed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class NoServers(Exception):
    """The servers cannot be provided here; the message says what to install."""


class Server(Protocol):
    """A server on which a test can cause faults."""

    url: str

    def kill(self) -> None:
        """End it at once, like a crash."""

    def start(self) -> None:
        """Start it again, on the same port, and wait until it answers."""

    def freeze(self) -> None:
        """Stop it without closing its sockets."""

    def thaw(self) -> None:
        """Continue it after `freeze`."""


@dataclass(frozen=True)
class Servers:
    """The URLs of a broker and a Redis, and where they come from.

    Args:
        amqp_url, redis_url: with all permissions.
        source: `given`, `docker` or `binaries`.
        broker, redis: the processes, if we started them and tests may cause faults on them.
        control: runs `rabbitmqctl`, if that is available.
        service: the AMQP and Redis URLs of a responder with only the permissions that it needs.
    """

    amqp_url: str
    redis_url: str
    source: str
    broker: Server | None = None
    redis: Server | None = None
    control: Callable[..., str] | None = None
    service: tuple[str, str] | None = None

    def environment(self, namespace: str) -> dict[str, str]:
        """The environment variables of a responder."""
        amqp_url, redis_url = self.service or (self.amqp_url, self.redis_url)
        return {"AMQP_URL": amqp_url, "REDIS_URL": redis_url, "RESPONDER_NAMESPACE": namespace}


def say(text: str) -> None:
    """Print one step as one line to standard error."""
    print(f"servers: {text}", file=sys.stderr, flush=True)


@contextmanager
def reaper(cleanup: str) -> Iterator[Callable[[], None]]:
    """Run a shell command when this context or this process ends in any way, unless the clean-up was done before.

    Yields:
        A function to call when the clean-up is done.
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
