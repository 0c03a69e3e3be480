"""What a commit pushes to the inboxes of followers: a byte for the kind, the key's digest, the lease's token, content.

V  the answer, as it would be stored     E  an error: `messages.encode_error`
P  nothing: look again                   H  nothing, but the answer can be fetched for a while: it is handed over
"""

from typing import NamedTuple

from prediction_responder.cache.keys import DIGEST_BYTES
from prediction_responder.cache.value import MARK_BYTES, TOKEN_AT, TOKEN_BYTES

PUSH_MAX_BYTES = 65_536  # of content; followers fetch a larger one
VALUE, ERROR, NOTHING, HANDED_OVER = b"V", b"E", b"P", b"H"
_TOKEN_FROM = 1 + DIGEST_BYTES
PUSH_HEAD_BYTES = _TOKEN_FROM + TOKEN_BYTES

# The same layout for the scripts of Redis.
PUSH_LUA = f"""
local function push_of(kind, digest, mark, content)
  return kind .. digest .. string.sub(mark, {TOKEN_AT + 1}, {MARK_BYTES}) .. content
end
"""


class Push(NamedTuple):
    """A push, taken apart."""

    kind: bytes
    digest: bytes
    token: bytes
    content: bytes = b""

    @property
    def encoded(self) -> bytes:
        """The bytes that are published."""
        return self.kind + self.digest + self.token + self.content


def read_push(push: bytes) -> Push:
    """Take a push apart. The channel is a replica's own, and a push that is cut short finds no follower."""
    return Push(push[:1], push[1:_TOKEN_FROM], push[_TOKEN_FROM:PUSH_HEAD_BYTES], push[PUSH_HEAD_BYTES:])
