"""Models for responder processes that tests start and kill.

The oracle is deterministic, and appends what it does to a file per process, which survives SIGKILL.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from prediction_responder import Answer, Unavailable, predictor

LIMIT_S = float(os.environ.get("MODEL_LIMIT_S", "5"))  # more where the machine is slow


class Task(BaseModel):
    """What the oracle is to do."""

    number: int
    seconds: float = 0.0
    ending: str = "answer"
    ttl_s: float | None = None


class Done(BaseModel):
    """What it says."""

    square: int


def record(event: str, number: int, *more: object) -> None:
    """Append one line, in one write."""
    folder = os.environ.get("ORACLE_FOLDER")
    if folder:
        with Path(folder, f"{os.getpid()}.log").open("a") as file:
            file.write(" ".join(map(str, (event, number, *more))) + "\n")


def starters(folder: Path, number: int) -> list[int]:
    """The processes that have started work on a number, in the order of their names."""
    logs = {path.stem: path.read_text() for path in sorted(folder.glob("*.log"))}
    return [
        int(pid)
        for pid, log in logs.items()
        if any(line.split()[:2] == ["start", str(number)] for line in log.splitlines())
    ]


def recorded(folder: Path, event: str) -> list[int]:
    """The numbers of all events of one kind, of all processes."""
    lines = [line.split() for path in folder.glob("*.log") for line in path.read_text().splitlines()]
    return [int(number) for kind, number, *_ in lines if kind == event]


class Event(NamedTuple):
    """What a process's model has written down, with the machine's monotonic clock."""

    pid: int
    kind: str
    number: int
    at: float


def events(folder: Path, kind: str) -> list[Event]:
    """All events of one kind, of all processes whose models write the time down, in their order."""
    found = []
    for path in folder.glob("*.log"):
        for line in path.read_text().splitlines():
            what, number, at = line.split()
            if what == kind:
                found.append(Event(int(path.stem), kind, int(number), float(at)))
    return sorted(found, key=lambda event: event.at)


@predictor(name="hung", version="1", timeout_s=5)
def hung(task: Task) -> Done:
    """Block a thread for as long as it is told."""
    record("start", task.number)
    time.sleep(task.seconds)
    return Done(square=task.number**2)


@predictor(name="unloadable", version="1")
class Unloadable:
    """A class whose `load` fails."""

    def load(self) -> None:
        """Fail."""
        raise FileNotFoundError("weights.bin of //me:canary@store/")

    def predict(self, task: Task) -> Done:
        """Never reached."""
        return Done(square=0)


@predictor(name="oracle", version="1", ttl_s=60, timeout_s=LIMIT_S)
async def oracle(task: Task) -> Done:
    """Square a number, in the time that it is told."""
    record("start", task.number)
    await asyncio.sleep(task.seconds)
    if task.ending == "unavailable":
        raise Unavailable(retry_after_s=2)
    if task.ending == "raise":
        raise RuntimeError("the oracle's secret")
    if task.ending == "nan":
        return Done.model_construct(square=float("nan"))  # type: ignore[arg-type]
    record("finish", task.number)
    return Done(square=task.number**2)


@predictor(name="slow", version="1", ttl_s=60, timeout_s=30)
async def slow(task: Task) -> Done:
    """As the oracle, with more time."""
    record("start", task.number)
    await asyncio.sleep(task.seconds)
    record("finish", task.number)
    return Done(square=task.number**2)


@predictor(name="deadly", version="1")
async def deadly(task: Task) -> Done:
    """End the process, without a word, when it is told to."""
    record("start", task.number)
    if task.seconds:
        await asyncio.sleep(task.seconds)
    if task.ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return Done(square=task.number**2)


@predictor(name="one_by_one", version="1", concurrency=1, timeout_s=10)
async def one_by_one(task: Task) -> Done:
    """As the oracle, one at a time."""
    record("start", task.number)
    await asyncio.sleep(task.seconds)
    return Done(square=task.number**2)


@predictor(name="chaotic", version="1", ttl_s=0.5, timeout_s=LIMIT_S)
async def chaotic(task: Task) -> Answer[Done]:
    """Take 0.1 to 0.4 s, and let the answer live for no time, 0.2 or 0.5 s, by the number."""
    record("start", task.number, time.monotonic())
    await asyncio.sleep(0.1 + task.number % 4 * 0.1)
    record("finish", task.number, time.monotonic())
    return Answer(Done(square=task.number**2), ttl_s=(0.0, 0.2, 0.5)[task.number % 3])


@predictor(name="fresh", version="1", ttl_s=60, timeout_s=LIMIT_S)
async def fresh(task: Task) -> Answer[Done]:
    """As the oracle; it fails on a number for as long as there is a file that says so."""
    record("start", task.number, time.monotonic())
    await asyncio.sleep(task.seconds)
    if os.access(f"{os.environ['ORACLE_FOLDER']}/fail-{task.number}", os.F_OK):
        record("fail", task.number, time.monotonic())
        raise Unavailable
    record("finish", task.number, time.monotonic())
    return Answer(Done(square=task.number**2), ttl_s=task.ttl_s)


@predictor(name="limited", version="1", concurrency=4, timeout_s=10)
async def limited(task: Task) -> Done:
    """As the oracle, four at a time: with 40 ms for each it does 100 a second."""
    record("start", task.number, time.monotonic())
    await asyncio.sleep(task.seconds)
    record("finish", task.number, time.monotonic())
    return Done(square=task.number**2)


@predictor(name="late", version="1", ttl_s=60, timeout_s=LIMIT_S)
class Late:
    """A class whose weights come after it, and which says so."""

    def load(self) -> None:
        """Fail for as long as they are not there."""
        Path(os.environ["ORACLE_FOLDER"], "weights").read_bytes()

    def predict(self, task: Task) -> Done:
        """Square a number."""
        return Done(square=task.number**2)


@predictor(name="sleepy", version="1")
class Sleepy:
    """A class that takes a minute to load."""

    def load(self) -> None:
        """Block its thread."""
        record("load", 0)
        time.sleep(60)

    def predict(self, task: Task) -> Done:
        """Never reached."""
        return Done(square=0)


class Anything(BaseModel):
    """An input that takes whatever JSON there is."""

    value: Any


@predictor(name="watched", version="1", ttl_s=60, timeout_s=LIMIT_S)
class Watched:
    """A model that notes how long its event loop was kept, in milliseconds of the loop's own processor time."""

    def __init__(self) -> None:
        self._seen = 0.0

    async def load(self) -> None:
        """Begin to watch."""
        self._seen = time.thread_time()
        self._tick()

    def _tick(self) -> None:
        now = time.thread_time()
        if now - self._seen > 0.01:
            record("kept", round((now - self._seen) * 1000))
        self._seen = now
        asyncio.get_running_loop().call_later(0.001, self._tick)

    async def predict(self, _given: Anything) -> Done:
        """Take no time of its own."""
        return Done(square=0)


class Text(BaseModel):
    """As many characters as were asked for."""

    text: str


@predictor(name="wordy", version="1", ttl_s=60, timeout_s=LIMIT_S)
async def wordy(task: Task) -> Text:
    """Say as much as the number says."""
    return Text(text="a" * task.number)


@predictor(name="sleepy_loop", version="1")
class SleepyLoop:
    """An async model whose `load` blocks."""

    def load(self) -> None:
        """Block whoever calls."""
        record("load", 0)
        time.sleep(60)

    async def predict(self, task: Task) -> Done:
        """Never reached."""
        return Done(square=0)


@predictor(name="sleepy_thread", version="1")
class SleepyThread:
    """An async model whose `load` waits for a thread."""

    async def load(self) -> None:
        """Block a thread of the loop's."""
        record("load", 0)
        await asyncio.to_thread(time.sleep, 60)

    async def predict(self, task: Task) -> Done:
        """Never reached."""
        return Done(square=0)


@predictor(name="half", version="1")
class Half:
    """A model that cannot be loaded, and that cannot be closed for that."""

    def __init__(self) -> None:
        record("made", 0)

    async def load(self) -> None:
        """Fail."""
        record("load", 0)
        raise ConnectionError("no store")

    async def predict(self, task: Task) -> Done:
        """Never reached."""
        return Done(square=0)

    async def close(self) -> None:
        """Fail, because nothing was loaded."""
        raise AttributeError("no store to close")


@predictor(name="talkative", version="1", timeout_s=5)
async def talkative(task: Task) -> Done:
    """Put its input into its error."""
    raise ValueError(task.ending)
