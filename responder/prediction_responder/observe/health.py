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
        not_ready: what is missing before requests can be answered; empty when nothing is.
        degraded: what is wrong and does not keep requests from being answered.
        metrics: what to expose.

    Yields:
        The port.
    """

    async def livez(_: web.Request) -> web.Response:
        """The event loop turns, or nobody would answer. Dependencies are no part of it: a restart cures none."""
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
