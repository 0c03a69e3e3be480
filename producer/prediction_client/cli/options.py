"""Options that the commands share."""

from typing import Annotated

import typer

REQUESTS = "Requests and connection"

CacheControl = Annotated[
    str | None, typer.Option(help="RFC 9111 directives, e.g. no-cache or max-age=5", rich_help_panel=REQUESTS)
]
Tenant = Annotated[str | None, typer.Option(help="cache namespace of the answers", rich_help_panel=REQUESTS)]
AmqpUrl = Annotated[
    str,
    typer.Option(
        envvar="AMQP_URL",
        show_default=False,
        help="the broker's URL \\[default: amqp://guest:guest@localhost/]",
        rich_help_panel=REQUESTS,
    ),
]
Namespace = Annotated[
    str, typer.Option(envvar="RESPONDER_NAMESPACE", help="the responders' namespace", rich_help_panel=REQUESTS)
]
Exchange = Annotated[
    str, typer.Option(help="exchange for requests, instead of the default exchange", rich_help_panel=REQUESTS)
]
ReplyExchange = Annotated[str, typer.Option(help="the responders' RESPONDER_REPLY_EXCHANGE", rich_help_panel=REQUESTS)]
ReplyPrefix = Annotated[str, typer.Option(help="first part of the reply queue's name", rich_help_panel=REQUESTS)]
UserId = Annotated[str | None, typer.Option(help="the broker's user, sent with each request", rich_help_panel=REQUESTS)]
