"""Questions to all replicas of a deployment, over one channel of its cache.

A question is announced with an id; each replica that knows it announces its answer with the same id. Announcements may
be lost, and every listener of the channel gets all of them.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from prediction_responder.cache import LeaseStore
from prediction_responder.observe.logs import logger

log = logger(__name__)

Facts = dict[str, Any]
REPORT = "report"  # what a replica serves, and how it is
_MAX_BYTES = 65_536


class Control:
    """Answers questions in a replica.

    Args:
        store: carries announcements.
        answers: what to answer to each question, as JSON values.
    """

    def __init__(self, store: LeaseStore, answers: Mapping[str, Callable[[], Facts]]) -> None:
        self._store = store
        self._answers = answers
        store.on_announcement(self._hear)

    def _hear(self, message: bytes) -> None:
        heard = _read(message)
        question, identifier = heard.get("ask"), heard.get("id")
        answer = self._answers.get(question) if isinstance(question, str) else None
        if answer is None or not isinstance(identifier, str):
            return  # another replica's answer, or a question of a later version
        try:
            self._store.announce(json.dumps({"answer": answer(), "id": identifier}).encode())
        except Exception:
            log.exception("control_failed", question=question)


async def ask_all(store: LeaseStore, question: str, *, wait_s: float) -> list[Facts]:
    """Ask all replicas; return the answers that came within the time, which ends early once all have answered.

    Args:
        store: must listen to announcements.

    Raises:
        CacheUnavailable: the question could not be announced.
    """
    identifier, answers, all_came = secrets.token_hex(8), list[Facts](), asyncio.Event()
    expected: int | None = None

    def hear(message: bytes) -> None:
        heard = _read(message)
        if heard.get("id") == identifier and isinstance(heard.get("answer"), dict):
            answers.append(heard["answer"])
            if expected is not None and len(answers) >= expected:
                all_came.set()

    store.on_announcement(hear)
    expected = await store.announce(json.dumps({"ask": question, "id": identifier}).encode()) - 1  # without ourselves
    if len(answers) < expected:
        try:
            async with asyncio.timeout(wait_s):
                await all_came.wait()
        except TimeoutError:
            pass
    return answers


def _read(message: bytes) -> Facts:
    """An announcement; empty if it is none of ours."""
    try:
        heard = json.loads(message) if len(message) <= _MAX_BYTES else {}
    except (ValueError, RecursionError):
        return {}
    return heard if isinstance(heard, dict) else {}
