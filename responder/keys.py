"""From a request to the name of its answer.

Two requests with one name get one answer, so the name is made of everything that decides the answer and of
nothing else: never of headers, identifiers or the transport.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

_KEY_FORMAT = b"1"
DIGEST_BYTES = 16
_TENANTS_KEPT = 1024


def fingerprint(paths: Iterable[Path]) -> bytes:
    """A digest of the bytes of a model's files, in the order in which they were declared; empty without files."""
    digest: bytes = b""
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest + hashlib.file_digest(file, "blake2b").digest()).digest()
    return digest


class Keyring:
    """The keys of one model.

    Args:
        namespace: separates deployments that share a Redis.
        model, version, fingerprint: whose answers; see `Predictor`.
    """

    def __init__(self, *, namespace: str, model: str, version: str, fingerprint: bytes) -> None:
        self._prefix = f"{namespace}pr:{{"
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (_KEY_FORMAT, namespace.encode(), model.encode(), version.encode(), fingerprint):
            self._base.update(_framed(part))
        self._begun: dict[bytes, hashlib.blake2b] = {}

    def digest(self, tenant: bytes, canonical_digest: bytes) -> bytes:
        """The key's 16 bytes, for a tenant and the digest of a canonical input."""
        begun = self._begun.get(tenant)
        if begun is None:
            begun = self._base.copy()
            begun.update(_framed(tenant))
            if len(self._begun) >= _TENANTS_KEPT:
                self._begun.clear()
            self._begun[tenant] = begun
        key = begun.copy()
        key.update(_framed(canonical_digest))
        return key.digest()

    def value_name(self, digest: bytes) -> str:
        """The Redis key of the value. The braces are a hash tag: all keys of one answer share a cluster slot."""
        return f"{self._prefix}{digest.hex()}}}:v"


def canonical_digest(canonical: bytes) -> bytes:
    """The digest of a canonical input."""
    return hashlib.blake2b(canonical, digest_size=DIGEST_BYTES).digest()


def _framed(part: bytes) -> bytes:
    """With its length before it, a part cannot be mistaken for the end of another or the beginning of the next."""
    return b"%d:%s" % (len(part), part)


class Memo:
    """Raw body bytes to the digest of the canonical input, for one model, so that a body is validated once.

    Only what depends on the body alone is kept: tenant, version and fingerprint are mixed in afterwards.

    Args:
        max_bytes: of bodies; the one used least recently goes first.
    """

    def __init__(self, max_bytes: int = 8 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._digests)

    def get(self, body: bytes) -> bytes | None:
        """The digest that was kept for this body."""
        digest = self._digests.get(body)
        if digest is not None:
            self._digests.move_to_end(body)
        return digest

    def put(self, body: bytes, digest: bytes) -> None:
        """Keep a digest. A body that would take more than an eighth of the room is not kept."""
        if len(body) > self._max_bytes // 8 or body in self._digests:
            return
        self._digests[body] = digest
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            gone, _ = self._digests.popitem(last=False)
            self._bytes -= len(gone)
