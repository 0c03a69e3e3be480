"""Real servers, real responder processes, and a foreign client for the tests."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage

from deploy.binaries import binaries
from deploy.found import Servers
from deploy.processes import RedisProcess
from deploy.servers import docker_has_images, images
from prediction_responder import Responder, Settings
from prediction_responder.model.predictor import AnyPredictor
from tests.pace import Pace

ROOT = Path(__file__).resolve().parent.parent
DEMAND_CONTAINERS = "TESTS_DEMAND_CONTAINERS"


def source_of(chosen: str) -> str:
    """Where the servers of this run come from: given URLs, containers where an engine answers, else binaries."""
    if chosen != "auto":
        return chosen
    if os.environ.get("AMQP_URL") and os.environ.get("REDIS_URL"):
        return "given"
    return "containers" if docker_has_images() else "binaries"


@contextmanager
def running_servers(chosen: str) -> Iterator[Servers]:
    """The servers of this run."""
    source = source_of(chosen)
    if source == "given":
        yield Servers(os.environ["AMQP_URL"], os.environ["REDIS_URL"], "given")
    elif source == "binaries":
        with binaries() as found:
            yield found
    else:
        with _containers() as found:
            yield found


@contextmanager
def _containers() -> Iterator[Servers]:
    from testcontainers.community.rabbitmq import RabbitMqContainer
    from testcontainers.community.redis import RedisContainer

    chosen = images()
    broker = RabbitMqContainer(chosen["RABBITMQ_IMAGE"], port=5672, username="guest", password="guest", vhost="/")
    with broker, RedisContainer(chosen["REDIS_IMAGE"], port=6379) as redis:
        amqp = f"{broker.get_container_host_ip()}:{broker.get_exposed_port(5672)}"
        cache = f"{redis.get_container_host_ip()}:{redis.get_exposed_port(6379)}"

        def control(*words: str) -> str:
            status, output = broker.exec(["rabbitmqctl", *words])
            if status != 0:
                raise RuntimeError(output.decode())
            return str(output.decode())

        yield Servers(f"amqp://guest:guest@{amqp}/", f"redis://{cache}/0", "containers", control=control)


@contextmanager
def own_redis(folder: Path) -> Iterator[RedisProcess]:
    """A Redis that a test may kill; `redis-server` is installed wherever the servers' tests run."""
    with RedisProcess.running(folder / "redis") as one:
        yield one


def settings(servers: Servers, namespace: str, **values: Any) -> Settings:
    """Settings for an embedded responder, without the environment's."""
    chosen = servers.environment(namespace)
    namespace = chosen.pop("RESPONDER_NAMESPACE")
    return Settings.model_validate(chosen | {"namespace": namespace} | values)


@asynccontextmanager
async def embedded(predictor: AnyPredictor, chosen: Settings) -> AsyncIterator[Responder]:
    """A responder in this process, consuming."""
    async with Responder([predictor], chosen) as one:
        async with asyncio.timeout(10):
            await one.ready()
        yield one


@functools.cache
def _pace_of_this_run() -> float:
    return Pace().now()


class ResponderProcess:
    """A responder as an operator runs it."""

    def __init__(
        self,
        model: str,
        environment: dict[str, str],
        module: str = "prediction_responder",
        stderr: IO[bytes] | None = None,
    ) -> None:
        self._stderr = stderr
        self._module = module
        self._port = free_port()
        self._model = model
        self._environment = os.environ | {
            "RESPONDER_HEALTH_HOST": "127.0.0.1",
            "RESPONDER_HEALTH_PORT": str(self._port),
            "RESPONDER_LOG": "json",
            "MODEL_LIMIT_S": str(5 * _pace_of_this_run()),
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", self._module, "serve", self._model]
        self.process = subprocess.Popen(command, env=self._environment, cwd=ROOT, stderr=self._stderr)

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it consumes."""
        assert self.process is not None
        began = time.monotonic()
        while self.probe("/readyz") != 200:
            assert self.process.poll() is None, "the responder ended"
            waited_s = time.monotonic() - began
            assert waited_s < 20 or waited_s < 20 * Pace().now(), "the responder did not become ready"
            time.sleep(0.02)

    def probe(self, path: str) -> int:
        """The HTTP status of a probe; 0 when nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=2) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """The exposition."""
        return self.read("/metrics")

    def read(self, path: str) -> str:
        """What it says there, whatever the status is.

        Raises:
            OSError: nobody listens.
        """
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=2) as response:
                text: str = response.read().decode()
                return text
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it, and to nobody else."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Its exit status."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def responder_process(servers: Servers, namespace: str, model: str, **environment: str) -> Iterator[ResponderProcess]:
    """A running one, gone at the end."""
    one = ResponderProcess(model, servers.environment(namespace) | environment)
    try:
        one.start()
        yield one
    finally:
        one.end()


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something that another process, or the broker, does in its own time; the only such wait in the tests.

    Raises:
        TimeoutError: not within this time on a machine at its usual pace.
    """
    began, limit_s = time.monotonic(), timeout_s
    while not condition():
        waited_s = time.monotonic() - began
        if waited_s > limit_s:
            limit_s = timeout_s * Pace().now()
        if waited_s > limit_s:
            msg = f"not within {waited_s:.1f} s"
            raise TimeoutError(msg)
        await asyncio.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ForeignClient:
    """A requester that knows nothing of our library: aio-pika's plain channel and the wire contract."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, queue: aio_pika.abc.AbstractQueue) -> None:
        self.channel = channel
        self.reply_queue = queue.name
        self._queue = queue
        self._replies: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator["ForeignClient"]:
        """One with an exclusive reply queue."""
        connection = await aio_pika.connect(url)
        try:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            one = cls(channel, queue)
            await queue.consume(one._take, no_ack=True)
            yield one
        finally:
            with contextlib.suppress(Exception):
                await connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._replies.put_nowait(message)

    async def send(self, queue: str, body: bytes, exchange: str = "", **properties: Any) -> None:
        """Publish a request as it is."""
        message = aio_pika.Message(body, **{"reply_to": self.reply_queue, "correlation_id": "c1", **properties})
        target = await self.channel.get_exchange(exchange) if exchange else self.channel.default_exchange
        await target.publish(message, routing_key=queue)

    async def reply(self, timeout_s: float = 10.0) -> AbstractIncomingMessage:
        """The next reply."""
        return await asyncio.wait_for(self._replies.get(), timeout_s)

    async def ask(self, queue: str, body: bytes, **properties: Any) -> tuple[AbstractIncomingMessage, dict[str, Any]]:
        """Send and read one."""
        await self.send(queue, body, **properties)
        message = await self.reply()
        return message, json.loads(message.body)

    async def depth(self, queue: str, expected: int = 0) -> int:
        """How many messages wait in a queue that nobody holds; quorum queues report late, so it waits for a while."""
        give_up_at = time.monotonic() + 10
        while True:
            declared = await self.channel.declare_queue(queue, passive=True)
            depth = declared.declaration_result.message_count or 0
            if depth == expected or time.monotonic() > give_up_at:
                return depth
            await asyncio.sleep(0.05)

    async def drain(self, quiet_s: float = 1.0) -> set[str]:
        """The identifiers of all replies until none has come for a while."""
        seen: set[str] = set()
        while True:
            try:
                seen.add(str((await self.reply(quiet_s)).correlation_id))
            except TimeoutError:
                return seen


@contextmanager
def replicas(
    servers: Servers, namespace: str, model: str, count: int, **environment: str
) -> Iterator[list[ResponderProcess]]:
    """So many running ones, which start together."""
    them = [ResponderProcess(model, servers.environment(namespace) | environment) for _ in range(count)]
    try:
        for one in them:
            one.launch()
        for one in them:
            one.wait_until_ready()
        yield them
    finally:
        for one in them:
            one.end()
