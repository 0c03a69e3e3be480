"""The rules of the house hold, and each of them would be seen broken."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mutants import FAULTS, Fault
from tests.rules import PACKAGES, problems

ROOT = Path(__file__).resolve().parent.parent
RESPONDER, LANE = "responder/prediction_responder", "lane/amqp_lane"


def test_the_tree_breaks_no_rule() -> None:
    """Imports of other people's packages, tasks, the environment, sizes, docstrings of tests."""
    assert problems(ROOT) == []


def test_no_folder_at_the_top_is_a_package_of_ours() -> None:
    """`schemas.py`, `lane.py`, `responder.py` and `producer.py` are names that users may have."""
    for folder in ("schemas", "lane", "responder", "producer"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{folder}.messages")
        assert getattr(importlib.import_module(folder), "__file__", None) is None  # no package, at most a folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree that the rules look at, to plant things in."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("schemas", "lane", "responder", "producer", "examples", "deploy", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken_layers(root: Path) -> str:
    """What import-linter says about a tree; empty when every contract is kept."""
    folders = os.pathsep.join(str(root / package.partition("/")[0]) for package in PACKAGES)
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    ended = subprocess.run(
        [*command, "--no-cache", "--no-logo"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr


def by_rules(root: Path) -> str:
    """What `tests.rules` says."""
    return "\n".join(problems(root))


PLANTS: dict[str, tuple[str, str, Callable[[Path], str], str]] = {
    "aio-pika in a lane file that is not the connection": (
        f"{LANE}/quarantine.py",
        "import aio_pika\n",
        by_rules,
        "imports aio_pika",
    ),
    "redis in the replies": (f"{RESPONDER}/amqp/replies.py", "import redis\n", by_rules, "imports redis"),
    "redis, imported by a name in a string": (
        f"{RESPONDER}/service.py",
        "import importlib\nredis = importlib.import_module('redis.asyncio')\n",
        by_rules,
        "imports redis",
    ),
    "the lane in the service": (f"{RESPONDER}/service.py", "from amqp_lane import Message\n", by_rules, "amqp_lane"),
    "structlog in the core": (f"{RESPONDER}/flight/leader.py", "import structlog\n", by_rules, "imports structlog"),
    "ensure_future in a new file of a new folder": (
        f"{RESPONDER}/flight/later/soon.py",
        "import asyncio\n\n\ndef soon(work):\n    return asyncio.ensure_future(work)\n",
        by_rules,
        "starts work of its own (ensure_future)",
    ),
    "create_task in a new folder beside the packages": (
        "responder/workers/pool.py",
        "import asyncio\n\n\ndef start(work):\n    return asyncio.get_running_loop().create_task(work)\n",
        by_rules,
        "starts work of its own (create_task)",
    ),
    "the environment in a new folder at the top": (
        "plugins/config.py",
        "from os import environ\n",
        by_rules,
        "reads the environment",
    ),
    "a clock in the flight": (
        f"{RESPONDER}/flight/refresh.py",
        "import time\n\nBEGAN_S = time.monotonic()\n",
        by_rules,
        "reads a clock",
    ),
    "a clock by another name": (
        f"{RESPONDER}/cache/answers.py",
        "from time import time_ns as ticks\n",
        by_rules,
        "imports a clock",
    ),
    "a task group under another name": (
        f"{RESPONDER}/amqp/replies.py",
        "from asyncio import TaskGroup as Group\n",
        by_rules,
        "starts work of its own (TaskGroup)",
    ),
    "os.environ in the cache": (
        f"{RESPONDER}/cache/answers.py",
        "import os\n\nURL = os.environ['REDIS_URL']\n",
        by_rules,
        "reads the environment",
    ),
    "getenv, imported by name": (
        "producer/prediction_client/client.py",
        "from os import getenv\n",
        by_rules,
        "reads the environment",
    ),
    "a file of 301 lines": (f"{LANE}/long.py", "\n" * 301, by_rules, "301 lines, 300 at most"),
    "a function of 61 lines": (
        "deploy/long.py",
        "def long():\n" + "    pass\n" * 60,
        by_rules,
        "long has 61 lines, 60 at most",
    ),
    "a folder that becomes a package": ("schemas/__init__.py", "", by_rules, "the folder is no package"),
    "a test that promises nothing": (
        "tests/unit/test_new.py",
        "def test_it():\n    assert True\n",
        by_rules,
        "has no docstring",
    ),
    "a mock": (
        "tests/unit/test_new.py",
        "from unittest import mock\nimport unittest" + ".mock\n",
        by_rules,
        "a fake that works",
    ),
    "a file that no layer names": (f"{RESPONDER}/helpers.py", "X = 1\n", broken_layers, "helpers"),
    "a file in a folder that no layer names": (f"{RESPONDER}/cache/etcd.py", "X = 1\n", broken_layers, "etcd"),
    "the service knows an adapter of the cache": (
        f"{RESPONDER}/service.py",
        "from prediction_responder.cache.redis import RedisCache\n",
        broken_layers,
        "cache.redis",
    ),
    "the model knows the flight": (
        f"{RESPONDER}/model/predictor.py",
        "from prediction_responder.flight.work import Work\n",
        broken_layers,
        "flight",
    ),
    "a circle between messages and execution": (
        f"{RESPONDER}/messages.py",
        "from prediction_responder.execution.served import ServedModel\n",
        broken_layers,
        "execution",
    ),
    "the client knows the responder": (
        "producer/prediction_client/client.py",
        "from prediction_responder.service import Service\n",
        broken_layers,
        "prediction_client.client",
    ),
    "the lane knows predictions": (
        f"{LANE}/outbox.py",
        "from prediction_schemas import Code\n",
        broken_layers,
        "prediction_schemas",
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_broken_rule_is_seen(copy: Path, plant: str) -> None:
    """Each plant turns its check red, and the check is green again without it."""
    file, text, check, seen = PLANTS[plant]
    path = copy / file
    before = path.read_text() if path.exists() else None
    new_folder = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + (before or ""))
    try:
        assert seen in check(copy)
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
        if new_folder:
            shutil.rmtree(path.parent)


def test_the_copy_breaks_no_rule(copy: Path) -> None:
    """What the plants are compared with."""
    assert by_rules(copy) == ""
    assert broken_layers(copy) == ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_still_finds_its_place(fault: Fault) -> None:
    """`make mutants` replaces text that occurs once; code that moves must take its mutant along."""
    assert (ROOT / fault.file).read_text().count(fault.old) == 1


def test_every_command_of_the_documents_exists() -> None:
    """`make` targets, and commands of `responder` and `producer`, in every page."""
    from prediction_client.cli import cli as producer_cli
    from prediction_responder.cli import cli as responder_cli

    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {
        name: {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}
        for name, cli in (("responder", responder_cli), ("producer", producer_cli))
    }
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        text = page.read_text()
        assert set(re.findall(r"(?:^\s+|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets, page.name
        for name, commands in known.items():
            assert set(re.findall(rf"(?:^\s+|`){name} ([a-z]+)", text, re.MULTILINE)) <= commands, page.name
