"""The key of a request, and the names of its answer in the cache.

Two requests with one key get one answer, so the key depends on everything that decides the answer and on nothing else:
never on headers, identifiers or the transport.
"""

import hashlib
from collections import OrderedDict
from enum import StrEnum

from prediction_responder.messages import Key

_KEY_FORMAT = b"2"  # raised with any format in Redis, so that replicas of two versions share no name
DIGEST_BYTES = 16
_TENANTS_KEPT = 1024
_ENTRY_BYTES = 480  # measured: the objects of an entry without the text of its body and tenant


def value_name(prefix: str, digest: bytes) -> str:
    """The name of an answer in Redis. The braces are a hash tag: all names of one answer share a cluster slot."""
    return f"{prefix}{digest.hex()}}}:{Part.VALUE}"


class Part(StrEnum):
    """What belongs to one answer: the last part of its name in Redis."""

    VALUE = "v"
    REFRESH = "r"  # the lease of a refresh
    INBOXES = "w"  # of followers
    STARTS = "av"  # of calls for the value
    REFRESH_STARTS = "ar"
    FAILURES = "f"  # in a row
    HANDED_OVER = "h"  # an answer that is not kept
    FENCE = "x"


_VALUE_CHARS = len(Part.VALUE)


def beside_name(name: str, part: Part) -> str:
    """The name of what belongs to a value."""
    return name[:-_VALUE_CHARS] + part


def deaths_name(name: str) -> str:
    """The name of the record of dead replicas, in the namespace of this value."""
    return f"{name.partition('{')[0]}deaths"


def generation_name(namespace: str, model: str) -> str:
    """The name of a model's generation. With `*` as the model: the pattern of all generations of a namespace."""
    return f"{namespace}pr:generation2:{model}"


def control_channel(namespace: str) -> str:
    """The channel of announcements of a deployment."""
    return f"{namespace}pr:control"


class Keyring:
    """The keys of one model.

    Args:
        namespace: separates deployments that share a Redis.
        model, version, fingerprint: identify the code that computes the answers; see `Predictor`.
    """

    def __init__(self, *, namespace: str, model: str, version: str, fingerprint: bytes) -> None:
        self._prefix = f"{namespace}pr:{{"
        self.generation_name = generation_name(namespace, model)
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (_KEY_FORMAT, namespace.encode(), model.encode(), version.encode(), fingerprint):
            self._base.update(_frame(part))
        self._begun: dict[bytes, hashlib.blake2b] = {}

    def key(self, tenant: bytes, canonical: bytes) -> Key:
        """The key of a canonical input of a tenant."""
        begun = self._begun.get(tenant)
        if begun is None:
            begun = self._base.copy()
            begun.update(_frame(tenant))
            if len(self._begun) >= _TENANTS_KEPT:
                self._begun.clear()
            self._begun[tenant] = begun
        hashed = begun.copy()
        hashed.update(_frame(hashlib.blake2b(canonical, digest_size=DIGEST_BYTES).digest()))
        digest = hashed.digest()
        return Key(digest, value_name(self._prefix, digest), self.generation_name)


def _frame(part: bytes) -> bytes:
    """Prefix a part with its length, so that no two lists of parts have the same bytes."""
    return b"%d:%s" % (len(part), part)


class Memo:
    """Remembers the keys of raw bodies, for one keyring, so that a body is validated and hashed once.

    A body is remembered together with its tenant, because the key depends on both.

    Args:
        max_bytes: approximate memory for bodies, tenants and their entries. The least recently used goes first.
    """

    def __init__(self, max_bytes: int = 8 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._keys: OrderedDict[tuple[bytes, bytes], Key] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, tenant: bytes, body: bytes) -> Key | None:
        """The key remembered for this body of this tenant."""
        asked = tenant, body
        key = self._keys.get(asked)
        if key is not None:
            self._keys.move_to_end(asked)
        return key

    def forget(self, tenant: bytes, body: bytes) -> None:
        """Forget the key of a body."""
        if self._keys.pop((tenant, body), None) is not None:
            self._bytes -= _ENTRY_BYTES + len(tenant) + len(body)

    def put(self, tenant: bytes, body: bytes, key: Key) -> None:
        """Remember a key, unless its entry would take more than an eighth of `max_bytes`."""
        size = _ENTRY_BYTES + len(tenant) + len(body)
        if size > self._max_bytes // 8 or (tenant, body) in self._keys:
            return
        self._keys[tenant, body] = key
        self._bytes += size
        while self._bytes > self._max_bytes:
            (gone_tenant, gone_body), _ = self._keys.popitem(last=False)
            self._bytes -= _ENTRY_BYTES + len(gone_tenant) + len(gone_body)
