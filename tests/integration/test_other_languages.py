"""The requesters of `examples/clients`, in other languages and with other libraries, against a real responder."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.found import Servers
from examples.price import price
from prediction_responder import predictor
from tests.real import ROOT, embedded, settings

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(60)]

FOLDER = ROOT / "examples" / "clients"


def compiled(folder: Path) -> list[str]:
    """The C program, made here."""
    if shutil.which("cc") is None or not Path("/usr/include/amqp.h").exists():
        pytest.skip("needs a C compiler and librabbitmq-dev")
    program = folder / "ask"
    subprocess.run(["cc", "-Wall", "-Werror", str(FOLDER / "ask.c"), "-lrabbitmq", "-o", str(program)], check=True)
    return [str(program)]


def node(folder: Path) -> list[str]:
    """Node, with amqplib installed beside this test."""
    found, npm = shutil.which("node"), shutil.which("npm")
    install = [str(npm), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "amqplib"]
    if found is None or npm is None or subprocess.run(install, check=False, capture_output=True).returncode:
        pytest.skip("needs node, and npm that finds amqplib")
    shutil.copy(FOLDER / "ask.js", folder)
    return [found, str(folder / "ask.js")]


def shell(_folder: Path) -> list[str]:
    """A shell with amqp-tools."""
    if shutil.which("amqp-publish") is None:
        pytest.skip("needs amqp-tools")
    return [str(FOLDER / "ask.sh")]


CLIENTS: dict[str, Callable[[Path], list[str]]] = {
    "pika": lambda _folder: [sys.executable, str(FOLDER / "ask_pika.py")],
    "kombu": lambda _folder: [sys.executable, str(FOLDER / "ask_kombu.py")],
    "librabbitmq": compiled,
    "amqplib": node,
    "shell": shell,
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_a_requester_of_another_world_is_answered(
    servers: Servers, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result, the same one from the cache, and a typed error."""
    monkeypatch.setenv("PRICE_MODEL_SECONDS", "0.05")
    command = CLIENTS[name](tmp_path)
    environment = os.environ | {"AMQP_URL": servers.amqp_url}

    async def ask(body: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            subprocess.run,
            [*command, "price", body],
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    lasting = predictor(name="price", ttl_s=600)(price.target)  # two programs start within its life, on any machine
    # The plain names that the examples have: without a namespace, and so not as the tests' user.
    async with embedded(lasting, settings(replace(servers, service=None), "")):
        answers = [await ask('{"pair": "ETH/EUR"}') for _ in range(2)]
        refused = await ask('{"horizon_minutes": 5}')
    assert [answer.returncode for answer in answers] == [0, 0], answers
    bodies = [json.loads(answer.stdout) for answer in answers]
    assert bodies[0]["result"] == bodies[1]["result"]
    if name != "shell":
        assert "responder; hit" in answers[1].stdout + answers[1].stderr
        assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["code"] == "INVALID_ARGUMENT"
