"""Prometheus counters of the service, counted per batch with labels that are looked up once."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from prediction_responder.messages import Outcome, Reply, Request
from prediction_responder.observe.events import Call, Observer, Oddity, Refreshed
from prediction_schemas import Code

FATES = ("confirmed", "returned", "refused", "abandoned")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics(Observer):
    """The metrics of a responder. Labels are bounded: they hold our models and codes, nothing from a message."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._received = Counter("responder_requests", "Requests that were received.", registry=self.registry)
        self._replies = Counter(
            "responder_replies",
            "Replies by model, outcome (ok or the error code) and cache status.",
            ("model", "outcome", "cache"),
            registry=self.registry,
        )
        self._model_calls = Counter(
            "responder_model_calls",
            "Model calls that ended, by outcome (ok or the error code).",
            ("model", "outcome"),
            registry=self.registry,
        )
        self._model_seconds = Histogram(
            "responder_model_call_duration_seconds",
            "Duration of model calls.",
            ("model",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._refreshes = Counter(
            "responder_refreshes",
            "Background refreshes, by outcome: done, failed, elsewhere (not needed here) or dropped.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self._fates = Counter(
            "responder_reply_fates",
            "Replies by fate: confirmed, returned, refused or abandoned.",
            ("fate",),
            registry=self.registry,
        )
        self._counters: dict[tuple[str, Code | None, str], Counter] = {}
        self._fate_counters = {fate: self._fates.labels(fate) for fate in FATES}
        self._cache_up = Gauge("responder_cache_up", "1 while the cache can be reached.", registry=self.registry)
        self._odd = Counter(
            "responder_oddities",
            "Oddities in messages that were ignored or refused, by kind.",
            ("kind",),
            registry=self.registry,
        )

    def received(self, batch: Sequence[Request]) -> None:
        """Count a batch of requests."""
        self._received.inc(len(batch))

    def replied(self, replies: Sequence[Reply]) -> None:
        """Count a batch of replies by model, error code and kind of cache status."""
        tally: dict[tuple[str, Code | None, str], int] = {}
        for one in replies:
            labelled = one.request.model.name, one.outcome.code, one.status.kind
            tally[labelled] = tally.get(labelled, 0) + 1
        for labels, count in tally.items():
            counter = self._counters.get(labels)
            if counter is None:
                model, code, kind = labels
                counter = self._replies.labels(model, code.name if code else "ok", kind)
                self._counters[labels] = counter
            counter.inc(count)

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Count one model call."""
        model = call.model
        self._model_calls.labels(model, outcome.code.name if outcome.code else "ok").inc()
        self._model_seconds.labels(model).observe(outcome.duration_ms / 1000)

    def refreshed(self, model: str, ended: Refreshed) -> None:
        """Count a refresh in the background."""
        self._refreshes.labels(model, ended.value).inc()

    def settled(self, fate: str, count: int) -> None:
        """Count what became of a batch of replies."""
        self._fate_counters[fate].inc(count)

    def watch_cache(self, is_up: Callable[[], bool]) -> None:
        """Read the cache's state on each scrape."""
        self._cache_up.set_function(lambda: float(is_up()))

    def odd(self, kind: Oddity) -> None:
        """Count one oddity."""
        self._odd.labels(kind.value).inc()

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
