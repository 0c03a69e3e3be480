"""From a request to the name of its answer.

Two requests with one name get one answer, so the name is made of everything that decides the answer and of
nothing else: never of headers, identifiers or the transport.
"""

import hashlib
from collections import OrderedDict

from prediction_responder.messages import Key

_KEY_FORMAT = b"1"
DIGEST_BYTES = 16
_TENANTS_KEPT = 1024
_ENTRY_BYTES = 480  # measured: the objects of an entry without the text of its body and tenant


def value_name(prefix: str, digest: bytes) -> str:
    """Where an answer is in Redis; the braces are a hash tag, so that all keys of one answer share a cluster slot."""
    return f"{prefix}{digest.hex()}}}:v"


def beside_name(name: str, suffix: str) -> str:
    """What stands beside a value: `r` the lease of a refresh, `w` who waits, `av` and `ar` starts, `x` the fence."""
    return f"{name[:-1]}{suffix}"


def deaths_name(name: str) -> str:
    """Where the deaths of replicas are written down, in the namespace of this value."""
    return f"{name.partition('{')[0]}deaths"


def generation_name(namespace: str, model: str) -> str:
    """Where the generation of a model's answers is in Redis; `*` for the pattern of all of a namespace's."""
    return f"{namespace}pr:generation:{model}"


class Keyring:
    """The keys of one model.

    Args:
        namespace: separates deployments that share a Redis.
        model, version, fingerprint: whose answers; see `Predictor`.
    """

    def __init__(self, *, namespace: str, model: str, version: str, fingerprint: bytes) -> None:
        self._prefix = f"{namespace}pr:{{"
        self.generation_name = generation_name(namespace, model)
        self._base = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for part in (_KEY_FORMAT, namespace.encode(), model.encode(), version.encode(), fingerprint):
            self._base.update(_framed(part))
        self._begun: dict[bytes, hashlib.blake2b] = {}

    def key(self, tenant: bytes, canonical: bytes) -> Key:
        """The key of a canonical input, asked by a tenant."""
        begun = self._begun.get(tenant)
        if begun is None:
            begun = self._base.copy()
            begun.update(_framed(tenant))
            if len(self._begun) >= _TENANTS_KEPT:
                self._begun.clear()
            self._begun[tenant] = begun
        hashed = begun.copy()
        hashed.update(_framed(hashlib.blake2b(canonical, digest_size=DIGEST_BYTES).digest()))
        digest = hashed.digest()
        return Key(digest, value_name(self._prefix, digest), self.generation_name)


def _framed(part: bytes) -> bytes:
    """With its length before it, a part cannot be mistaken for the end of another or the beginning of the next."""
    return b"%d:%s" % (len(part), part)


class Memo:
    """The keys of raw bodies, for one keyring, so that a body is validated and hashed once.

    A body is remembered together with its tenant, because the key is the tenant's own.

    Args:
        max_bytes: of memory, about: bodies, tenants and what each entry costs. The one used least recently goes first.
    """

    def __init__(self, max_bytes: int = 8 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._keys: OrderedDict[tuple[bytes, bytes], Key] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, tenant: bytes, body: bytes) -> Key | None:
        """The key that was kept for this body of this tenant."""
        asked = tenant, body
        key = self._keys.get(asked)
        if key is not None:
            self._keys.move_to_end(asked)
        return key

    def put(self, tenant: bytes, body: bytes, key: Key) -> None:
        """Keep a key. A body that would take more than an eighth of the room is not kept."""
        size = _ENTRY_BYTES + len(tenant) + len(body)
        if size > self._max_bytes // 8 or (tenant, body) in self._keys:
            return
        self._keys[tenant, body] = key
        self._bytes += size
        while self._bytes > self._max_bytes:
            (gone_tenant, gone_body), _ = self._keys.popitem(last=False)
            self._bytes -= _ENTRY_BYTES + len(gone_tenant) + len(gone_body)
