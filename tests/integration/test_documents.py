"""Prose that lies is a defect: the code and the commands of README and docs are run."""

import ast
import asyncio
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.found import Servers
from tests.real import ROOT, ForeignClient, responder_process

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(120)]

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
AMQP = "amqp://guest:guest@localhost/"


def blocks(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def block(page: str, word: str) -> str:
    """The one Python block with this word."""
    [found] = [text for text in blocks(page) if word in text]
    return found


def commands(page: str, program: str) -> list[list[str]]:
    """The words of every command of a program, without its comment."""
    lines = (ROOT / page).read_text().splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"    {program} ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_imports_lead_somewhere(page: Path) -> None:
    """Files that are linked exist; names that are imported from our packages exist."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(code)):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.startswith(("prediction_", "amqp_lane"))
            ):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_readme_is_short() -> None:
    """One page."""
    assert (ROOT / "README.md").read_text().count("\n") <= 150


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what the README tells to save."""
    for name, word in (
        ("my_model.py", "@predictor"),
        ("ask.py", "BlockingPredictionClient"),
        ("test_price.py", "def test_"),
    ):
        (tmp_path / name).write_text(block("README.md", word))
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["prediction_client.pytest_plugin"]\n')
    return tmp_path


async def run(project: Path, *words: str, **environment: str) -> tuple[int, str]:
    """Run a program of ours in a project; its status and output."""
    programs = {"responder": "prediction_responder", "producer": "prediction_client", "pytest": "pytest"}
    command = (
        [sys.executable, "-m", programs[words[0]], *words[1:]] if words[0] in programs else [sys.executable, *words]
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=project,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_readme_works_from_top_to_bottom(servers: Servers, namespace: str, project: Path) -> None:
    """Save, check, serve, ask from the shell, ask from Python, test."""
    [check] = commands("README.md", "responder check")
    [serve] = commands("README.md", "responder serve")
    [ask] = commands("README.md", "producer ask")
    caller = {"AMQP_URL": servers.amqp_url, "RESPONDER_NAMESPACE": namespace}
    status, said = await run(project, *check, **servers.environment(namespace))
    assert (status, "price 1: queue" in said) == (0, True)
    script = project / "ask.py"
    script.write_text(script.read_text().replace(f'"{AMQP}"', f'"{servers.amqp_url}", namespace="{namespace}"'))
    with responder_process(servers, namespace, serve[-1], PYTHONPATH=str(project)):
        status, said = await run(project, *ask, **caller)
        assert (status, said.splitlines()[0]) == (0, '{"price": 7.0}')
        status, said = await run(project, "ask.py")
        assert (status, said.split()[:2]) == (0, ["price=7.0", "hit"])
    status, said = await run(project, "pytest", "-q")
    assert "1 passed" in said


async def test_the_first_client_of_the_tutorial(servers: Servers, namespace: str, project: Path) -> None:
    """Both faces, against the model of the README."""
    page = "docs/tutorial/first-client.md"
    shown: list[tuple[Any, ...]] = []
    names: dict[str, Any] = {"print": lambda *values: shown.append(values)}
    exec(block(page, "async def main").replace(f'"{AMQP}"', f'"{servers.amqp_url}", namespace="{namespace}"'), names)
    (project / "blocking.py").write_text(
        block(page, "with BlockingPredictionClient").replace(
            f'"{AMQP}"', f'"{servers.amqp_url}", namespace="{namespace}"'
        )
        + "    print(price, prices)\n"
    )
    with responder_process(servers, namespace, "my_model:price", PYTHONPATH=str(project)):
        await names["main"]()
        status, said = await run(project, "blocking.py")
    assert [one[:2] for one in shown] == [
        ({"price": 7.0},),
        ({"price": 7.0}, "hit"),
        ("INVALID_ARGUMENT", 400),
    ]
    assert (status, said.split()[0]) == (0, "price=7.0")


async def test_the_tests_of_the_tutorial_pass(project: Path) -> None:
    """As pages of the tutorial print them."""
    (project / "test_mine.py").write_text(block("docs/tutorial/testing.md", "async def test_my_service"))
    status, said = await run(project, "pytest", "-q", "-o", "asyncio_mode=auto", "test_mine.py")
    assert (status, "2 passed" in said) == (0, True), said


async def test_the_first_model_of_the_tutorial_says_what_the_page_says(
    servers: Servers, namespace: str, project: Path
) -> None:
    """The answers and the error under the commands."""
    page = "docs/tutorial/first-model.md"
    (project / "my_model.py").write_text(block(page, "@predictor"))
    caller = {"AMQP_URL": servers.amqp_url, "RESPONDER_NAMESPACE": namespace}
    text = (ROOT / page).read_text()
    with responder_process(servers, namespace, "my_model:price", PYTHONPATH=str(project)):
        for words in commands(page, "producer ask"):
            _, said = await run(project, *words, **caller)
            assert f"    {said.splitlines()[0]}\n" in text


def test_a_field_out_of_the_key() -> None:
    """The schema of the guide is one that can be served."""
    from prediction_schemas.canonical import canonical_bytes

    names: dict[str, Any] = {}
    exec(block("docs/guides/models.md", "exclude_from_key"), names)
    one, other = (names["Features"](pair="a", request_source=source) for source in ("x", "y"))
    assert canonical_bytes(one) == canonical_bytes(other)


async def test_the_ten_lines_of_the_lane_echo(servers: Servers, namespace: str) -> None:
    """Consume, answer, acknowledge when confirmed."""
    names: dict[str, Any] = {}
    exec(block("docs/internals/lane.md", "QueueSpec").replace('"echo"', f'"{namespace}echo"'), names)
    echo = asyncio.create_task(names["main"](servers.amqp_url))
    async with ForeignClient.connected(servers.amqp_url) as client:
        await client.channel.declare_queue(f"{namespace}echo", durable=True)
        for number in range(20):
            await client.send(f"{namespace}echo", b"hello %d" % number)
        assert [(await client.reply()).body for _ in range(20)] == [b"hello %d" % number for number in range(20)]
        echo.cancel()
        with pytest.raises(asyncio.CancelledError):
            await echo
        assert await client.depth(f"{namespace}echo") == 0
