"""Invalidates answers: of one key, of a model, or all. It works on any store, within a responder or beside one."""

import re
import secrets
from typing import Any

from prediction_responder.cache import LeaseStore
from prediction_responder.cache.keys import DIGEST_BYTES, generation_name, value_name
from prediction_responder.cache.value import GENERATION_BYTES


class Invalidation:
    """Makes answers in the cache of one deployment misses.

    Args:
        store: the deployment's cache.
        namespace: of the deployment.
    """

    def __init__(self, store: LeaseStore, namespace: str) -> None:
        self._store = store
        self._namespace = namespace

    async def model(self, model: str) -> bool:
        """Make every answer of a model a miss on every replica, from now on. Calls in flight store nothing.

        Returns:
            Whether the model was ever asked; if not, there is nothing to invalidate.
        """
        return await self._renew(generation_name(self._namespace, model))

    async def all(self) -> list[str]:
        """Do the same for every model of the namespace that was ever asked. Returns their names."""
        prefix = generation_name(self._namespace, "")
        names = await self._store.generation_names(prefix)
        return [name.removeprefix(prefix) for name in names if await self._renew(name)]

    async def key(self, digest: bytes) -> bool:
        """Make one answer a miss. Returns whether it was there. A call in flight goes on, but stores nothing."""
        return await self._store.fence(value_name(f"{self._namespace}pr:{{", digest))

    async def _renew(self, name: str) -> bool:
        return await self._store.renew_generation(name, secrets.token_bytes(GENERATION_BYTES))


def digest_of(text: str) -> bytes:
    """Parse a key as `explain` prints it.

    Raises:
        ValueError: it is not a key.
    """
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * DIGEST_BYTES}}}", text) is None:
        msg = f"a key has {2 * DIGEST_BYTES} hexadecimal digits; `responder explain` prints it"
        raise ValueError(msg)
    return bytes.fromhex(text)


def check_choice(model: str | None, features: Any, tenant: str, key: str | None, *, every: bool) -> None:
    """Refuse what could mean more answers than intended. `features` is `...` when it was not given.

    Raises:
        ValueError: the message says what to give.
    """
    if (model is not None) + (key is not None) + every != 1 or (features is not ... and model is None):
        msg = "give one of model, model and features, key, and every=True"
        raise ValueError(msg)
    if tenant and features is ...:
        msg = "tenant belongs to features: without them, the answers of all tenants are meant"
        raise ValueError(msg)
