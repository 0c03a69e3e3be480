"""Predictions in a Django application, or in any other with threads and no event loop.

There is one blocking client for each process, made on first use: after the server has forked its workers, not before.
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
    client = BlockingPredictionClient.from_environment(timeout_s=5.0)
    atexit.register(client.close)
    return client.__enter__()


def predictions() -> BlockingPredictionClient:
    """The client of this process. It is closed when the process ends."""
    with _making:  # or each of the first threads would make a client
        return _client(os.getpid())


def price(request: HttpRequest) -> HttpResponse:
    """Return a price for the posted pair."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    try:
        prediction = predictions().ask("price", {"pair": request.POST.get("pair", "")})
    except PredictionError as error:
        return JsonResponse({"code": error.code, "message": error.message}, status=error.status)
    return JsonResponse(prediction.value, headers={"cache-status": prediction.cache_status.encoded.decode()})


urlpatterns = [path("price", price)]
