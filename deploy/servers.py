"""RabbitMQ and Redis for a demo or a test run, from wherever they can be had:

1. `AMQP_URL` and `REDIS_URL`, if given;
2. Docker, if an engine answers and has or can pull the images (docker-compose.yml);
3. `rabbitmq-server` and `redis-server`, as throw-away instances on free ports of the loopback;
4. on Debian or Ubuntu as root: those two packages, installed first.

Nothing outlives the command, even when it is killed: a reaper waits for the end of a pipe that only the
command holds.

    python -m deploy.servers -- COMMAND...      runs COMMAND with AMQP_URL and REDIS_URL set
"""

import contextlib
import ctypes
import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
PULL_TIMEOUT_S = 300.0
_COOKIE = "responder-throw-away"
_DEATH_SIGNAL = 1  # prctl(2): PR_SET_PDEATHSIG


class NoServers(Exception):
    """There is no way to get the servers here; the message says what to install."""


class Server(Protocol):
    """One server that can be hurt."""

    url: str

    def kill(self) -> None:
        """End it at once, as a crash would."""

    def start(self) -> None:
        """Start it again, on the same port, and wait until it answers."""

    def freeze(self) -> None:
        """Stop it without closing its sockets."""

    def thaw(self) -> None:
        """Let it go on."""


@dataclass(frozen=True)
class Servers:
    """Where they are, and how they came about."""

    amqp_url: str
    redis_url: str
    source: str
    broker: Server | None = None
    redis: Server | None = None


def say(text: str) -> None:
    """One step, in one line, to standard error."""
    print(f"servers: {text}", file=sys.stderr, flush=True)


@contextmanager
def servers() -> Iterator[Servers]:
    """Servers from the first source that works.

    Raises:
        NoServers: none does.
    """
    amqp_url, redis_url = os.environ.get("AMQP_URL"), os.environ.get("REDIS_URL")
    if amqp_url and redis_url:
        say("AMQP_URL and REDIS_URL are given")
        yield Servers(amqp_url, redis_url, "given")
        return
    with _docker() if docker_has_images() else binaries() as found:
        yield found


# --- Docker ---------------------------------------------------------------------------------------------------------


def _quiet(*command: str, timeout_s: float = 30.0) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def images() -> dict[str, str]:
    """The images of the compose file, as its variables choose them."""
    return {
        "RABBITMQ_IMAGE": os.environ.get("RABBITMQ_IMAGE", "rabbitmq:4.1-management-alpine"),
        "REDIS_IMAGE": os.environ.get("REDIS_IMAGE", "redis:7.4-alpine"),
    }


def docker_has_images() -> bool:
    """Whether an engine with Compose answers and has the images, pulled now if need be."""
    if not _quiet("docker", "info") or not _quiet("docker", "compose", "version"):
        return False
    for image in images().values():
        if not _quiet("docker", "image", "inspect", image):
            say(f"pulling {image}")
            if not _quiet("docker", "pull", "-q", image, timeout_s=PULL_TIMEOUT_S):
                say(f"cannot pull {image}; going on without Docker")
                return False
    return True


@contextmanager
def _docker() -> Iterator[Servers]:
    project = f"responder-{secrets.token_hex(4)}"
    compose = ["docker", "compose", "-p", project, "-f", str(ROOT / "docker-compose.yml")]
    environment = os.environ | {"AMQP_PORT": "0", "REDIS_PORT": "0"}
    say("starting RabbitMQ and Redis in Docker")
    down = [*compose, "down", "--volumes", "--timeout", "1"]
    with _reaper(shlex.join(down)):
        try:
            subprocess.run(
                [*compose, "up", "-d", "--wait", "rabbitmq", "redis"], env=environment, check=True, capture_output=True
            )
            amqp, redis = (_published(compose, *one) for one in (("rabbitmq", "5672"), ("redis", "6379")))
            yield Servers(f"amqp://guest:guest@{amqp}/", f"redis://{redis}/0", "docker")
        except subprocess.CalledProcessError as error:
            msg = f"docker compose failed: {error.stderr.decode(errors='replace').strip()[-500:]}"
            raise NoServers(msg) from error
        finally:
            subprocess.run(down, capture_output=True, check=False)


def _published(compose: Sequence[str], service: str, port: str) -> str:
    shown = subprocess.run([*compose, "port", service, port], check=True, capture_output=True, text=True).stdout.strip()
    return shown.replace("0.0.0.0", "127.0.0.1")


# --- Binaries -------------------------------------------------------------------------------------------------------


def have_binaries() -> bool:
    """Whether both servers are installed."""
    return _rabbitmq_server() is not None and shutil.which("redis-server") is not None


@contextmanager
def binaries() -> Iterator[Servers]:
    """Throw-away instances in a temporary folder, installed first where that is possible."""
    if not have_binaries():
        _install()
    shm = Path("/dev/shm")
    parent = shm if os.access(shm, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="responder-servers-", dir=parent))
    with _reaper(f"rm -rf {shlex.quote(str(folder))}"), ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        began = time.monotonic()
        redis = stack.enter_context(RedisProcess.running(folder / "redis"))
        broker = stack.enter_context(BrokerProcess.running(folder / "rabbitmq"))
        say(f"RabbitMQ and Redis run from their binaries ({time.monotonic() - began:.1f} s)")
        yield Servers(broker.url, redis.url, "binaries", broker, redis)


def _install() -> None:
    packages = ["rabbitmq-server", "redis-server"]
    if not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        wanted = " and ".join(packages)
        msg = f"RabbitMQ and Redis are needed: start Docker, or install {wanted}, or set AMQP_URL and REDIS_URL"
        raise NoServers(msg)
    say(f"installing {' and '.join(packages)} from Debian's packages")
    policy = Path("/usr/sbin/policy-rc.d")
    with ExitStack() as stack:
        if not policy.exists():  # or the packages would start their own services
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            stack.callback(policy.unlink)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            done = subprocess.run(
                ["apt-get", "-q", *step], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0 and step != ["update"]:
                msg = f"apt-get {' '.join(step)} failed: {done.stderr.strip()[-500:]}"
                raise NoServers(msg)


def _rabbitmq_server() -> str | None:
    """The server's own script; Debian's wrapper in /usr/sbin changes the user."""
    debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(debian) if debian.exists() else shutil.which("rabbitmq-server")


def free_port() -> int:
    """A free port of the loopback, below the ephemeral range, where a client's own port could take it."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = "no free port between 20000 and 32000"
    raise NoServers(msg)


def _dies_with_us() -> None:
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


class _Process:
    """A server process of ours: started, waited for, killed, started again."""

    command: list[str]
    environment: dict[str, str]
    folder: Path
    port: int

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        """Whether it speaks its protocol; an open port alone is not enough."""
        raise NotImplementedError  # pragma: no cover

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
                preexec_fn=_dies_with_us if sys.platform == "linux" else None,
            )
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                tail = (self.folder / "log").read_text(errors="replace")[-1500:]
                msg = f"{self.command[0]} did not start:\n{tail}"
                raise NoServers(msg)
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL it and everything that it started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)


class RedisProcess(_Process):
    """A Redis that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir()
        self.folder, self.port = folder, free_port()
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
        """A running one."""
        one = cls(folder)
        try:
            one.start()
            yield one
        finally:
            one.kill()

    def answers(self) -> bool:
        return _says(self.port, b"PING\r\n", b"+PONG")


class BrokerProcess(_Process):
    """A RabbitMQ node of its own, with its own epmd, cookie, data and log."""

    def __init__(self, folder: Path) -> None:
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
        epmd_port = free_port()
        self._epmd = [shutil.which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(epmd_port)]
        self._epmd_process: subprocess.Popen[bytes] | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        self.environment = kept | {
            "HOME": str(folder),
            "NOTIFY_SOCKET": "none",  # the start script then becomes the VM instead of its parent
            "ERL_EPMD_PORT": str(epmd_port),
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
        self.command = [_rabbitmq_server() or "rabbitmq-server"]

    @classmethod
    @contextmanager
    def running(cls, folder: Path) -> Iterator["BrokerProcess"]:
        """A running one."""
        one = cls(folder)
        try:
            one._epmd_process = subprocess.Popen(
                one._epmd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=_dies_with_us if sys.platform == "linux" else None,
            )
            one.start()
            yield one
        finally:
            one.kill()
            if one._epmd_process is not None:
                one._epmd_process.kill()
                one._epmd_process.wait()

    def answers(self) -> bool:
        return _says(self.port, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")

    def control(self, *words: str) -> str:
        """Run `rabbitmqctl` on this node."""
        tool = Path(self.command[0]).with_name("rabbitmqctl")
        command = [str(tool), "-n", self.environment["RABBITMQ_NODENAME"], *words]
        return subprocess.run(command, env=self.environment, check=True, capture_output=True, text=True).stdout


def _says(port: int, question: bytes, answer: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(question)
            return connection.recv(len(answer)) == answer
    except OSError:
        return False


# --- The end --------------------------------------------------------------------------------------------------------


@contextmanager
def _reaper(cleanup: str) -> Iterator[None]:
    """Run a shell command when this process has ended in any way without leaving this context."""
    process = subprocess.Popen(
        ["sh", "-c", f"trap '' INT TERM HUP; read -r word; [ \"$word\" = done ] || {{ sleep 0.5; {cleanup}; }}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.communicate(b"done\n")


def run(command: Sequence[str], source: Callable[[], AbstractContextManager[Servers]] = servers) -> int:
    """Run a command with AMQP_URL and REDIS_URL set; its exit status."""
    with source() as found:
        environment = os.environ | {"AMQP_URL": found.amqp_url, "REDIS_URL": found.redis_url}
        process = subprocess.Popen(command, env=environment)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command got it too, and ends in its own way


def main() -> int:
    """The command line."""
    words = sys.argv[1:]
    if len(words) < 2 or words[0] != "--":
        print(__doc__, file=sys.stderr)
        return 2
    # SIGTERM unwinds like Ctrl-C, so that the servers are stopped in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return run(words[1:])
    except NoServers as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
