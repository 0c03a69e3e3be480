"""Keys: everything that decides an answer, and nothing else."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from prediction_responder.cache.keys import Keyring, Memo
from prediction_responder.messages import Key
from prediction_responder.model.artefacts import fingerprint

parts = st.text(max_size=4)
ENTRY = 480  # what the memo charges for an entry, besides its text


def key(namespace: str, model: str, version: str, mark: bytes, tenant: bytes, canonical: bytes) -> bytes:
    """A key of six parts."""
    ring = Keyring(namespace=namespace, model=model, version=version, fingerprint=mark)
    return ring.key(tenant, canonical).digest


six = st.tuples(parts, parts, parts, st.binary(max_size=4), st.binary(max_size=4), st.binary(max_size=4))


@given(six, six)
def test_keys_are_equal_exactly_when_all_six_parts_are(one: object, other: object) -> None:
    """No part can be mistaken for the end of another."""
    assert (key(*one) == key(*other)) == (one == other)  # type: ignore[misc]


def test_golden_keys_do_not_change() -> None:
    """A changed key is a cold cache for everyone; raise the key format when it has to be."""
    assert key("", "price", "1", b"", b"", b"x").hex() == "7ee5b3a46e328e7569c648e2e7e60aae"
    assert key("staging.", "price", "2", b"f", b"t", b"x").hex() == "e01950cc63d47d85e7137de059e43eac"


def test_the_name_of_a_value_has_a_hash_tag_and_nothing_of_the_client() -> None:
    """All keys of one answer share a cluster slot."""
    ring = Keyring(namespace="staging.", model="price", version="1", fingerprint=b"")
    key = ring.key(b"some tenant", b"some input")
    assert key.name == f"staging.pr:{{{key.digest.hex()}}}:v"


async def test_a_fingerprint_covers_every_byte_and_the_order_of_files(tmp_path: Path) -> None:
    """Weights replaced under the same version are another model."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    assert await fingerprint([]) == b""
    seen = {await fingerprint([first]), await fingerprint([first, second]), await fingerprint([second, first])}
    first.write_bytes(b"onE")
    assert len(seen | {await fingerprint([first])}) == 4


def test_a_memo_is_bounded_in_bytes_and_forgets_what_was_used_least_recently() -> None:
    """A flood of new bodies cannot grow it."""
    memo, kept = Memo(max_bytes=8 * (10 + ENTRY)), Key(b"d", "n")
    for number in range(8):
        memo.put(b"", b"%010d" % number, kept)
    assert memo.get(b"", b"%010d" % 0) == kept
    memo.put(b"", b"%010d" % 8, kept)
    assert len(memo) == 8
    assert memo.get(b"", b"%010d" % 1) is None
    assert memo.get(b"", b"%010d" % 0) == kept
    memo.put(b"", b"x" * 11, kept)
    assert memo.get(b"", b"x" * 11) is None


def test_a_memo_never_gives_a_tenant_the_key_of_another() -> None:
    """The same body, and another name; nor do a tenant and a body that only look the same when joined."""
    memo = Memo()
    memo.put(b"ann", b"body", Key(b"a", "a"))
    assert memo.get(b"bob", b"body") is None
    assert memo.get(b"", b"body") is None
    assert memo.get(b"an", b"nbody") is None
