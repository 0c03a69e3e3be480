"""Bodies that are made to hurt: a typed error each, and the event loop goes on."""

import gzip
import json
from pathlib import Path

import pytest

from deploy.found import Servers
from tests.books import Report
from tests.models import recorded
from tests.pace import Pace
from tests.real import ForeignClient, responder_process

pytestmark = [pytest.mark.servers, pytest.mark.any_server]

MB = 2**20
KEPT_MS = 50


def filled(item: bytes, size: int = MB) -> bytes:
    """An input of so many bytes, full of one thing."""
    return b'{"value":[' + item * ((size - 20) // len(item) - 1) + item[:-1] + b"]}"


BOMBS: dict[str, tuple[bytes, dict[str, str], str]] = {
    "a hundred thousand lists in each other": (
        b'{"value":' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        {},
        "INVALID_ARGUMENT",
    ),
    "half a million lists in each other": (b'{"value":' + b"[" * 500_000, {}, "INVALID_ARGUMENT"),
    "objects in each other": (b'{"value":' * 100_000, {}, "INVALID_ARGUMENT"),
    "a third of a million objects": (filled(b"{},"), {}, "INVALID_ARGUMENT"),
    "half a million numbers": (filled(b"1,"), {}, "INVALID_ARGUMENT"),
    "as many objects as are let in": (filled(b'{"a":1},', 80_000), {}, "ok"),
    "as many numbers as are let in": (filled(b"0.12345,", 250_000), {}, "ok"),
    "an integer of 4,301 digits": (b'{"value":' + b"9" * 4_301 + b"}", {}, "INVALID_ARGUMENT"),
    "an integer of a million digits": (b'{"value":' + b"9" * 1_000_000 + b"}", {}, "INVALID_ARGUMENT"),
    "many of 4,300 digits": (filled(b"9" * 4_300 + b","), {}, "ok"),
    "a float beyond all floats": (b'{"value":1e400}', {}, "INVALID_ARGUMENT"),
    "a lone surrogate": (b'{"value":"\\ud800"}', {}, "INVALID_ARGUMENT"),
    "many lone surrogates": (filled(b'"\\udfff",'), {}, "INVALID_ARGUMENT"),
    "no UTF-8": (b'{"value":"\xff\xfe"}', {}, "INVALID_ARGUMENT"),
    "a string of a megabyte": (b'{"value":"' + b"a" * (MB - 20) + b'"}', {}, "ok"),
    "a string full of escapes": (b'{"value":"' + b"\\n" * (MB // 2 - 20) + b'"}', {}, "ok"),
    "quotes and backslashes": (b'{"value":"' + b'\\\\\\"' * (MB // 4 - 20), {}, "INVALID_ARGUMENT"),
    "sixteen megabytes": (b'{"value":"' + b"a" * (15 * MB) + b'"}', {}, "PAYLOAD_TOO_LARGE"),
    "a compressed bomb": (gzip.compress(b"[" * 10 * MB), {"content_encoding": "gzip"}, "UNSUPPORTED_MEDIA_TYPE"),
    "a deflated bomb": (gzip.compress(b"[" * 10 * MB), {"content_encoding": "deflate"}, "UNSUPPORTED_MEDIA_TYPE"),
    "a compressed bomb that says nothing": (gzip.compress(b"[" * 10 * MB), {}, "INVALID_ARGUMENT"),
    "a pickle": (
        b"\x80\x04cos\nsystem\n",
        {"content_type": "application/x-python-serialize"},
        "UNSUPPORTED_MEDIA_TYPE",
    ),
}


async def test_no_body_keeps_the_event_loop_for_fifty_milliseconds(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """Each of them ten times, alone and all at once; those that are JSON and within the bounds are answered."""
    queue = f"{namespace}predictions.watched"
    codes: dict[str, str] = {}
    with responder_process(servers, namespace, "tests.models:Watched", ORACLE_FOLDER=str(tmp_path)):
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.ask(queue, b'{"value": 1}')
            for turn in range(10):
                pace.now()  # the machine may be slow for a moment only
                for name, (body, properties, _) in BOMBS.items():
                    await client.send(queue, body, **{"correlation_id": f"{name} {turn}", **properties})
                    if turn < 5:
                        _note(codes, await client.reply())
            for _ in range(5 * len(BOMBS)):
                _note(codes, await client.reply())
    expected = {f"{name} {turn}": code for name, (_, _, code) in BOMBS.items() for turn in range(10)}
    assert codes == expected
    worst_ms = max(recorded(tmp_path, "kept"))  # there are some: the watcher lives
    report("bombs", {"kinds": len(BOMBS), "sent": 10 * len(BOMBS), "loop kept at most, ms": worst_ms})
    assert worst_ms <= KEPT_MS * pace.now()


def _note(codes: dict[str, str], reply: object) -> None:
    answer = json.loads(reply.body)  # type: ignore[attr-defined]
    codes[str(reply.correlation_id)] = answer["error"]["code"] if "error" in answer else "ok"  # type: ignore[attr-defined]
