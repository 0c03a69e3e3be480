"""The port of the cache. tests/contract/test_cache.py and test_leases.py specify its behaviour."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.messages import Key

SEEN_BYTES = 64  # how much of a slot's content is compared
HANDED_OVER_MS = 5_000  # how long followers can fetch a value that is neither pushed nor kept
FAILURES_KEPT_MS = 60_000
FENCED_MS = DEATHS_KEPT_MS = 3_600_000


class CacheUnavailable(Exception):
    """The cache cannot be used now. Only latency suffers: the service calls the model."""


class CacheRefused(CacheUnavailable):
    """The cache answered with an error. `code` is its first word, such as OOM, READONLY, NOREPLICAS or NOSCRIPT."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0].rstrip(":")


class Slot(Enum):
    """Where a lease stands: in the place of the value, or beside a value while it is refreshed."""

    VALUE = Part.VALUE
    REFRESH = Part.REFRESH


class Place(NamedTuple):
    """Where one answer's lease is: the name of the answer's value, and the slot."""

    name: str
    slot: Slot


def slot_name(place: Place) -> str:
    """The name of a slot in the store."""
    return place.name if place.slot is Slot.VALUE else beside_name(place.name, place.slot.value)


def attempts_name(place: Place) -> str:
    """The name of the record of the model's starts for a place."""
    return beside_name(place.name, Part.STARTS if place.slot is Slot.VALUE else Part.REFRESH_STARTS)


class Claimed(NamedTuple):
    """What a claim found.

    Args:
        found: what the slot held, and still holds; None when it was empty and holds the mark now.
        starts: who started the model for this place and did not end it; see `value.start_id`.
        fence: set by the last invalidation of the key; a lease that was claimed before it cannot be committed.
        failures: the note of failures in a row; see `failures_note`.
        beside: what the refresh slot holds, if the value's place was claimed.
        moved: nothing was claimed, because the value that was to be refreshed was replaced or is gone.
        left_ms: the remaining TTL of what was found in the refresh slot.
    """

    found: bytes | None
    starts: tuple[bytes, ...] = ()
    fence: bytes = b""
    failures: bytes = b""
    beside: bytes = b""
    moved: bool = False
    left_ms: int = 0


class Held(NamedTuple):
    """A lease, as the store knows it."""

    place: Place
    mark: bytes
    fence: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a lease.

    Args:
        held: the lease; it ends only if its mark still stands or the value's slot is empty, and the fence is the same.
        value: what to store, and to push to the followers.
        ttl_ms: its TTL; 0 stores nothing.
        kind, digest: of the push; see `push`.
        clear_attempts: erase the starts, because the process has survived; done even if the commit comes too late.
        mark, mark_ms: what the slot holds afterwards, and for how long; empty for nothing.
        failures: the new note of failures in a row; empty erases the note, None leaves it.
    """

    held: Held
    value: bytes
    ttl_ms: int
    kind: bytes
    digest: bytes
    clear_attempts: bool = True
    mark: bytes = b""
    mark_ms: int = 0
    failures: bytes | None = None


class Inspected(NamedTuple):
    """All that stands under the names of one answer, undecoded. Times left are milliseconds; 0 for what is not there.

    Args:
        generation: the record of the key's model.
        value, refresh: what the two slots hold.
        starts: who started the model for either slot and did not end it.
        failures: the note of failures in a row.
        waiting: how many replicas wait for the end of a lease.
    """

    generation: bytes | None
    value: bytes | None
    left_ms: int
    refresh: bytes | None
    refresh_left_ms: int
    starts: tuple[bytes, ...]
    failures: bytes
    waiting: int


class Cache(Protocol):
    """Values by name, each with a TTL.

    Commands of one replica about one name, and about the names of one answer, take effect in the order in which they
    were sent. Nothing is promised about different answers, or about an answer and its model's generation: in a cluster
    they may be on different servers.
    """

    @property
    def is_up(self) -> bool:
        """Whether the cache can be reached."""

    @property
    def problem(self) -> str | None:
        """What is wrong and what follows from that, in one line; None if nothing is wrong."""

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values of these names, in this order; None for a missing or expired one.

        Raises:
            CacheUnavailable: within the operation timeout.
        """

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        """Keep a value for `ttl_ms` milliseconds, which must be positive: every answer expires.

        Raises:
            CacheUnavailable: within the operation timeout; the value may or may not be stored.
        """

    async def settle_generation(self, name: str, token: bytes) -> bytes:
        """The record of a generation, which has no TTL: the one that is there, or else a new one with this token.

        Raises:
            CacheUnavailable: within the operation timeout.
        """

    async def renew_generation(self, name: str, token: bytes) -> bool:
        """Replace a generation: every answer of its model is a miss from now on. False if there is none.

        Raises:
            CacheUnavailable: within the operation timeout; the generation may or may not be replaced.
        """

    async def generation_names(self, prefix: str) -> list[str]:
        """The names of all generations that begin with this prefix, sorted.

        Raises:
            CacheUnavailable: within the operation timeout of each step.
        """

    async def __aenter__(self) -> Self:
        """Connect. If the cache cannot be reached, it raises nothing and keeps trying."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""


class LeaseStore(Cache, Protocol):
    """The steps of the lease protocol (docs/explanation/leases.md); each is atomic.

    All coroutines raise CacheUnavailable within the operation timeout; the step then may or may not have happened.
    """

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        """Put a mark into an empty slot, for the length of a lease. Safe to repeat: a repetition finds its own mark.

        Args:
            seen: the first bytes of the value to refresh. If the value is another one or gone, nothing is claimed.
                While a lease stands beside a value, the value stays, or its place would be claimed as well.
        """

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        """Replace exactly what was seen in the slot by a mark; False when the slot holds something else by now."""

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        """Have a lease's result pushed to our inbox. Returns the milliseconds it has left, None when it is gone."""

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        """Renew leases, and restore those that the store has lost; False for each that has ended for good."""

    async def commit(self, commit: Commit) -> bool:
        """End a lease: store, push to the followers, free the slot. False, and none of it, if another one holds it.

        A refresh that stores nothing gives the value its original expiry. If the value is of another
        generation by then, a refresh ends, stores nothing and returns False.
        """

    async def fence(self, name: str) -> bool:
        """Make an answer a miss, and fence the calls that compute it now. Returns whether a value was there."""

    async def inspect(self, key: Key) -> Inspected:
        """All that stands under the names of an answer. Changes nothing."""

    def write_starts(self, place: Place, starts: Sequence[bytes], keep_ms: int) -> None:
        """Record, before our next step, who started the model for a place; see `value.start_id`. Does not wait."""

    def write_deaths(self, name: str, starts: Sequence[bytes], at_ms: int) -> None:
        """Record which starters seem to have died, in the namespace of this answer. Does not wait."""

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        """Which starters of the namespace seem to have died since then."""

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Set the callbacks for each push of a commit, and for when pushes may have been missed."""

    def announce(self, message: bytes) -> Awaitable[int]:
        """Send a message to all that listen to announcements here, ourselves included. It may be lost.

        Returns:
            How many listen. It need not be awaited; awaiting it raises CacheUnavailable like the others.
        """

    def on_announcement(self, on_message: Callable[[bytes], None]) -> None:
        """Set the callback for announcements."""
