"""Properties that many messages share, encoded once (AMQP 0-9-1 section 4.2.6.1)."""

_OCTETS = tuple(bytes((number,)) for number in range(256))


def short(text: bytes) -> bytes:
    """Encode a short string: its length in one octet, then its octets.

    Raises:
        ValueError: the text has more than 255 octets.
    """
    if len(text) > 255:
        msg = f"a short string has at most 255 octets, not {len(text)}"
        raise ValueError(msg)
    return _OCTETS[len(text)] + text


class Template:
    """The properties that are the same in all messages of a sender.

    Args:
        content_type, content_encoding, reply_to, type, user_id: the basic properties of these names; None means absent.
        persistent: `delivery_mode` 2: a message in a durable queue survives a restart of the broker.

    Raises:
        ValueError: a value has more than 255 octets.
    """

    __slots__ = ("flags", "head", "mode", "reply_to", "tail")

    def __init__(
        self,
        *,
        content_type: bytes | None = None,
        content_encoding: bytes | None = None,
        reply_to: bytes | None = None,
        type: bytes | None = None,
        user_id: bytes | None = None,
        persistent: bool = False,
    ) -> None:
        named = (
            (0x8000, content_type),
            (0x4000, content_encoding),
            (0x0200, reply_to),
            (0x0020, type),
            (0x0010, user_id),
        )
        self.mode = b"\x02" if persistent else b""
        self.flags = sum(flag for flag, value in named if value is not None) | (0x1000 if persistent else 0)
        self.head = b"".join(short(value) for value in (content_type, content_encoding) if value is not None)
        self.reply_to = b"" if reply_to is None else short(reply_to)
        self.tail = b"".join(short(value) for value in (type, user_id) if value is not None)


BLANK = Template()
