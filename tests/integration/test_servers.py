"""Throw-away servers: nothing outlives the command that started them, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pace import Pace
from tests.real import ROOT

pytestmark = pytest.mark.servers

SCRIPT = """
import sys, time
from deploy.binaries import binaries
with binaries() as servers:
    print(servers.broker.folder.parent, flush=True)
    time.sleep(60)
"""


def processes_of(folder: str) -> list[str]:
    """Command lines of processes that were started in a folder, or with it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            alive = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and folder.encode() in known and process.name != str(os.getpid()):
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    """Whether something became true in time."""
    give_up_at = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_survives_the_command(pace: Pace, number: signal.Signals) -> None:
    """No broker, no Redis, no epmd, no folder; even after SIGKILL."""
    command = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # A shell's background job ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert command.stdout is not None
    folder = command.stdout.readline().decode().strip()
    assert Path(folder).is_dir()
    assert processes_of(folder)
    command.send_signal(number)
    command.wait(20 * pace.now())
    command.stdout.close()
    assert wait_for(lambda: not processes_of(folder), 10 * pace.now()), processes_of(folder)
    assert wait_for(lambda: not Path(folder).exists(), 10 * pace.now())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_command_does_not_outlive_its_servers(pace: Pace, number: signal.Signals) -> None:
    """A signal to the wrapper ends what it wraps."""
    words = [
        sys.executable,
        "-m",
        "deploy.servers",
        "--",
        sys.executable,
        "-c",
        "import os,time; print(os.getpid(), flush=True); time.sleep(60)",
    ]
    given = {"AMQP_URL": "amqp://127.0.0.1/", "REDIS_URL": "redis://127.0.0.1/"}
    wrapper = subprocess.Popen(
        words, cwd=ROOT, env=os.environ | given, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert wrapper.stdout is not None
    wrapped = wrapper.stdout.readline().decode().strip()
    wrapper.send_signal(number)
    assert wrapper.wait(20 * pace.now()) == (128 + number if number == signal.SIGTERM else -number)
    wrapper.stdout.close()
    assert wait_for(lambda: not Path("/proc", wrapped).exists(), 10 * pace.now())
