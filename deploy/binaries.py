"""RabbitMQ and Redis from installed binaries. Missing ones are installed first where that is possible."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.found import NoServers, Servers, reaper, say
from deploy.processes import BrokerProcess, RedisProcess, rabbitmq_server


def have_binaries() -> bool:
    """Whether both servers are installed."""
    return rabbitmq_server() is not None and shutil.which("redis-server") is not None


def ensure_binaries() -> None:
    """Install both servers if one is missing.

    Raises:
        NoServers: they cannot be installed here; the message says what to install.
    """
    if not have_binaries():
        _install()


@contextmanager
def binaries() -> Iterator[Servers]:
    """Run throw-away instances in a temporary folder. Missing servers are installed first where that is possible."""
    ensure_binaries()
    shm = Path("/dev/shm")
    parent = shm if os.access(shm, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="responder-servers-", dir=parent))
    with reaper(f"rm -rf {shlex.quote(str(folder))}") as done, ExitStack() as stack:
        stack.callback(done)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        began = time.monotonic()
        redis = stack.enter_context(RedisProcess.running(folder / "redis"))
        broker = stack.enter_context(BrokerProcess.running(folder / "rabbitmq"))
        say(f"RabbitMQ and Redis run from their binaries ({time.monotonic() - began:.1f} s)")
        yield Servers(broker.url, redis.url, "binaries", broker, redis, broker.control)


def _install() -> None:
    packages = ["rabbitmq-server", "redis-server"]
    if not Path("/etc/debian_version").exists() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        wanted = " and ".join(packages)
        msg = f"RabbitMQ and Redis are needed: start Docker, or install {wanted}, or set AMQP_URL and REDIS_URL"
        raise NoServers(msg)
    say(f"installing {' and '.join(packages)} from Debian's packages")
    policy = Path("/usr/sbin/policy-rc.d")
    with ExitStack() as stack:
        if not policy.exists():  # without it the packages start their own services
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
