"""The wire contract: results, errors and their codes, cache directives, and the canonical form of an input.

The client and the responder import this package, and it imports neither. So a client and a responder of different
versions share only the bytes that are described here.
"""

from prediction_schemas.directives import (
    NO_DIRECTIVES,
    NO_STATUS,
    CacheStatus,
    Directives,
    forwarded_status,
    hit_status,
    parse_cache_control,
    parse_cache_status,
)
from prediction_schemas.messages import (
    Code,
    Failure,
    MalformedReply,
    Result,
    decode_reply,
    encode_failure,
    encode_result,
)

__all__ = [
    "NO_DIRECTIVES",
    "NO_STATUS",
    "CacheStatus",
    "Code",
    "Directives",
    "Failure",
    "MalformedReply",
    "Result",
    "decode_reply",
    "encode_failure",
    "encode_result",
    "forwarded_status",
    "hit_status",
    "parse_cache_control",
    "parse_cache_status",
]
