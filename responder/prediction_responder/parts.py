"""Builds the parts of a responder that need other people's packages, and imports those only then."""

from typing import TYPE_CHECKING

from prediction_responder.cache import LeaseStore
from prediction_responder.cache.keys import control_channel
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.extras import extra
from prediction_responder.settings import Settings

if TYPE_CHECKING:
    from prediction_responder.observe.metrics import Metrics


def build_cache(settings: Settings, inbox: str) -> LeaseStore:
    """The cache at the settings' URL.

    Args:
        inbox: the channel of this replica.
    """
    url = settings.redis_url.get_secret_value()
    if url == "memory://":
        return MemoryCache()
    with extra("serve"):
        from prediction_responder.cache.redis import RedisCache
    control = control_channel(settings.namespace)
    return RedisCache(url, timeout_s=settings.redis_timeout_s, inbox=inbox, control=control)


def build_metrics() -> "Metrics":
    """Metrics in a registry of their own."""
    with extra("serve"):
        from prediction_responder.observe.metrics import Metrics
    return Metrics()
