"""A slow example model: it waits for a second and returns a made-up price.

The price depends on the input and on nothing else, so every reply can be checked.
Environment: PRICE_MODEL_SECONDS (1), PRICE_TTL_SECONDS (5).
"""

import asyncio
import hashlib
import os

from pydantic import BaseModel, Field

from prediction_responder import predictor

MODEL_SECONDS = float(os.environ.get("PRICE_MODEL_SECONDS", "1"))
TTL_SECONDS = float(os.environ.get("PRICE_TTL_SECONDS", "5"))


class Features(BaseModel):
    """The inputs of a price prediction."""

    pair: str = Field(min_length=1, max_length=32, examples=["ETH/EUR"])
    horizon_minutes: int = Field(default=5, ge=1, le=1440)
    returns: list[float] = Field(default=[], max_length=1000)


class Price(BaseModel):
    """The predicted price."""

    price: float


def expected(features: Features) -> float:
    """The price that a correct reply must contain."""
    seen = repr((features.pair, features.horizon_minutes, features.returns)).encode()
    return int.from_bytes(hashlib.blake2b(seen, digest_size=4).digest()) / 1e6


@predictor(name="price", version="1", ttl_s=TTL_SECONDS)
async def price(features: Features) -> Price:
    """Predict a price."""
    await asyncio.sleep(MODEL_SECONDS)
    return Price(price=expected(features))
