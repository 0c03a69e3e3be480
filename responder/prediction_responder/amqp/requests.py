"""Reads requests from AMQP messages, by version 1 of the wire contract."""

import re
from dataclasses import dataclass, field

from amqp_lane import Delivery, Properties
from prediction_responder.messages import Model, Refused, Request
from prediction_responder.observe.events import Observer, Oddity
from prediction_schemas import NO_DIRECTIVES, Code, Directives, parse_cache_control
from prediction_schemas.wire import CACHE_CONTROL, CALL, DEADLINE, DIRECT_REPLY_TO, JSON, TENANT

_DIRECT = re.compile(
    rb"amq\.(?:rabbitmq\.reply-to\.[A-Za-z0-9+/=_-]+(?:\.[A-Za-z0-9+/=_-]+)+|direct\.reply-to\.[\x21-\x7e]+)"
)
_NO_ENCODING = frozenset({b"", b"identity", b"binary", b"utf-8", b"utf8", b"us-ascii", b"ascii"})
USER = b"{user}"
_TYPES = frozenset({None, b"", CALL})
_MAX_TENANT_BYTES = 255
_ADDRESSES_KEPT = 4096
_ABSURD_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class ReplyPolicy:
    """Where a responder may send replies. The caller chooses `reply_to`, so it is never trusted.

    Args:
        own: the prefix of the responder's own queues; no reply goes there.
        pattern: a regular expression that the whole name of a reply queue must match. `{user}` in it stands for the
            user that the broker has validated; a request without such a user then has no reply queue.
        exchange: where replies are published; direct reply-to works only with the default exchange, the empty name.
    """

    own: bytes
    pattern: bytes
    exchange: str = ""
    _known: dict[bytes | tuple[bytes, bytes | None], bool] = field(default_factory=dict, compare=False)

    def accepts(self, reply_to: bytes, user_id: bytes | None = None) -> bool:
        """Whether a reply may be sent there. Remembered, because a caller sends many requests with one address."""
        asked = reply_to if user_id is None else (reply_to, user_id)
        known = self._known.get(asked)
        if known is None:
            if len(self._known) >= _ADDRESSES_KEPT:
                self._known.clear()
            known = self._known[asked] = self._decide(reply_to, user_id)
        return known

    def _decide(self, reply_to: bytes, user_id: bytes | None) -> bool:
        if reply_to.startswith(DIRECT_REPLY_TO):
            return not self.exchange and _DIRECT.fullmatch(reply_to) is not None
        if reply_to.startswith(self.own) or (not user_id and USER in self.pattern):
            return False
        return re.fullmatch(self.pattern.replace(USER, re.escape(user_id or b"")), reply_to) is not None


@dataclass(frozen=True, slots=True)
class Intake:
    """Turns deliveries into requests.

    Args:
        max_body_bytes: a larger body is refused with 413 PAYLOAD_TOO_LARGE.
        tenant_from_user_id: take the tenant from the user that the broker has validated, never from a header.
        users: the whole name of a request's validated user must match this; None accepts every request.
        observer: is told of oddities that were ignored.
    """

    max_body_bytes: int
    tenant_from_user_id: bool
    observer: Observer
    users: re.Pattern[bytes] | None = None

    def request(self, delivery: Delivery, model: Model, now: float, now_ms: int) -> Request:
        """The request in a delivery. The body moves into the request, so that memory holds it once.

        Args:
            now: the event loop's clock.
            now_ms: the same moment in milliseconds since the Unix epoch.

        Raises:
            Refused: 400, 403, 413 or 415.
        """
        given = delivery.properties
        body, delivery.body = delivery.body, b""
        if given.broken:
            raise Refused(Code.INVALID_ARGUMENT, "the AMQP properties are damaged")
        if self.users is not None and not (given.user_id and self.users.fullmatch(given.user_id)):
            raise Refused(Code.PERMISSION_DENIED, _not_for(given.user_id))
        if given.type not in _TYPES:
            raise Refused(Code.INVALID_ARGUMENT, _not_a_type(given.type))
        if body is None:
            raise Refused(Code.PAYLOAD_TOO_LARGE, f"the body has more than {self.max_body_bytes} bytes")
        if given.content_type != JSON or given.content_encoding is not None:
            _check_media_type(given)
        deadline, has_deadline, directives, tenant = now + model.timeout_s, False, NO_DIRECTIVES, b""
        if given.headers or given.expiration is not None:
            deadline, has_deadline = self._deadline(given, now, now_ms, deadline)
            directives = self._directives(given)
        if given.headers or self.tenant_from_user_id:
            tenant = self._tenant(given)
        return Request(model, body, tenant, now, deadline, has_deadline, directives, delivery)

    def _directives(self, given: Properties) -> Directives:
        control = given.headers.get(CACHE_CONTROL, b"")
        if control == b"":
            return NO_DIRECTIVES
        directives = NO_DIRECTIVES if control is None else parse_cache_control(control)
        if control is None or directives.malformed:
            self.observer.odd(Oddity.MALFORMED_CACHE_CONTROL)
        return directives

    def _tenant(self, given: Properties) -> bytes:
        tenant = given.user_id if self.tenant_from_user_id else given.headers.get(TENANT, b"")
        if self.tenant_from_user_id and tenant is None:
            return b""
        if tenant is None or len(tenant) > _MAX_TENANT_BYTES:
            message = f"header tenant must be a string of at most {_MAX_TENANT_BYTES} bytes"
            raise Refused(Code.INVALID_ARGUMENT, message)
        return tenant

    def _deadline(self, given: Properties, now: float, now_ms: int, deadline: float) -> tuple[float, bool]:
        """The earliest of the header, the expiration and the model's limit; and whether the caller set one."""
        has_deadline = False
        if given.expiration is not None and given.expiration.isdigit():
            deadline, has_deadline = min(deadline, now + int(given.expiration[:15]) / 1000), True
        header = given.headers.get(DEADLINE, b"")
        if header != b"":
            left_ms = _left_ms(header, now_ms)
            if left_ms is None:
                self.observer.odd(Oddity.MALFORMED_DEADLINE)
            else:
                deadline, has_deadline = min(deadline, now + left_ms / 1000), True
        return deadline, has_deadline


def _not_for(user_id: bytes | None) -> str:
    if not user_id:
        return "set the property user_id to the user of your connection; this responder answers known users only"
    return f"the user {user_id[:60].decode('utf-8', 'replace')!r} may not ask this responder"


def _not_a_type(given: bytes | None) -> str:
    return f"type {(given or b'')[:60].decode('utf-8', 'replace')!r}: send {CALL.decode()!r} or none"


def _left_ms(header: bytes | None, now_ms: int) -> int | None:
    """Milliseconds until the moment in a `deadline` header; None if it is malformed or more than 30 days ago.

    Such an old moment is not a deadline but a wrong unit, mostly seconds.
    """
    if header is None or not header.isdigit() or len(header) > 15:
        return None
    left_ms = int(header) - now_ms
    return left_ms if left_ms >= -_ABSURD_MS else None


def _check_media_type(given: Properties) -> None:
    if given.content_type is not None and given.content_type != JSON:
        media_type = given.content_type.partition(b";")[0].strip().lower()
        if media_type != JSON:
            shown = media_type[:60].decode("ascii", "replace")
            raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, f"content_type {shown!r}: send application/json")
    if given.content_encoding is not None and given.content_encoding.strip().lower() not in _NO_ENCODING:
        shown = given.content_encoding[:60].decode("ascii", "replace")
        raise Refused(Code.UNSUPPORTED_MEDIA_TYPE, f"content_encoding {shown!r}: send the JSON text as it is, in UTF-8")
