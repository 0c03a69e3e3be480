"""What one flight computes, and which requests may have its answer."""

from dataclasses import dataclass
from typing import Protocol

from prediction_responder.cache import Entry, Gap
from prediction_responder.cache.value import LeaseMark, Unshared
from prediction_responder.messages import Input, Key, Model, Request


class Progress(Protocol):
    """Is told how far a search for a lease has come, so that requests know whether they may share its result."""

    def asks(self, generation: bytes | None, number: int) -> None:
        """A claim in this generation, or without one a question for the generation, is sent with this number."""

    def meets(self, mark: LeaseMark | Unshared) -> None:
        """This mark leads: ours or another replica's."""

    def waits(self) -> None:
        """The search waits for another replica."""


@dataclass(slots=True)
class Work:
    """What one flight computes. It holds the input, so that no waiter has to.

    Args:
        fwd: why the cache did not answer; a word of RFC 9211 section 2.2.
        number: of the flight among what is asked of the cache; see `CachedAnswers`.
        generation: of the model, from the look-up or later; None until it is known.
        shared: whether other requests may have the answer; otherwise it is for this caller alone.
        refreshes: whether it replaces an answer that is still good, in the background.
        seen: the head of the cached answer that the flight is to replace; empty for none.
        only_later: whether to take only results of calls that began after the request was received.
        asked: the number of the newest question to the cache; 0 before the first.
        token: of the mark that the flight has found or put under its key, once it is known.
        has_none: whether it has no lease, because it wants none or the cache did not answer.
        kept: the answer that was cached when the model had failed.
    """

    model: Model
    input: Input
    key: Key
    fwd: str
    number: int
    generation: bytes | None
    shared: bool
    refreshes: bool = False
    seen: bytes = b""
    only_later: bool = False
    asked: int = 0
    token: bytes = b""
    has_none: bool = False
    kept: Entry | None = None

    @classmethod
    def of(cls, request: Request, key: Key, found: Entry | Gap | None, number: int, *, forced: bool) -> "Work":
        """The work for a request, given its look-up.

        Args:
            found: None when the cache did not answer.
            forced: whether only the request's directives ruled out what was found.
        """
        directives = request.directives
        seen = found.head if isinstance(found, Entry) else b""
        shared = found is not None and not directives.no_store
        return cls(
            request.model,
            Input(request.body, request.value),
            key,
            fwd="bypass" if directives.no_store else "request" if forced or directives.no_cache else "miss",
            number=number,
            generation=None if found is None else found.generation,
            shared=shared,
            seen=seen,
            only_later=directives.no_cache,
            has_none=not shared,
        )

    @classmethod
    def for_refresh(cls, request: Request, key: Key, entry: Entry, number: int) -> "Work":
        """The work of replacing an answer that this request accepted."""
        value = Input(request.body, request.value)
        seen, generation = entry.head, entry.generation
        return cls(request.model, value, key, "miss", number, generation, shared=True, refreshes=True, seen=seen)

    def serves(self, found: Entry | Gap | None, look_up: int) -> bool:
        """Whether a request may have this flight's answer, judged by what the request's look-up found.

        It may not if the key or its model was invalidated before the request arrived, and the answer is of a call that
        began before that. New enough is a flight that began after the look-up was sent, or whose next question to the
        cache is still to be sent, or was sent after the look-up. If the reply to an earlier question is still to come,
        nothing is known: replies about different names need not keep their order. For any other flight, the look-up
        must have found what the flight saw or left under the key: the answer that it replaces, or its lease, in the
        flight's generation.

        Args:
            look_up: the number of the look-up.
        """
        if found is None or self.number > look_up:  # None: the cache did not answer
            return True
        if self.has_none:
            return False
        if not self.token:
            is_same = self.generation in (None, found.generation)
            return is_same and (self.asked == 0 or self.asked > look_up)
        if isinstance(found, Entry):
            return self.seen == found.head
        return (self.token, self.generation) == (found.token, found.generation)

    def asks(self, generation: bytes | None, number: int) -> None:
        """Record that a question to the cache is being sent."""
        self.asked = number
        if generation is not None:
            self.generation = generation

    def meets(self, mark: LeaseMark | Unshared) -> None:
        """Record the mark that the flight has found, or put there."""
        self.generation, self.token = mark.generation, mark.token

    def waits(self) -> None:
        """Keep only the bytes of the input: the model is called elsewhere, if all goes well."""
        self.input.value = None
