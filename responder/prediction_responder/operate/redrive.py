"""Redrive dead letters: send each again, one at a time, and forward the reply to its original caller."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from prediction_responder.amqp.dead_letters import ANSWERED, NO_CALLER, DeadLetters, Letter
from prediction_responder.amqp.requests import ReplyPolicy
from prediction_responder.settings import Settings
from prediction_schemas import Code
from prediction_schemas.wire import Addresses

REMOVED = "removed: a copy that an earlier redrive sent"
_ENDED = frozenset({ANSWERED, NO_CALLER, REMOVED})


@dataclass
class Plan:
    """Which letters are sent again.

    Args:
        model, reason: only these; None for any.
        limit: at most this many letters are read.
        timeout_s: how long one request may take.
        dry_run: send nothing; report what would be done.
        impersonate: send as a letter's user. The broker allows that to users with the tag `impersonator`.
    """

    model: str | None = None
    reason: str | None = None
    limit: int = 1000
    timeout_s: float = 30.0
    dry_run: bool = False
    impersonate: bool = False

    def why_not(self, letter: Letter) -> str | None:
        """Why a letter is not sent again; None if it is."""
        if letter.reason == "expired":
            return "skipped: it had expired; its caller has stopped waiting"
        if self.reason is not None and letter.reason != self.reason:
            return f"skipped: {letter.reason}"
        if self.model is not None and letter.model != self.model:
            return f"skipped: {letter.model}"
        if not letter.model:
            return "kept: it did not come from a request queue of this namespace"
        if letter.is_damaged:
            return "kept: its properties are damaged, or it is too large"
        if letter.is_reply:
            return "kept: it is a reply"
        if letter.has_user and not self.impersonate:
            return "kept: it carries a user; see --impersonate"
        return None


@dataclass
class Redrive:
    """One run over the dead-letter queue.

    Args:
        settings: of the deployment.
        plan: what to do.
        on_letter: called with each letter when its fate is known.
    """

    settings: Settings
    plan: Plan
    on_letter: Callable[[Letter], None] = lambda _letter: None
    letters: list[Letter] = field(default_factory=list)

    async def run(self) -> Counter[str]:
        """Go through the queue once. Returns how many letters had each fate.

        Raises:
            NotReached: no broker, no dead-letter queue, or no right to read it.
        """
        settings, plan = self.settings, self.plan
        addresses = Addresses(settings.namespace)
        policy = ReplyPolicy(
            own=addresses.exchange.encode(),
            pattern=settings.reply_to_pattern.encode(),
            exchange=settings.reply_exchange,
        )
        queue = DeadLetters(
            settings.amqp_url.get_secret_value(),
            addresses,
            policy,
            prefetch=plan.limit,
            reply_exchange=settings.reply_exchange,
        )
        crashed = 0
        async with queue:
            self.letters = await queue.read(plan.limit)
            for letter in self.letters:
                letter.fate = await self._redrive(queue, letter)
                crashed += letter.fate.endswith(Code.MODEL_CRASHED.name)
                letter.delivery.body = b""
                self.on_letter(letter)
                if letter.fate in _ENDED:
                    queue.remove(letter)
            await queue.remove_copies(crashed)
            await queue.give_back([letter for letter in self.letters if letter.fate not in _ENDED])
        return Counter(letter.fate for letter in self.letters)

    async def _redrive(self, queue: DeadLetters, letter: Letter) -> str:
        """The fate of one letter."""
        if letter.is_our_copy and not self.plan.dry_run:
            return REMOVED
        why_not = self.plan.why_not(letter)
        if why_not is not None or self.plan.dry_run:
            return why_not or "would be sent again"
        reply = await queue.ask(letter, self.plan.timeout_s)
        return f"kept: {reply}" if isinstance(reply, str) else await queue.forward(letter, reply)
