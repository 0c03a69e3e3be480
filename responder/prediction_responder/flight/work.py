"""What one flight is to do, and for whom it may do it."""

from dataclasses import dataclass

from prediction_responder.cache import Entry, Gap
from prediction_responder.cache.value import generation_of
from prediction_responder.messages import Key, Model, Request


@dataclass(slots=True)
class Work:
    """What one flight is to do. It holds the input, so that no waiter has to.

    Args:
        fwd: why the cache did not answer; a word of RFC 9211 section 2.2.
        number: of the flight, counted up.
        generation: of the model, when the key was looked up, or later; None when it was not.
        shared: whether others may have the answer; otherwise it is the requester's alone.
        seen: the head of an answer that is there, and that the flight is to replace.
        only_later: whether no flight counts that had begun before the request was received.
        token: of the mark that the flight has found or put under its key, once it is known.
        has_none: whether it turned out that there is no lease to be had.
        kept: what was cached when the model had failed.
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
        """The work for a request and what the cache had for it.

        Args:
            found: None when the cache did not answer.
            forced: whether only its directives kept the request from what was found.
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
    def refreshing(cls, request: Request, key: Key, entry: Entry, number: int) -> "Work":
        """The work of replacing an answer that was good enough for this request."""
        generation = generation_of(entry.head)
        return cls(request.model, request.body, key, "miss", number, generation, shared=True, seen=entry.head)

    def serves(self, found: Entry | Gap | None, flights_before: int) -> bool:
        """Whether a request may have this flight's answer, by what its look-up found.

        Not if its key was invalidated after the flight's claim. A flight that began after the look-up was sent is as
        new as that. So is one whose claim is not answered yet: both go over one connection, and replies keep their
        order. Of others the look-up must have seen what the flight saw, or left, under the key: the answer that it
        replaces, or the lease, in the generation in which the flight works.

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
        """Whose mark the flight has found, or put there."""
        self.generation, self.token = generation, token
