"""RabbitMQ and Redis as throw-away processes, on free ports of the loopback interface."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.found import NoServers, say

START_TIMEOUT_S, SAY_EVERY_S = 300.0, 20.0  # a third of a busy core starts RabbitMQ in minutes
_COOKIE = "responder-throw-away"
_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG


def rabbitmq_server() -> str | None:
    """The path of the server's own script. Debian's wrapper in /usr/sbin is avoided, because it changes the user."""
    debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(debian) if debian.exists() else shutil.which("rabbitmq-server")


def free_port() -> int:
    """A free loopback port, below the ephemeral range, that no other process of ours is about to use.

    Parallel test runs choose ports at the same time, and a server binds its port seconds later. So an abstract socket
    (Linux) reserves the port until this process ends.
    """
    for port in random.sample(range(20_000, 32_000), 200):
        reserved, probe = socket.socket(socket.AF_UNIX), socket.socket()
        with probe:
            try:
                if sys.platform == "linux":
                    reserved.bind(f"\0responder-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                reserved.close()
                continue
        reserved.detach()  # it stays open until this process ends
        return port
    msg = "no free port between 20000 and 32000"
    raise NoServers(msg)


def die_with_parent() -> Callable[[], None] | None:
    """Make a `preexec_fn`: the kernel then kills the child when this process ends in any way. Linux only, else None."""
    if sys.platform != "linux":
        return None
    return lambda: ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


class _Process(ABC):
    """A server process that can be started, killed and started again."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    port: int

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def answers(self) -> bool:
        """Whether it speaks its protocol; an open port alone is not enough."""

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        began = said_at = time.monotonic()
        while not self.answers():
            now = time.monotonic()
            if now - said_at > SAY_EVERY_S:
                said_at = now
                say(f"{Path(self.command[0]).name} is still starting ({now - began:.0f} s)")
            if self._process.poll() is not None or now - began > START_TIMEOUT_S:
                tail = (self.folder / "log").read_text(errors="replace")[-1500:]
                msg = f"{self.command[0]} did not start:\n{tail}"
                raise NoServers(msg)
            time.sleep(0.02)

    def kill(self) -> None:
        """Send SIGKILL to it and its children."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Send SIGSTOP: its sockets stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)


class RedisProcess(_Process):
    """A Redis without persistence."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        self.folder, self.port, self.tls_port = folder, free_port(), 0
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.environment = dict(os.environ)
        self.command = [
            shutil.which("redis-server") or "redis-server",
            *(
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                str(folder),
            ),
            *("--enable-debug-command", "yes"),
        ]

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator["RedisProcess"]:
        """Start a Redis, and kill it at the end."""
        one = cls(folder)
        try:
            one.start()
            yield one
        finally:
            one.kill()

    def secure(self, authority: str, certificate: str, key: str) -> None:
        """Also serve TLS, on `tls_port`, to clients with a certificate of the authority. Call it before the start."""
        self.tls_port = free_port()
        files = ("--tls-ca-cert-file", authority, "--tls-cert-file", certificate, "--tls-key-file", key)
        self.command += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "yes", *files]

    def answers(self) -> bool:
        return _says(self.port, b"PING\r\n", b"+PONG")


class BrokerProcess(_Process):
    """A RabbitMQ node with its own data and log.

    Args:
        beside: a node whose epmd it shares, so that the two can form a cluster; None for its own epmd.
    """

    def __init__(self, folder: Path, beside: "BrokerProcess | None" = None) -> None:
        super().__init__()
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        cookie = folder / ".erlang.cookie"
        cookie.write_text(_COOKIE)
        cookie.chmod(0o400)
        (folder / "plugins").write_text("[].")
        (folder / "rabbitmq.conf").write_text("log.console = true\nlog.console.level = warning\n")
        (folder / "advanced.config").write_text("[].")
        (folder / "conf.d").mkdir()
        self._epmd_port: int = free_port() if beside is None else beside._epmd_port
        self._epmd = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        self.environment = kept | {
            "HOME": str(folder),
            "NOTIFY_SOCKET": "none",  # makes the start script exec the VM instead of staying its parent
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"responder{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_FEATURE_FLAGS_FILE": str(folder / "feature_flags"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(folder / "generated"),
            "RABBITMQ_SCHEMA_DIR": str(folder / "schema"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        self.command = [rabbitmq_server() or "rabbitmq-server"]

    @classmethod
    @contextmanager
    def prepared(cls, folder: Path, beside: "BrokerProcess | None" = None) -> Iterator["BrokerProcess"]:
        """Prepare a node without starting it, and kill it at the end."""
        one = cls(folder, beside)
        with one._own_epmd() if beside is None else contextlib.nullcontext():
            try:
                yield one
            finally:
                one.kill()

    @contextmanager
    def _own_epmd(self) -> Iterator[None]:
        epmd = subprocess.Popen(
            self._epmd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent(),
        )
        try:
            yield
        finally:
            epmd.kill()
            epmd.wait()

    @property
    def node(self) -> str:
        """Its Erlang node name."""
        return self.environment["RABBITMQ_NODENAME"]

    def join(self, other: "BrokerProcess") -> None:
        """Join the cluster of a running node. This node loses its data."""
        for words in (("stop_app",), ("reset",), ("join_cluster", other.node), ("start_app",)):
            self.control(*words)

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator["BrokerProcess"]:
        """Start a node, and kill it at the end."""
        with cls.prepared(folder) as one:
            one.start()
            yield one

    def configure(self, *lines: str) -> None:
        """Add lines to its configuration. Call it before the start."""
        with (self.folder / "rabbitmq.conf").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def answers(self) -> bool:
        return _says(self.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")

    def control(self, *words: str) -> str:
        """Run `rabbitmqctl` on this node."""
        tool = Path(self.command[0]).with_name("rabbitmqctl")
        command = [str(tool), "-n", self.node, *words]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout


def _says(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(question)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False
