"""Options that all commands of the requester share."""

from typing import Annotated

import typer

HOW = "How"

CacheControl = Annotated[
    str | None, typer.Option(help="RFC 9111 directives, e.g. no-cache or max-age=5", rich_help_panel=HOW)
]
Tenant = Annotated[str | None, typer.Option(help="namespace of the cached answers", rich_help_panel=HOW)]
AmqpUrl = Annotated[
    str,
    typer.Option(
        envvar="AMQP_URL",
        show_default=False,
        help="the broker \\[default: amqp://guest:guest@localhost/]",
        rich_help_panel=HOW,
    ),
]
Namespace = Annotated[
    str, typer.Option(envvar="RESPONDER_NAMESPACE", help="the responders' namespace", rich_help_panel=HOW)
]
Exchange = Annotated[
    str, typer.Option(help="where requests are published, if not to the default exchange", rich_help_panel=HOW)
]
ReplyExchange = Annotated[str, typer.Option(help="the responders' RESPONDER_REPLY_EXCHANGE", rich_help_panel=HOW)]
ReplyPrefix = Annotated[str, typer.Option(help="what the reply queue's name begins with", rich_help_panel=HOW)]
UserId = Annotated[str | None, typer.Option(help="the broker's user, to travel with each request", rich_help_panel=HOW)]
LOCAL = "amqp://guest:guest@localhost/"
