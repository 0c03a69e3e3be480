"""The wheel in environments of its own, in a folder whose files have the names that people give their files."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from deploy.found import Servers
from tests.real import ROOT, free_port, until

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(300)]

MOST_IN_BASE = 22
SERVER_PACKAGES = ("redis", "structlog", "typer", "aiohttp", "prometheus_client", "uvloop", "hiredis", "rich")
FILES = {
    # The names that clash with folders of our repository, or with files in our packages.
    "schemas.py": """
        from pydantic import BaseModel

        class Features(BaseModel):
            pair: str

        class Price(BaseModel):
            price: float
    """,
    "lane.py": "LANE = 'the left one'",
    "producer.py": "def produce(): return 'a film'",
    "responder.py": "def first_aid(): return 2.5",
    "messages.py": "HELLO = 'hello'",
    "settings.py": "DEBUG = True",
    "my_model.py": """
        from prediction_responder import predictor
        from messages import HELLO
        from responder import first_aid
        from schemas import Features, Price
        from settings import DEBUG

        @predictor(name="price", ttl_s=60)
        def price(features: Features) -> Price:
            assert (HELLO, DEBUG) == ("hello", True)
            return Price(price=first_aid() * len(features.pair))
    """,
    "ask.py": """
        import os, sys
        from lane import LANE
        from producer import produce
        from prediction_client import BlockingPredictionClient
        from schemas import Features, Price

        with BlockingPredictionClient(os.environ["AMQP_URL"], namespace=os.environ["NAMESPACE"]) as client:
            print(client.predict("price", Features(pair="ETH/EUR"), output=Price, timeout_s=20).price)
    """,
    "app.py": """
        import os
        from contextlib import asynccontextmanager
        from fastapi import FastAPI
        from prediction_client import PredictionClient
        from schemas import Features, Price

        @asynccontextmanager
        async def lifespan(app):
            async with PredictionClient(os.environ["AMQP_URL"], namespace=os.environ["NAMESPACE"]) as client:
                app.state.client = client
                yield

        app = FastAPI(lifespan=lifespan)

        @app.post("/price")
        async def price(features: Features) -> Price:
            return await app.state.client.predict("price", features, output=Price, timeout_s=20)
    """,
    "conftest.py": 'pytest_plugins = ["prediction_client.pytest_plugin"]',
    "test_mine.py": """
        from my_model import price
        from schemas import Features, Price

        def test_blocking(answering_blocking):
            with answering_blocking(price) as client:
                assert client.predict("price", Features(pair="abcd"), output=Price) == Price(price=10)

        async def test_async(answering):
            async with answering(price) as client:
                reply = await client.ask("price", {"pair": "abcd"})
                assert (reply.value, reply.cache_status.kind) == ({"price": 10.0}, "miss")
    """,
    "pytest.ini": "[pytest]\nasyncio_mode = auto\n",
}
IN_MEMORY = """
import asyncio, sys
from prediction_client.testing import answering
from my_model import price

async def main():
    async with answering(price) as client:
        assert await client.predict("price", {"pair": "abcd"}) == {"price": 10.0}

asyncio.run(main())
"""


def uv(*words: str | Path) -> None:
    """Run uv; what it says is shown when it fails."""
    environment = dict(os.environ)
    if Path("/etc/ssl/certs/ca-certificates.crt").exists():
        environment["UV_SYSTEM_CERTS"] = "true"
    command = [str(Path(sys.executable).with_name("uv")), "--quiet", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What would be published."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    [built] = folder.glob("*.whl")
    return built


def environment_with(folder: Path, wheel: Path, locked: str, *more: str) -> Path:
    """An environment with the wheel, the locked dependencies and other packages; its `bin`."""
    uv("venv", "--python", sys.executable, folder)
    python, requirements = folder / "bin" / "python", ROOT / "requirements"
    uv("pip", "install", "--python", python, "--require-hashes", "-r", requirements / locked)
    uv("pip", "install", "--python", python, "--no-deps", wheel)
    if more:
        uv("pip", "install", "--python", python, "-c", requirements / "dev.txt", *more)
    return folder / "bin"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """What a caller installs: `pip install prediction-responder`."""
    return environment_with(tmp_path_factory.mktemp("base") / "venv", wheel, "base.txt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The same with the extra `serve`, beside a web framework and pytest."""
    more = ("pytest", "pytest-asyncio", "fastapi", "uvicorn")
    return environment_with(tmp_path_factory.mktemp("whole") / "venv", wheel, "serve.txt", *more)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's project, outside of the repository."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(dedent(text))
    return tmp_path


def run(project: Path, program: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in the project, with nothing of this process' import path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    command = [str(program), *words]
    return subprocess.run(
        command, cwd=project, env=clean | environment, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def running(project: Path, program: Path, *words: str, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A program that runs in the project until the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    process = subprocess.Popen([str(program), *words], cwd=project, env=clean | environment, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str, body: bytes | None = None) -> bytes:
    """What an HTTP server says there; nothing while it does not."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            said: bytes = response.read()
            return said
    except OSError:
        return b""


def test_the_base_is_light(base: Path, project: Path) -> None:
    """Few distributions; importing the client loads nothing of the server's, nor could it."""
    listed = run(project, base / "python", "-c", "import importlib.metadata as m; print(len(list(m.distributions())))")
    assert int(listed.stdout) <= MOST_IN_BASE
    code = f"import prediction_client, sys; print(sorted(set({SERVER_PACKAGES}) & set(sys.modules)))"
    assert run(project, base / "python", "-c", code).stdout.strip() == "[]"
    code = f"import importlib.util as u; print([name for name in {SERVER_PACKAGES} if u.find_spec(name)])"
    assert run(project, base / "python", "-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["schemas", "lane", "producer", "responder"])
def test_general_names_stay_the_user_s(base: Path, project: Path, tmp_path: Path, name: str) -> None:
    """They mean the user's file where there is one, and nothing where there is none."""
    assert run(project, base / "python", "-c", f"import {name}; print({name}.__file__)").stdout.startswith(str(project))
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = run(empty, base / "python", "-c", f"import {name}")
    assert f"No module named '{name}'" in missing.stderr


def test_models_are_tested_in_memory_in_the_bare_base(base: Path, project: Path) -> None:
    """`predictor` and `answering` need no server's package."""
    done = run(project, base / "python", "-c", IN_MEMORY)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("responder", "serve", "my_model:price"), "pip install 'prediction-responder[serve]'"),
        (("responder", "--version"), "pip install 'prediction-responder[serve]'"),
        (("producer", "ask", "price", "{}"), "pip install 'prediction-responder[cli]'"),
    ],
)
def test_a_command_whose_extra_is_missing_says_so(
    base: Path, project: Path, command: tuple[str, ...], says: str
) -> None:
    """In one line, with what to install."""
    done = run(project, base / command[0], *command[1:])
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_embedded_responder_says_which_extra_it_needs(base: Path, project: Path) -> None:
    """Where a probe or Redis is asked for."""
    code = """
import asyncio, os
from prediction_responder import Responder, Settings
from my_model import price

async def main():
    async with Responder([price], Settings(redis_url="redis://localhost/0")):
        pass

asyncio.run(main())
"""
    for environment in ({}, {"RESPONDER_HEALTH_PORT": "0"}):
        done = run(project, base / "python", "-c", code, **environment)
        assert "pip install 'prediction-responder[serve]'" in done.stderr.splitlines()[-1]


async def test_everything_works_in_somebody_s_project(
    servers: Servers, namespace: str, whole: Path, project: Path
) -> None:
    """`responder serve`, a script, `producer ask`, `pytest` with the fixtures, and FastAPI under uvicorn."""
    port, web_port = free_port(), free_port()
    probe = {"RESPONDER_HEALTH_PORT": str(port), "RESPONDER_HEALTH_HOST": "127.0.0.1"}
    settings = servers.environment(namespace) | probe
    caller = {"AMQP_URL": servers.amqp_url, "NAMESPACE": namespace, "RESPONDER_NAMESPACE": namespace}
    assert run(project, whole / "responder", "--version").stdout.startswith("responder 0.")
    assert run(project, whole / "producer", "--version").stdout.startswith("producer 0.")
    with running(project, whole / "responder", "serve", "my_model:price", **settings):
        await until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 20)
        asked = await asyncio.to_thread(run, project, whole / "python", "ask.py", **caller)
        assert (asked.stdout.strip(), asked.stderr) == ("17.5", "")
        words = ("ask", "price", '{"pair": "ETH/EUR"}', "--json")
        asked = await asyncio.to_thread(run, project, whole / "producer", *words, **caller)
        assert json.loads(asked.stdout)["value"] == {"price": 17.5}
        with running(project, whole / "uvicorn", "app:app", "--port", str(web_port), "--log-level", "error", **caller):
            url, body = f"http://127.0.0.1:{web_port}/price", b'{"pair": "ETH/EUR"}'
            await until(lambda: answers(url, body), 20)
            assert json.loads(await asyncio.to_thread(answers, url, body)) == {"price": 17.5}
    tested = await asyncio.to_thread(run, project, whole / "python", "-m", "pytest", "-q")
    assert "2 passed" in tested.stdout, tested.stdout
