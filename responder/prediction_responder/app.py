"""The composition root: builds everything on one exit stack, and runs until it is told to stop."""

import asyncio
import re
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from prediction_responder.amqp import Amqp, Consumer, Publisher, Transport
from prediction_responder.amqp.pipeline import Pipeline
from prediction_responder.amqp.requests import Intake, ReplyPolicy
from prediction_responder.amqp.topology import exchanges, topology
from prediction_responder.cache import CachedAnswers, LeaseStore
from prediction_responder.cache.value import REPLICA_BYTES
from prediction_responder.clock import SYSTEM_CLOCK, Clock
from prediction_responder.execution.loading import load
from prediction_responder.execution.served import ServedModel
from prediction_responder.extras import extra
from prediction_responder.flight.leader import Leader
from prediction_responder.flight.lease import Leases
from prediction_responder.model.discovery import check_predictors
from prediction_responder.model.predictor import Servable
from prediction_responder.observe.events import NOBODY, Observer, Observers
from prediction_responder.observe.logs import logger
from prediction_responder.operate.control import REPORT, Control
from prediction_responder.operate.explain import Explanation, explain, read_directives, subject_for
from prediction_responder.operate.invalidate import Invalidation, check_choice, digest_of
from prediction_responder.operate.report import report
from prediction_responder.parts import build_cache, build_metrics
from prediction_responder.service import Service
from prediction_responder.settings import Settings
from prediction_schemas.wire import REQUEST_HEADERS, Addresses

log = logger(__name__)

REPLY_NACK_RETRIES = 4


class Responder:
    """A responder inside your asyncio program: `async with Responder([price], Settings()): ...`.

    It serves once it is entered. Leaving drains it: no request is lost, and it takes at most the grace period.

    Args:
        predictors: what to serve; functions and classes with `@predictor`.
        settings: see `prediction_responder.settings`; read from the environment by default.
        transport: what carries requests and replies; RabbitMQ at the settings' URL by default.
        observer: is told of the work, beside the metrics; a subclass of `Observer` overrides what it needs.
    """

    def __init__(
        self,
        predictors: Sequence[Servable],
        settings: Settings | None = None,
        *,
        transport: Transport | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings or Settings.from_environment()
        self._addresses = Addresses(self._settings.namespace)
        url, heartbeat_s = self._settings.amqp_url.get_secret_value(), self._settings.heartbeat_s
        self._transport = transport or Amqp(url, heartbeat_s=heartbeat_s)
        self._metrics = build_metrics() if self._settings.health_port is not None else None
        own: Observer = self._metrics or NOBODY
        self._observer = own if observer is None else Observers(own, observer)
        self._clock: Clock = SYSTEM_CLOCK
        self._models = [
            ServedModel(
                one,
                namespace=self._settings.namespace,
                max_depth=self._settings.max_depth,
                max_values=self._settings.max_values,
                max_reply_bytes=self._settings.max_reply_bytes,
                stale_s=self._settings.stale_s,
                keep_s=self._settings.keep_s,
                clock=self._clock,
            )
            for one in check_predictors(predictors)
        ]
        self._stack = AsyncExitStack()
        self._inbox = self._build_inbox()
        self._pipeline: Pipeline | None = None
        self._outbox: Publisher | None = None
        self._running: asyncio.Task[None] | None = None
        self._cache: LeaseStore | None = None
        self._why_not_loaded: dict[str, str] = {}
        self.health_port: int | None = None

    def __repr__(self) -> str:
        return f"<Responder {self._pipeline!r}>"

    @property
    def missing(self) -> list[str]:
        """What keeps it from answering, one line for each cause; empty when it is ready."""
        why = self._why_not_loaded
        parts = [
            why.get(model.name, f"model {model.name}: not loaded") for model in self._models if not model.is_loaded
        ]
        if self._running is not None and self._running.done():
            parts.append("pipeline: ended")
        if not self._inbox.is_consuming:
            parts.append(f"broker: not consuming: {self._inbox.last_error or 'connecting'}")
        if self._outbox is None or not self._outbox.is_up:
            parts.append(f"broker: cannot reply: {(self._outbox and self._outbox.last_error) or 'connecting'}")
        return parts

    @property
    def degraded(self) -> list[str]:
        """What is wrong but does not keep it from answering."""
        return [] if self._cache is None or self._cache.problem is None else [f"cache: {self._cache.problem}"]

    @property
    def unsettled(self) -> int:
        """How many requests were received and are not settled yet."""
        return self._inbox.unsettled

    @property
    def unconfirmed(self) -> int:
        """How many replies are queued or written and not confirmed yet."""
        return self._outbox.unconfirmed if self._outbox is not None else 0

    async def invalidate(
        self,
        model: str | None = None,
        features: Any = ...,
        *,
        tenant: str = "",
        key: str | None = None,
        every: bool = False,
    ) -> bool:
        """Make cached answers misses on every replica, from now on. Calls in flight store nothing.

        Returns whether there was anything: a cached answer, or a model that was ever asked.

        Args:
            model: all answers of this model are meant, whether or not it is served here.
            features: an input of the model, if only its answer is meant: a pydantic model or a JSON value.
            tenant: the cache namespace of that answer.
            key: of one answer, as `explain` gives it, instead of a model.
            every: all answers of all models of the namespace, instead of a model.

        Raises:
            ValueError: not exactly one of model, key and every; the input's model is not served here; or it or the key
                is not valid.
            CacheUnavailable: the cache does not answer.
        """
        invalidation = Invalidation(self._open_cache, self._settings.namespace)
        check_choice(model, features, tenant, key, every=every)
        if key is not None:
            return await invalidation.key(digest_of(key))
        if model is None:
            return bool(await invalidation.all())
        if features is ...:
            return await invalidation.model(model)
        return await invalidation.key(subject_for(self._models, model, features, tenant).key.digest)

    async def explain(self, model: str, features: Any, *, tenant: str = "", cache_control: str = "") -> Explanation:
        """Explain how the next request with this input would be answered, and why.

        Args:
            model, features, tenant, cache_control: of that request; see `prediction_client.PredictionClient.ask`.

        Raises:
            ValueError: no such model is served here, or the input or the directives are not valid.
            CacheUnavailable: the cache does not answer.
        """
        directives = read_directives(cache_control)
        return await explain(
            self._open_cache, subject_for(self._models, model, features, tenant), self._clock, directives
        )

    @property
    def _open_cache(self) -> LeaseStore:
        if self._cache is None:
            msg = "the responder has not been entered: write `async with Responder(...) as responder:`"
            raise RuntimeError(msg)
        return self._cache

    async def ready(self) -> None:
        """Wait until it consumes requests and can send replies."""
        await self._inbox.consuming()
        if self._outbox is not None:
            await self._outbox.up()

    async def ended(self) -> None:
        """Wait until it has stopped answering on its own, because of a fault of ours; the log says which."""
        if self._running is not None:
            await asyncio.wait({self._running})

    async def __aenter__(self) -> Self:
        async with self._stack:
            await self._start()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.drain()
        finally:
            await self._stack.aclose()

    async def drain(self) -> bool:
        """Stop consuming and finish the work. False if work that had started was requeued."""
        if self._pipeline is None:
            return True
        finished = await self._pipeline.drain(self._settings.grace_s)
        if self._running is not None:
            await asyncio.wait({self._running})
            failed = None if self._running.cancelled() else self._running.exception()
            if failed is not None:
                log.error("pipeline_failed", exc_info=failed)
                finished = False
        self._pipeline = None
        log.info("drained", finished=finished)
        return finished

    async def _start(self) -> None:
        """Start all parts in order; they stop in reverse order."""
        settings, enter = self._settings, self._stack.enter_async_context
        if self._metrics is not None and settings.health_port is not None:
            with extra("serve"):
                from prediction_responder.observe.health import health_server

            self.health_port = await enter(
                health_server(
                    settings.health_host,
                    settings.health_port,
                    not_ready=lambda: self.missing,
                    degraded=lambda: self.degraded,
                    metrics=self._metrics,
                )
            )
        replica = secrets.token_bytes(REPLICA_BYTES)
        cache: LeaseStore = await enter(build_cache(settings, f"{settings.namespace}pr:inbox:{replica.hex()}"))
        self._cache = cache
        self._observer.watch_cache(lambda: cache.is_up)
        clock, observer = self._clock, self._observer
        answers = CachedAnswers(cache, observer)
        Control(cache, {REPORT: lambda: report(replica.hex(), self._models, self)})
        leases = Leases(cache, answers, clock, lease_s=settings.lease_s, replica=replica, observer=observer)
        self._stack.push_async_callback(leases.close)
        log.info("replica", id=replica.hex())
        for model in self._models:
            self._stack.push_async_callback(model.close)
            why = partial(self._why_not_loaded.__setitem__, model.name)
            await load(model, settings.load_timeout_s, self._clock, why)
        pipeline = Pipeline(
            models={self._addresses.requests(model.name): model for model in self._models},
            inbox=self._inbox,
            intake=Intake(
                settings.max_body_bytes,
                settings.tenant_from_user_id,
                observer,
                users=None if settings.require_user_id is None else re.compile(settings.require_user_id.encode()),
            ),
            policy=ReplyPolicy(
                own=self._addresses.exchange.encode(),
                pattern=settings.reply_to_pattern.encode(),
                exchange=settings.reply_exchange,
            ),
            clock=clock,
            observer=observer,
        )
        leader = Leader(answers, leases, clock, observer=observer, max_stored_bytes=settings.max_stored_bytes)
        service = Service(answers, leader, pipeline.deliver, clock, pending=settings.pending, observer=observer)
        self._outbox = await enter(
            self._transport.outbox(
                name="responder replies",
                exchange=settings.reply_exchange,
                on_fate=pipeline.settle_fates,
                nack_retries=REPLY_NACK_RETRIES,
            )
        )
        await enter(self._inbox)
        self._pipeline = pipeline
        self._running = asyncio.create_task(pipeline.run(service, self._outbox), name="pipeline")

    def _build_inbox(self) -> Consumer:
        settings = self._settings
        return self._transport.inbox(
            topology(
                self._addresses,
                [model.name for model in self._models],
                queue_type=settings.queue_type,
                max_length=settings.max_queue_length,
            ),
            name="responder requests",
            prefetch=settings.prefetch,
            exchanges=exchanges(self._addresses, settings.reply_exchange),
            headers=REQUEST_HEADERS,
            max_body_bytes=settings.max_body_bytes,
            declare=settings.declare_topology,
        )
