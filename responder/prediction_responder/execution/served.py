"""A served model: its predictor, its execution and its keys."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, TypeVar

from pydantic import BaseModel

from prediction_responder.cache.keys import Keyring, Memo
from prediction_responder.clock import SYSTEM_CLOCK, Clock
from prediction_responder.execution.input import MAX_VALUES, read_input
from prediction_responder.execution.loop import LoopExecution
from prediction_responder.execution.port import Crashed, Execution, ModelTimeout, describe
from prediction_responder.execution.room import WaitingRoom
from prediction_responder.execution.threads import ThreadExecution
from prediction_responder.messages import Input, Key, Outcome, Refused, Request, failure
from prediction_responder.model.answer import Answer, InvalidInput, OutputInvalid, Unavailable
from prediction_responder.model.artefacts import fingerprint
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.observe.logs import logger
from prediction_schemas import Code, encode_result
from prediction_schemas.canonical import NotCanonical, canonical_bytes, depends_on_the_moment
from prediction_schemas.closed_types import any_live_default

log = logger(__name__)

T = TypeVar("T")

_CHANGING_KEPT = 10_000
_RECENT = 0.1  # weight of the newest duration in the running mean


class ModelNotLoaded(Exception):
    """A model could not be loaded; the message says which and why."""


class ServedModel:
    """Loads a predictor, makes its keys and turns every ending of a call into an outcome.

    Args:
        predictor: what the model's owner wrote.
        namespace: see `Keyring`.
        max_depth, max_values: limits of an input's JSON.
        max_reply_bytes: a larger answer becomes 413 PAYLOAD_TOO_LARGE.
        stale_s, keep_s: defaults for a predictor that sets none; see `predictor`.
        clock: for durations.
    """

    def __init__(
        self,
        predictor: AnyPredictor,
        *,
        namespace: str,
        max_depth: int,
        max_values: int = MAX_VALUES,
        max_reply_bytes: int,
        stale_s: float = 0.0,
        keep_s: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.predictor = predictor
        self.name = predictor.name
        self.version = predictor.version
        self.timeout_s = predictor.timeout_s
        self.concurrency = predictor.permits
        self.stale_s = stale_s if predictor.stale_s is None else predictor.stale_s
        self.keep_s = max(self.stale_s, keep_s if predictor.keep_s is None else predictor.keep_s)
        self.is_loaded = False
        self._namespace = namespace
        self._max_depth = max_depth
        self._max_values = max_values
        self._max_reply_bytes = max_reply_bytes
        self._execution = execution_of(predictor)
        self._room = WaitingRoom(predictor.permits)
        self._clock = clock
        self._memo = Memo()
        self._changing: set[bytes] = set()  # digests of bodies whose inputs depend on the moment
        self._has_live_defaults = any_live_default(predictor.input_type)
        self._keys: Keyring | None = None
        self._mean_s = 0.0

    def __repr__(self) -> str:
        return f"<ServedModel {self.name} {self.version} {'loaded' if self.is_loaded else 'not loaded'}>"

    @property
    def keys(self) -> Keyring:
        """The model's keyring, known after `identify`: the bytes of the model's files are part of every key."""
        if self._keys is None:
            msg = f"model {self.name} is not loaded"
            raise RuntimeError(msg)
        return self._keys

    @property
    def is_busy(self) -> bool:
        """Whether a call would have to wait for its permit."""
        return self._room.is_busy

    async def load(self) -> None:
        """Load the model and fingerprint its files.

        Raises:
            ModelNotLoaded: its `load` raised, or a declared artefact cannot be read.
        """
        try:
            await self._execution.load()
            await self.identify()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            msg = f"model {self.name}: loading failed: it cancelled itself"
            raise ModelNotLoaded(msg) from error
        except BaseException as error:
            msg = f"model {self.name}: loading failed: {describe(error)}"
            raise ModelNotLoaded(msg) from error
        self.is_loaded = True

    async def identify(self) -> None:
        """Find out what the model's keys depend on, without loading it.

        Raises:
            UnreadableArtefact: a declared artefact cannot be read.
        """
        mark = await fingerprint(self.predictor.files)
        self._keys = Keyring(namespace=self._namespace, model=self.name, version=self.version, fingerprint=mark)

    async def close(self) -> None:
        """Let the model clean up. An error there is logged, and the other models are closed all the same."""
        self.is_loaded = False
        try:
            await self._execution.close()
        except asyncio.CancelledError:
            raise
        except BaseException:
            log.exception("model_close_failed", model=self.name)

    def read(self, body: bytes) -> BaseModel:
        """Validate an input.

        Raises:
            Refused: 400 INVALID_ARGUMENT; 500 MODEL_ERROR if a validator of the model fails.
        """
        return self._of_owner(self._read, body)

    def key_of(self, request: Request) -> Key:
        """The key of a request's answer. If the input had to be validated for it, that is noted as the request's value.

        Raises:
            Refused: 400 INVALID_ARGUMENT; 503 UNAVAILABLE while the model is not loaded.
        """
        if not self.is_loaded:
            raise Refused(Code.UNAVAILABLE, "the model is not loaded")
        key = self._memo.get(request.tenant, request.body)
        if key is None:
            key = self._identify(request)
            if self._is_lasting(request):
                self._memo.put(request.tenant, request.body, key)
        return key

    def confirm(self, request: Request, key: Key) -> bool:
        """Whether a key is still that of a request, whose input is validated if that was not done before.

        The memo knows a body by its bytes. A validator may look at a clock: then equal bytes are another input later,
        and the body is not memoised any more.

        Raises:
            Refused: the input is not valid any more.
        """
        if request.value is not None or self._identify(request) == key:
            return True
        self._memo.forget(request.tenant, request.body)
        if len(self._changing) >= _CHANGING_KEPT:
            self._changing.clear()
        if not self._changing:  # not for each body: requests must not fill the log
            log.warning(
                "input_changes", model=self.name, hint="a validator depends on the moment; see exclude_from_key"
            )
        self._changing.add(blake2b(request.body, digest_size=16).digest())
        return False

    def _identify(self, request: Request) -> Key:
        request.value, canonical = self._of_owner(self._canonical, request.body)
        return self.keys.key(request.tenant, canonical)

    def _is_lasting(self, request: Request) -> bool:
        """Whether the bytes of a request's body always give the same input, as far as one can see."""
        if self._has_live_defaults and depends_on_the_moment(request.value):
            return False
        return not self._changing or blake2b(request.body, digest_size=16).digest() not in self._changing

    def _read(self, body: bytes) -> BaseModel:
        return read_input(body, self.predictor.input_type, max_depth=self._max_depth, max_values=self._max_values)

    def _canonical(self, body: bytes) -> tuple[BaseModel, bytes]:
        value = self._read(body)
        return value, canonical_bytes(value)

    def _of_owner(self, work: Callable[[bytes], T], body: bytes) -> T:
        """Run validators and the like, which the owner of the model wrote: nothing that they raise ends the consumer.

        Raises:
            Refused: whatever they raised.
        """
        try:
            return work(body)
        except Refused:
            raise
        except NotCanonical as error:
            raise Refused(Code.INVALID_ARGUMENT, str(error)) from None
        except BaseException as error:
            log.error("input_failed", model=self.name, exc_info=error)
            raise Refused(Code.MODEL_ERROR, "the model failed on this input") from None

    def retry_after_ms(self, waiting: int) -> int:
        """When a new miss may find room, estimated from the model's recent durations and the calls that wait."""
        return max(1, round(self._mean_s * 1000 * waiting / self.concurrency))

    async def answer(self, value: Input, on_start: Callable[[], None]) -> Outcome:
        """Call the model once. Every ending of the call is an outcome; only cancellation is raised."""
        began = 0.0

        def start() -> None:
            nonlocal began
            began = self._clock.now_s()
            on_start()

        try:
            validated = value.take(self.read)
            await self._room.enter()
            [output] = await self._execution.call([validated], start, self._room.leave)
            outcome = self._result(output)
        except Refused as refusal:
            return refusal.outcome
        except Exception as error:  # noqa: BLE001 - any error of the model becomes a reply
            outcome = self._convert_error(error)
        duration_s = self._clock.now_s() - began
        self._mean_s += (duration_s - self._mean_s) * (_RECENT if self._mean_s else 1.0)
        outcome.duration_ms = round(duration_s * 1000)
        return outcome

    def _result(self, output: Any) -> Outcome:
        answer: Answer[Any] = output if isinstance(output, Answer) else Answer(output)
        ttl_s = self.predictor.ttl_s if answer.ttl_s is None else answer.ttl_s
        try:
            body = encode_result(self.predictor.encode(answer.value))
        except Exception:
            raise
        except BaseException as error:  # nothing awaits here, so it is no cancellation of ours
            raise Crashed(error) from error
        if len(body) > self._max_reply_bytes:
            return failure(
                Code.PAYLOAD_TOO_LARGE,
                f"the answer has {len(body)} bytes, the limit is {self._max_reply_bytes}",
            )
        return Outcome(body, ttl_s=ttl_s if answer.store else 0.0)

    def _convert_error(self, error: Exception) -> Outcome:
        match error:
            case InvalidInput():
                details = {"fields": [{"field": error.field, "problem": error.message}]} if error.field else {}
                ttl_s = min(self.predictor.negative_ttl_s, self.predictor.ttl_s)
                return replace(failure(Code.INVALID_ARGUMENT, error.message, details=details), ttl_s=ttl_s)
            case Unavailable():
                retry_ms = None if error.retry_after_s is None else max(1, round(error.retry_after_s * 1000))
                return failure(Code.UNAVAILABLE, "the model is not available now", retry_after_ms=retry_ms)
            case ModelTimeout():
                message = f"the model took longer than its limit of {self.timeout_s:g} s"
                return failure(Code.DEADLINE_EXCEEDED, message)
            case OutputInvalid():
                log.error("model_output_invalid", model=self.name, problem=str(error))
                return failure(Code.MODEL_OUTPUT_INVALID, "the model's output is not valid")
            case Crashed():
                log.error("model_crashed", model=self.name, problem=str(error))
            case _:
                log.error("model_error", model=self.name, exc_info=error)
        return failure(Code.MODEL_ERROR, "the model failed on this input")


def execution_of(predictor: AnyPredictor) -> Execution:
    """Async predictors run on the event loop, others in threads."""
    return LoopExecution(predictor) if predictor.is_async else ThreadExecution(predictor)
