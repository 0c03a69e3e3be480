"""The rules of the house that can be read off the source: `problems(root)` lists what breaks them, one line each.

import-linter (pyproject.toml) holds the layers between our own files. This file holds what other people's packages may
be imported where, which files start tasks or read the environment, and how long files and functions may be.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGES = (
    "schemas/prediction_schemas",
    "lane/amqp_lane",
    "responder/prediction_responder",
    "producer/prediction_client",
)
RESPONDER, CLIENT, LANE = "responder/prediction_responder", "producer/prediction_client", "lane/amqp_lane"

FILE_LINES, FUNCTION_LINES, TEST_FILE_LINES = 300, 60, 500
# Few, and shrinking. Lines that they may have.
LONGER_FILES = {
    "tests/unit/test_refreshes.py": 560,
}
LONGER_FUNCTIONS = {
    f"{LANE}/frames.py:feed": 65,  # every byte walks through it; a call per frame is too dear
    f"{RESPONDER}/flight/lease.py:acquire": 85,  # becomes a pure step and its driver
    f"{RESPONDER}/operate/explain.py:explain": 75,  # one field a line
    f"{RESPONDER}/model/predictor.py:predictor": 65,  # one option a line
    f"{CLIENT}/cli/load.py:load": 95,  # one option a line
}

# Which files may import a package of somebody else; all of our files that are not named here may not.
IMPORTERS = {
    "aio_pika": {f"{LANE}/connection.py"},
    "aiormq": {f"{LANE}/connection.py"},
    "pamqp": set[str](),
    "yarl": {f"{LANE}/connection.py"},
    "redis": {f"{RESPONDER}/cache/redis_link.py"},
    "hiredis": {f"{RESPONDER}/cache/redis_pipeline.py"},
    "prometheus_client": {f"{RESPONDER}/observe/metrics.py"},
    "aiohttp": {f"{RESPONDER}/observe/health.py"},
    "structlog": {f"{RESPONDER}/observe/log_output.py"},
    "uvloop": {f"{RESPONDER}/serve.py"},
    "typer": {f"{RESPONDER}/cli.py", f"{CLIENT}/cli/"},
    "rich": {f"{CLIENT}/cli/", f"{CLIENT}/load/"},
    "pydantic_settings": {f"{RESPONDER}/settings.py", f"{CLIENT}/testing.py"},
    "opentelemetry": {f"{CLIENT}/tracing.py"},
    "pytest": {f"{CLIENT}/pytest_plugin.py"},
    "hdrh": {f"{CLIENT}/load/"},
    "matplotlib": {f"{CLIENT}/load/"},
    "numpy": {f"{CLIENT}/load/"},
    "polyfactory": {f"{CLIENT}/load/"},
    "amqp_lane": {f"{RESPONDER}/amqp/", f"{CLIENT}/", f"{LANE}/"},
}

# Which files start work of their own: tasks, futures of coroutines, threads, processes.
STARTERS = {
    f"{LANE}/connection.py",
    f"{LANE}/outbox.py",
    f"{CLIENT}/blocking.py",
    f"{CLIENT}/load/running.py",
    f"{CLIENT}/load/worker.py",
    f"{CLIENT}/many.py",
    f"{CLIENT}/session.py",
    f"{RESPONDER}/amqp/dead_letters.py",
    f"{RESPONDER}/app.py",
    f"{RESPONDER}/cache/redis_link.py",
    f"{RESPONDER}/execution/hooks.py",
    f"{RESPONDER}/execution/threads.py",
    f"{RESPONDER}/flight/commit.py",
    f"{RESPONDER}/flight/flight.py",
    f"{RESPONDER}/flight/keeper.py",
    f"{RESPONDER}/flight/late.py",
    f"{RESPONDER}/model/artefacts.py",
    f"{RESPONDER}/serve.py",
    "benchmarks/",
    "deploy/",
}
STARTING = frozenset(
    {"create_task", "ensure_future", "TaskGroup", "to_thread", "run_in_executor", "run_coroutine_threadsafe"}
    | {"Thread", "Process", "ThreadPoolExecutor", "ProcessPoolExecutor", "Popen", "fork"}
)
CLOCK = f"{RESPONDER}/clock.py"
CLOCKS = frozenset({"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "now", "utcnow", "today"})
ENVIRONMENT = {f"{CLIENT}/options.py", f"{RESPONDER}/settings.py", "benchmarks/", "deploy/", "examples/"}
READING = frozenset({"environ", "environb", "getenv", "getenvb"})
MOCKS = ("unittest.mock", "Magic" + "Mock", "monkeypatch." + "setattr", "mark." + "flaky")


def problems(root: Path) -> list[str]:
    """What breaks a rule in a tree, one line each; empty when nothing does."""
    return [*_of_packages(root), *_of_clocks(root), *_of_sizes(root), *_of_tests(root)]


def sources(root: Path) -> Iterator[tuple[str, Path]]:
    """Every Python file of the tree, with its name as documents write it; new folders included."""
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not any(part.startswith(".") or part in ("build", "dist") for part in inside.parts):
            yield inside.as_posix(), path


def _of_packages(root: Path) -> Iterator[str]:
    for folder in PACKAGES:
        top = root / folder.partition("/")[0]
        if (top / "__init__.py").exists():
            yield f"{top.name}/__init__.py: the folder is no package; `import {top.name}` must fail"
    for name, path in sources(root):
        if name.startswith("tests/"):
            continue
        tree = ast.parse(path.read_text())
        for package, line in _imported(tree):
            allowed = IMPORTERS.get(package) if name.startswith(PACKAGES) else None
            if allowed is not None and not name.startswith(tuple(allowed)):
                yield f"{name}:{line}: imports {package}; only {', '.join(sorted(allowed)) or 'nothing'} may"
        for word, line in _words(tree):
            if word in STARTING and not name.startswith(tuple(STARTERS)):
                yield f"{name}:{line}: starts work of its own ({word}); tests/rules.py lists the files that may"
            if word in READING and not name.startswith(tuple(ENVIRONMENT)):
                yield f"{name}:{line}: reads the environment ({word}); only {', '.join(sorted(ENVIRONMENT))} may"


def _of_clocks(root: Path) -> Iterator[str]:
    for name, path in sources(root):
        if not name.startswith(f"{RESPONDER}/") or name == CLOCK:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
                yield f"{name}:{node.lineno}: reads a clock ({node.attr}); only {CLOCK} may"
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                yield f"{name}:{node.lineno}: imports a clock; only {CLOCK} may"


def _of_sizes(root: Path) -> Iterator[str]:
    for name, path in sources(root):
        text = path.read_text()
        most = LONGER_FILES.get(name, TEST_FILE_LINES if name.startswith("tests/") else FILE_LINES)
        if text.count("\n") > most:
            yield f"{name}: {text.count(chr(10))} lines, {most} at most"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                most = LONGER_FUNCTIONS.get(f"{name}:{node.name}", FUNCTION_LINES)
                if length > most:
                    yield f"{name}:{node.lineno}: {node.name} has {length} lines, {most} at most"


def _of_tests(root: Path) -> Iterator[str]:
    for name, path in sources(root):
        if not name.startswith("tests/"):
            continue
        text = path.read_text()
        if name != "tests/rules.py":
            yield from (
                f"{name}: {mock}: a fake that works beats a mock that watches" for mock in MOCKS if mock in text
            )
        for node in ast.walk(ast.parse(text)):
            is_test = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):  # type: ignore[arg-type]
                yield f"{name}:{node.lineno}: {node.name} has no docstring; it is the promise"  # type: ignore[attr-defined]


def _imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Top-level packages that are imported anywhere in a file, functions and `importlib.import_module` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0], node.lineno
        elif isinstance(node, ast.Call) and _last_word(node.func) in ("import_module", "__import__"):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value.partition(".")[0], node.lineno


def _words(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names that a file uses: called, read as attributes, or imported by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            yield _last_word(node), node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield from ((alias.name, node.lineno) for alias in node.names)


def _last_word(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
