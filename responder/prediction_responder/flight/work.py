"""What one flight computes, and which requests may have its answer."""

from dataclasses import dataclass

from prediction_responder.cache import Entry, Gap
from prediction_responder.cache.value import generation_of
from prediction_responder.messages import Key, Model, Request


@dataclass(slots=True)
class Work:
    """What one flight computes. It holds the input, so that no waiter has to.

    Args:
        fwd: why the cache did not answer; a word of RFC 9211 section 2.2.
        number: of the flight, counting up.
        generation: of the model, from the look-up or later; None until it is known.
        shared: whether other requests may have the answer; otherwise it is for this caller alone.
        seen: the head of the cached answer that the flight is to replace; empty for none.
        only_later: whether to take only results of calls that began after the request was received.
        token: of the mark that the flight has found or put under its key, once it is known.
        has_none: whether it has no lease, because it wants none or the cache did not answer.
        kept: the answer that was cached when the model had failed.
    """

    model: Model
    body: bytes
    key: Key
    fwd: str
    number: int
    generation: bytes | None
    shared: bool
    seen: bytes = b""
    only_later: bool = False
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
        generation = found.generation if isinstance(found, Gap) else generation_of(seen) or None
        shared = found is not None and not directives.no_store
        return cls(
            request.model,
            request.body,
            key,
            fwd="bypass" if directives.no_store else "request" if forced or directives.no_cache else "miss",
            number=number,
            generation=generation,
            shared=shared,
            seen=seen,
            only_later=directives.no_cache,
            has_none=not shared,
        )

    @classmethod
    def for_refresh(cls, request: Request, key: Key, entry: Entry, number: int) -> "Work":
        """The work of replacing an answer that this request accepted."""
        generation = generation_of(entry.head)
        return cls(request.model, request.body, key, "miss", number, generation, shared=True, seen=entry.head)

    def serves(self, found: Entry | Gap | None, flights_before: int) -> bool:
        """Whether a request may have this flight's answer, judged by what the request's look-up found.

        It may not if the key was invalidated after the flight's claim. A flight that began after the look-up was sent
        is new enough. So is one whose claim has no reply yet: both use one connection, and replies keep their order.
        For any other flight, the look-up must have found what the flight saw or left under the key: the answer that it
        replaces, or its lease, in the flight's generation.

        Args:
            flights_before: how many flights had begun when the look-up was sent.
        """
        if found is None or self.number > flights_before:  # None: the cache did not answer
            return True
        if self.has_none:
            return False
        generation = generation_of(found.head) if isinstance(found, Entry) else found.generation
        if not self.token:
            return self.generation in (None, generation)
        if isinstance(found, Entry):
            return self.seen == found.head
        return (self.token, self.generation) == (found.token, generation)

    def note(self, generation: bytes, token: bytes) -> None:
        """Record the mark that the flight has found, or put there."""
        self.generation, self.token = generation, token
