"""Fixtures. Nothing here is importable by tests; what they import is in tests/fakes.py and tests/real.py."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator

import hypothesis
import pytest

from deploy.binaries import ensure_binaries
from deploy.found import NoServers, Servers
from tests.books import Report
from tests.pace import Pace
from tests.real import running_servers, source_of
from tests.rights import as_service

_COUNTER = itertools.count(1)
# pytest-asyncio saves the current event loop around each test. Where none was ever set, asking for it makes one, which
# nobody closes and the garbage collector reports in the middle of some other test.
asyncio.set_event_loop(None)
# How long an example takes is no promise of a property; where time is promised, a test measures it.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")
# For `make mutants`: that there is an example is enough, it need not be the smallest.
_FIRST = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
hypothesis.settings.register_profile("first", deadline=None, phases=_FIRST, report_multiple_bugs=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        nargs="?",
        const="auto",
        choices=["auto", "containers", "binaries"],
        help="run the tests that need RabbitMQ and Redis: on given URLs, in containers, or on installed binaries",
    )
    parser.addoption("--full", action="store_true", help="give faults the time and the numbers of the full form")


def pytest_configure(config: pytest.Config) -> None:
    """Some tests start servers of their own from binaries, wherever those of the others come from."""
    if config.getoption("--servers") and not hasattr(config, "workerinput"):
        with contextlib.suppress(NoServers):  # then those tests say what to install
            ensure_binaries()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bare `pytest` needs no server: what does is skipped, with one reason. Hangs are told at the machine's pace."""
    hang_s, pace = float(config.getini("timeout")), Pace().now()
    for item in items:
        marked = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout((marked.args[0] if marked else hang_s) * pace), append=False)
    if config.getoption("--servers") is None:
        for item in items:
            if item.get_closest_marker("servers"):
                item.add_marker(pytest.mark.skip(reason="needs RabbitMQ and Redis: run `make test`"))


def pytest_report_header(config: pytest.Config) -> str:
    chosen = config.getoption("--servers")
    return f"servers: {source_of(chosen) if chosen else 'none'}"


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    """RabbitMQ and Redis, for the whole session; tests keep apart by their namespaces.

    Responders log in as a user that may do no more than it must, wherever we may make one.
    """
    with running_servers(request.config.getoption("--servers")) as found:
        yield as_service(found)


_ROWS: list[tuple[str, dict[str, object]]] = []


@pytest.fixture(scope="session")
def report() -> Report:
    """Puts a row of counters into the table that the session ends with."""
    return lambda name, row: _ROWS.append((name, row))


class Progress:
    """A line now and then that says how far a long run is, and how long the rest will take."""

    EVERY_S = 30.0

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter
        self._began = self._said = time.monotonic()
        self._ended = self._planned = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Every process has the same tests."""
        self._planned = len(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without further processes."""
        self._planned = self._planned or len(session.items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has ended, or one of its parts."""
        self._ended += report.when == "teardown"
        now = time.monotonic()
        if self._ended and now - self._said >= self.EVERY_S:
            self._said = now
            left_s = (now - self._began) / self._ended * (self._planned - self._ended)
            took = f"{self._ended} of {self._planned} tests in {now - self._began:.0f} s"
            self._reporter.write_line(f"\n{took}, at this pace {left_s:.0f} s more")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Only where a terminal is written to: not in the processes of a parallel run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Progress(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _ROWS:
        terminalreporter.section("counters")
    for name, row in _ROWS:
        terminalreporter.write_line(f"{name}: " + ", ".join(f"{what} {value}" for what, value in row.items()))


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is the full form: `make test-faults`."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def pace() -> Pace:
    """How slow the machine is while this test runs."""
    return Pace()


@pytest.fixture
def soon_ms(pace: Pace) -> int:
    """A life that ends soon, but after the next few steps, on a busy machine too."""
    return round(200 * pace.now())


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t{os.getpid()}-{next(_COUNTER)}."
