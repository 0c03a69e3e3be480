"""Runs programs, puts load on them, and measures their CPU time and memory."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SETTLE_S = 0.1


class Program:
    """A process and its children."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @classmethod
    @contextmanager
    def running(cls, command: Sequence[str | Path], environment: dict[str, str] | None = None) -> Iterator["Program"]:
        """Start a program, and end it at the end."""
        process = subprocess.Popen([str(word) for word in command], env=os.environ | (environment or {}))
        try:
            yield cls(process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """The CPU time that it and its children have used."""
        ticks = 0
        for pid in self._tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS_PER_S

    def resident_mb(self) -> float:
        """The resident memory of it and its children, in 10^6 bytes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._tree())
        return pages * PAGE_BYTES / 1e6

    def _tree(self) -> list[int]:
        found, new = [], [self._process.pid]
        while new:
            found += new
            new = [
                int(child)
                for parent in new
                for task in Path(f"/proc/{parent}/task").iterdir()
                for child in (task / "children").read_text().split()
            ]
        return found


class Load:
    """The load generator load.c. It is a C program, so that it uses little CPU next to the program under test.

    Args:
        program: the compiled load.c.
        url: the broker's URL.
    """

    def __init__(self, program: Path, url: str) -> None:
        self._program, self._url = program, url

    def __call__(
        self,
        queue: str,
        *,
        total: int,
        window: int = 200,
        keys: int = 500,
        fresh: bool = False,
        headers: bool = False,
        cache_control: str = "-",
        timeout_s: float | None = None,
    ) -> dict[str, float]:
        """Keep `window` requests in flight until `total` replies have come. With `fresh`, every request has a new key.

        Raises:
            SystemExit: a reply was wrong or missing.
            TimeoutExpired: it took longer than `timeout_s`.
        """
        salt = uuid.uuid4().hex[:8] if fresh else "C"
        numbers = [str(number) for number in (total, window, 0 if fresh else keys)]
        command = [str(self._program), self._url, queue, *numbers, salt, str(int(headers)), cache_control]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode != 0:
            raise SystemExit(f"the load on {queue} failed with status {done.returncode}: {done.stdout}{done.stderr}")
        time.sleep(SETTLE_S)  # so that the last acknowledgements count in this run
        result: dict[str, float] = json.loads(done.stdout)
        return result

    def measure_cpu(self, program: Program, queue: str, *, total: int, **options: Any) -> dict[str, float]:
        """Run the load, and measure the CPU time that a program spends on it, in microseconds per reply."""
        before = program.cpu_s()
        result = self(queue, total=total, **options)
        used_s = max(program.cpu_s() - before, 1 / TICKS_PER_S)  # CPU time is counted in clock ticks
        return result | {"cpu_us": round(used_s / total * 1e6, 1)}

    def await_answer(self, queue: str, program: Program) -> None:
        """Wait until a program answers the requests of a queue.

        Raises:
            SystemExit: it ended, or did not answer in time.
        """
        for _ in range(20):
            if not program.is_alive:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                self(queue, total=1, timeout_s=3.0)
                return
        raise SystemExit(f"no program answers on the queue {queue}")


def compile_program(name: str, folder: Path) -> Path:
    """Compile one of the C programs in this folder. On Debian as root, a missing compiler or library is installed.

    Raises:
        SystemExit: there is no C compiler or no librabbitmq.
    """
    program = folder / name
    command = ["gcc", "-O2", "-w", "-o", str(program), str(HERE / f"{name}.c"), "-lrabbitmq"]
    for is_last in (False, True):
        if shutil.which("gcc") and subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return program
        if is_last or os.geteuid() != 0 or not shutil.which("apt-get"):
            break
        print("bench: installing gcc and librabbitmq-dev from Debian's packages", file=sys.stderr)
        quiet: dict[str, Any] = {"capture_output": True, "env": os.environ | {"DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "-q", "update"], check=False, **quiet)
        subprocess.run(["apt-get", "-qy", "install", "gcc", "libc6-dev", "librabbitmq-dev"], check=False, **quiet)
    raise SystemExit("a C compiler and librabbitmq are needed: install gcc and librabbitmq-dev")


@contextmanager
def peers_environment() -> Iterator[Path]:
    """Make a throw-away environment with the peers' locked dependencies; yield its interpreter."""
    with tempfile.TemporaryDirectory(prefix="responder-peers-") as folder:
        uv, environment = Path(sys.executable).with_name("uv"), dict(os.environ)
        if Path("/etc/ssl/certs/ca-certificates.crt").exists():
            environment["UV_SYSTEM_CERTS"] = "true"
        python = Path(folder) / "bin" / "python"
        locked = HERE.parent / "requirements" / "peers.txt"
        for words in (
            ["venv", "--quiet", "--python", sys.executable, folder],
            ["pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(locked)],
        ):
            subprocess.run([str(uv), *words], check=True, env=environment)
        yield python
