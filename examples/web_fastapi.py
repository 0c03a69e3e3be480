"""Predictions in a FastAPI application: `uvicorn examples.web_fastapi:app`. AMQP_URL is the broker's URL.

The application has one client, which it opens at the start and closes at the end. A prediction's error becomes an HTTP
response with the status of its code and, if known, the header `retry-after`.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from examples.price import Features, Price
from prediction_client import PredictionClient, PredictionError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the client open while the application runs."""
    async with PredictionClient.from_environment(timeout_s=5.0) as client:
        app.state.predictions = client
        yield


app = FastAPI(lifespan=lifespan)


def predictions(request: Request) -> PredictionClient:
    """The application's client. A test can replace it, see `prediction_client.testing`."""
    client: PredictionClient = request.app.state.predictions
    return client


@app.post("/price")
async def price(
    features: Features, response: Response, client: Annotated[PredictionClient, Depends(predictions)]
) -> Price:
    """Return a price, and where it came from."""
    prediction = await client.ask("price", features, output=Price)
    response.headers["cache-status"] = prediction.cache_status.encoded.decode()
    return prediction.value


@app.exception_handler(PredictionError)
async def prediction_error(_request: Request, error: PredictionError) -> JSONResponse:
    """Turn a prediction's error into an HTTP response."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(math.ceil(error.retry_after_s))}
    return JSONResponse({"code": error.code, "message": error.message}, error.status, headers)
