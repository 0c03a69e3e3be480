"""What the service asks of a cache. The behaviour is specified in tests/contract/test_cache.py and test_leases.py."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from prediction_responder.cache.keys import beside_name

PUSH_MAX_BYTES = 65_536  # of a value; followers fetch a larger one
SEEN_BYTES = 64  # how much of a slot's content is compared
HANDED_OVER_MS = 5_000  # how long followers can fetch a value that is neither pushed nor kept
FAILURES_KEPT_MS = 60_000
FENCED_MS = DEATHS_KEPT_MS = 3_600_000


class CacheUnavailable(Exception):
    """The cache cannot be used now. Nobody but the latency suffers: the service asks the model."""


class CacheRefused(CacheUnavailable):
    """The cache answered with an error. `code` is its first word, such as OOM, READONLY, NOREPLICAS or NOSCRIPT."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0].rstrip(":")


class Slot(Enum):
    """Where a lease stands: in the place of the value, or beside a value that is being refreshed."""

    VALUE = "v"
    REFRESH = "r"


class Place(NamedTuple):
    """Where one answer's lease is: the name of the answer's value, and the slot."""

    name: str
    slot: Slot


def slot_name(place: Place) -> str:
    """The name of what stands in a slot."""
    return place.name if place.slot is Slot.VALUE else beside_name(place.name, place.slot.value)


def attempts_name(place: Place) -> str:
    """Where the starts of the model for a place are written down."""
    return beside_name(place.name, f"a{place.slot.value}")


class Claimed(NamedTuple):
    """What a claim found.

    Args:
        found: what stood in the slot, which then still stands; None when it was empty and the mark is there now.
        starts: the replicas in which the model was started for this place and did not come to an end.
        fence: what the last invalidation of the key has left; whoever had claimed before it can end no lease.
        failures: what is noted of failures in a row; see `failures_note`.
        beside: what stands beside a value, where the place of the value was claimed.
        moved: nothing was claimed, because the value is not any more the one that was to be refreshed.
        left_ms: how long what was found beside a value will stand there.
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
        held: the lease; nothing happens unless it still stands, or the slot of the value is empty, and unless the fence
            is the same.
        value: what to store, and to push to those who wait.
        ttl_ms: how long it may live; 0 stores nothing.
        kind: one byte before what is pushed.
        digest: of the key; it is pushed as well.
        clear_attempts: the model's process has survived; that counts for one who comes too late, too.
        mark, mark_ms: what is to stand in the slot afterwards, and for how long; empty for nothing.
        failures: what to note of failures in a row; nothing to forget them, None to leave the note alone.
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


class Cache(Protocol):
    """Values by name, each with a time to live."""

    @property
    def is_up(self) -> bool:
        """Whether it can be reached."""

    @property
    def problem(self) -> str | None:
        """What ails it and what follows from that, in one line; None while nothing does."""

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values of these names, in this order; None where there is none or it has expired.

        Raises:
            CacheUnavailable: within the operation timeout.
        """

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        """Keep a value for `ttl_ms` milliseconds, which must be positive: no answer lives for ever.

        Raises:
            CacheUnavailable: within the operation timeout; the value may or may not be there.
        """

    async def settle_on(self, name: str, proposal: bytes) -> bytes:
        """The value that is kept under a name for good: the one that is there, or else the proposal.

        Raises:
            CacheUnavailable: within the operation timeout.
        """

    async def __aenter__(self) -> Self:
        """Begin. Raises nothing when the cache cannot be reached: it goes on trying."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of connections."""


class LeaseStore(Cache, Protocol):
    """The steps of the lease protocol (ARCHITECTURE.md); each is atomic.

    All raise CacheUnavailable within the operation timeout, and then may or may not have happened.
    """

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        """Put a mark into an empty slot, for as long as a lease lasts. Safe to repeat: one finds one's own mark.

        Args:
            seen: how the value begins that is to be refreshed. With another one, or none, nothing is claimed. While
                a lease stands beside a value, the value stays, or else its place would be claimed as well.
        """

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        """Replace exactly what was seen by a mark; False when something else stands there now."""

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        """Have our inbox told when the holder of a mark ends; the milliseconds it has left, None when it is gone."""

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        """Make leases last, and put those back that the store has lost; False where one has ended for good."""

    async def commit(self, commit: Commit) -> bool:
        """End a lease: store, tell those who wait, let go. False, and none of it, when another holds it by then.

        A refresh that stores nothing leaves the value the end that it had before. One of another generation than what
        stands there by now stores nothing.
        """

    async def fence(self, name: str) -> bool:
        """Make an answer a miss, and have whoever works on it now end in vain; whether a value was there."""

    def write_starts(self, place: Place, replicas: Sequence[bytes], keep_ms: int) -> None:
        """Write down, before our next step, where the model was started for a place. It is not waited for."""

    def write_deaths(self, name: str, replicas: Sequence[bytes], at_ms: int) -> None:
        """Write down which replicas seem to have died, in the namespace of this answer. It is not waited for."""

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        """Which replicas of the namespace seem to have died since then."""

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """Say who is told what commits push, and who is told when pushes may have been missed."""


def ids_in(written: bytes | None) -> tuple[bytes, ...]:
    """The identifiers of replicas, 8 bytes each, that were written one after the other."""
    return tuple((written or b"")[at : at + 8] for at in range(0, len(written or b""), 8))
