"""Fingerprints of the files that a model's answers depend on."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def fingerprint(paths: Iterable[Path]) -> bytes:
    """A digest of the bytes of a model's files, in the declared order; empty without files.

    It reads every byte, which takes seconds for gigabytes: call it in a thread.

    Raises:
        OSError: a file cannot be read.
    """
    digest: bytes = b""
    for path in paths:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest + hashlib.file_digest(file, "blake2b").digest()).digest()
    return digest
