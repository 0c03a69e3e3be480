"""Fingerprints of the files that a model's answers depend on."""

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path


class UnreadableArtefact(Exception):
    """A declared artefact cannot be read; the message says which, and why."""


async def fingerprint(paths: Iterable[Path]) -> bytes:
    """A digest of the bytes of a model's files, in the declared order; empty without files.

    It reads every byte, in a thread, because that takes seconds for gigabytes.

    Raises:
        UnreadableArtefact: a file cannot be read.
    """
    return await asyncio.to_thread(_fingerprint, tuple(paths))


def _fingerprint(paths: tuple[Path, ...]) -> bytes:
    digest: bytes = b""
    for path in paths:
        try:
            with path.open("rb") as file:
                digest = hashlib.blake2b(digest + hashlib.file_digest(file, "blake2b").digest()).digest()
        except OSError as error:
            msg = f"artefact {path}: {error.strerror or error}"
            raise UnreadableArtefact(msg) from error
    return digest
