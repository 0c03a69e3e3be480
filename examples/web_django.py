"""Predictions in a Django application, and in any other that has threads and no event loop.

One blocking client for each process, made when it is first needed: after a server has forked its workers, not before.
"""

import atexit
import os
import threading
from functools import cache

from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.urls import path

from prediction_client import BlockingPredictionClient, PredictionError

_making = threading.Lock()


@cache
def _client(_process: int) -> BlockingPredictionClient:
    url = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/")
    client = BlockingPredictionClient(url, namespace=os.environ.get("RESPONDER_NAMESPACE", ""), timeout_s=5.0)
    atexit.register(client.close)
    return client.__enter__()


def predictions() -> BlockingPredictionClient:
    """This process's client; it is closed when the process ends."""
    with _making:  # or the first threads would make one each
        return _client(os.getpid())


def price(request: HttpRequest) -> HttpResponse:
    """A price for the pair that was posted."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        prediction = predictions().ask("price", {"pair": request.POST.get("pair", "")})
    except PredictionError as error:
        return JsonResponse({"code": error.code, "message": error.message}, status=error.status)
    return JsonResponse(prediction.value, headers={"cache-status": prediction.cache_status.encoded.decode()})


urlpatterns = [path("price", price)]
