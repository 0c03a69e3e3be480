"""RabbitMQ and Redis for a demo or a test run, from the first source that works:

1. `AMQP_URL` and `REDIS_URL`, if set;
2. Docker, if an engine answers and has or can pull the images (docker-compose.yml);
3. `rabbitmq-server` and `redis-server`, as throw-away instances on free ports of the loopback;
4. on Debian or Ubuntu as root: those two packages, installed first.

The servers end with this program, even when it is killed: a reaper waits until a pipe is closed whose other end only
this program holds.

    python -m deploy.servers -- COMMAND...      runs COMMAND with AMQP_URL and REDIS_URL set
"""

import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from deploy.binaries import binaries
from deploy.found import NoServers, Servers, reaper, say
from deploy.processes import die_with_parent

ROOT = Path(__file__).resolve().parent.parent
PULL_TIMEOUT_S = 300.0
COMMAND_GRACE_S = 40.0


@contextmanager
def servers() -> Iterator[Servers]:
    """Provide servers from the first source that works.

    Raises:
        NoServers: no source works.
    """
    amqp_url, redis_url = os.environ.get("AMQP_URL"), os.environ.get("REDIS_URL")
    if amqp_url and redis_url:
        say("using AMQP_URL and REDIS_URL")
        yield Servers(amqp_url, redis_url, "given")
        return
    with _docker() if docker_has_images() else binaries() as found:
        yield found


def _quiet(*command: str, timeout_s: float = 30.0) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def images() -> dict[str, str]:
    """The images of the compose file, by the variables that select them."""
    return {
        "RABBITMQ_IMAGE": os.environ.get("RABBITMQ_IMAGE", "rabbitmq:4.1-management-alpine"),
        "REDIS_IMAGE": os.environ.get("REDIS_IMAGE", "redis:7.4-alpine"),
    }


def docker_has_images() -> bool:
    """Whether a Docker engine with Compose answers and has the images; missing images are pulled."""
    if not _quiet("docker", "info") or not _quiet("docker", "compose", "version"):
        return False
    for image in images().values():
        if not _quiet("docker", "image", "inspect", image):
            say(f"pulling {image}")
            if not _quiet("docker", "pull", "-q", image, timeout_s=PULL_TIMEOUT_S):
                say(f"cannot pull {image}; continuing without Docker")
                return False
    return True


@contextmanager
def _docker() -> Iterator[Servers]:
    project = f"responder-{secrets.token_hex(4)}"
    compose = ["docker", "compose", "-p", project, "-f", str(ROOT / "docker-compose.yml")]
    environment = os.environ | {"AMQP_PORT": "0", "REDIS_PORT": "0"}
    say("starting RabbitMQ and Redis in Docker")
    down = [*compose, "down", "--volumes", "--timeout", "1"]
    with reaper(shlex.join(down)) as done:
        try:
            subprocess.run(
                [*compose, "up", "-d", "--wait", "rabbitmq", "redis"], env=environment, check=True, capture_output=True
            )
            amqp, redis = (_find_address(compose, *one) for one in (("rabbitmq", "5672"), ("redis", "6379")))
            yield Servers(f"amqp://guest:guest@{amqp}/", f"redis://{redis}/0", "docker")
        except subprocess.CalledProcessError as error:
            msg = f"docker compose failed: {error.stderr.decode(errors='replace').strip()[-500:]}"
            raise NoServers(msg) from error
        finally:
            if subprocess.run(down, capture_output=True, check=False).returncode == 0:
                done()


def _find_address(compose: Sequence[str], service: str, port: str) -> str:
    shown = subprocess.run([*compose, "port", service, port], check=True, capture_output=True, text=True).stdout.strip()
    return shown.replace("0.0.0.0", "127.0.0.1")


def run(command: Sequence[str], source: Callable[[], AbstractContextManager[Servers]] = servers) -> int:
    """Run a command with AMQP_URL and REDIS_URL set; return its exit status."""
    with source() as found:
        environment = os.environ | {"AMQP_URL": found.amqp_url, "REDIS_URL": found.redis_url}
        process = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    continue  # the command received the signal too, and ends by itself
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the command, so that it does not outlive its servers."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(COMMAND_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> int:
    """Run the command line."""
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
