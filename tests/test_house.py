"""The house rules that a tool can see."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "lane", "responder", "producer", "examples", "deploy", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# Lines, docstrings included. A file above its budget is split, or argued for in ARCHITECTURE.md under "Budgets".
DEFAULT_BUDGET = 150
BUDGETS = {
    "lane/connection.py": 120,
    "lane/frames.py": 200,
    "lane/inbox.py": 200,
    "lane/outbox.py": 200,
    "responder/app.py": 120,
    "responder/cli.py": 150,
    "responder/execution.py": 250,
    "responder/flight.py": 120,
    "responder/lease.py": 200,
    "responder/predictor.py": 200,
    "responder/service.py": 200,
    "responder/settings.py": 150,
    "responder/wire.py": 200,
    "producer/client.py": 250,
    "schemas/directives.py": 120,
    "schemas/canonical.py": 120,
    "deploy/processes.py": 300,
    "benchmarks/demo.py": 250,
}


def relative(path: Path) -> str:
    """As it is written in documents."""
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_file_over_its_budget_is_argued_for(path: Path) -> None:
    """An invitation to split, or to say why not."""
    lines = path.read_text().count("\n")
    if lines > BUDGETS.get(relative(path), DEFAULT_BUDGET):
        budgets = (ROOT / "ARCHITECTURE.md").read_text().partition("## Budgets")[2]
        assert f"`{relative(path)}`" in budgets, f"{relative(path)} has {lines} lines"


def test_tests_hold_no_mocks_and_no_reruns() -> None:
    """A fake that works beats a mock that watches."""
    forbidden = re.compile(r"unittest\.mock|Magic" r"Mock|monkeypatch\.setattr|mark\.flaky")
    assert [relative(path) for path in TESTS if path != Path(__file__) and forbidden.search(path.read_text())] == []


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_every_test_says_what_it_promises(path: Path) -> None:
    """Names and docstrings are promises."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [one.name for one in functions if one.name.startswith("test_") and not ast.get_docstring(one)] == []


def test_only_two_files_of_the_service_make_tasks() -> None:
    """Everything else is a consequence of theirs."""
    makers = [
        relative(path) for path in SOURCES if "create_task(" in path.read_text() and path.parts[-2] == "responder"
    ]
    assert sorted(makers) == ["responder/app.py", "responder/flight.py"]


def test_only_the_settings_read_the_environment_in_the_service() -> None:
    """One door."""
    readers = [relative(path) for path in SOURCES if "os.environ" in path.read_text() and path.parts[-2] == "responder"]
    assert readers == ["responder/settings.py"]


def test_every_command_of_the_readme_exists() -> None:
    """Prose that lies is a defect."""
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", readme)) <= targets
    from prediction_client.cli import cli as producer_cli
    from prediction_responder.cli import cli as responder_cli

    for name, cli in (("responder", responder_cli), ("producer", producer_cli)):
        known = {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}
        assert set(re.findall(rf"^\s*{name} ([a-z]+)", readme, re.MULTILINE)) <= known
