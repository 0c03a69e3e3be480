"""`/livez`, `/readyz` and `/metrics` over HTTP."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from prediction_responder.observe.metrics import Metrics


@asynccontextmanager
async def health_server(
    host: str,
    port: int,
    *,
    not_ready: Callable[[], list[str]],
    degraded: Callable[[], list[str]],
    metrics: Metrics,
) -> AsyncIterator[int]:
    """Serve the probes.

    Args:
        host, port: where to listen; port 0 takes a free one.
        not_ready: returns what is missing before requests can be answered; empty if nothing is.
        degraded: returns problems despite which requests are answered.
        metrics: what to expose.

    Yields:
        The port.
    """

    async def livez(_: web.Request) -> web.Response:
        """An answer shows that the event loop runs. Dependencies do not count: a restart cures none of them."""
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        missing = not_ready()
        body = {"status": "not ready" if missing else "ready", "missing": missing, "degraded": degraded()}
        return web.json_response(body, status=503 if missing else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    server = web.Application()
    server.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    runner = web.AppRunner(server, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
