"""Runs the hooks of a model, `__init__`, `load` and `close`: each may be a plain function or a coroutine function."""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from prediction_responder.execution.port import Crashed, describe

_NEEDS_LOOP = ("no running event loop", "no current event loop")


async def run_hook(hook: Callable[[], Any], executor: Executor | None = None) -> Any:
    """Call a hook: a coroutine function on the event loop, any other in a thread, because it may take a minute.

    Args:
        executor: whose thread; the event loop's by default.

    Raises:
        Crashed: it ended with something that is not an `Exception`, or cancelled itself.
        Exception: what it raised.
    """
    try:
        if inspect.iscoroutinefunction(hook):
            return await hook()
        result, error = await asyncio.get_running_loop().run_in_executor(executor, outcome_of, hook)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _NEEDS_LOOP):
            result, error = outcome_of(hook)  # it makes a client of an asyncio library
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Crashed("it cancelled itself") from error
    except Exception:
        raise
    except BaseException as error:
        raise Crashed(error) from error


def outcome_of(call: Callable[..., Any], *arguments: Any) -> tuple[Any, BaseException | None]:
    """Call a function. Errors are values: a future refuses StopIteration, and SystemExit would end its thread."""
    try:
        return call(*arguments), None
    except StopIteration as error:
        return None, RuntimeError(f"it raised {describe(error)}")
    except BaseException as error:  # noqa: BLE001 - it is returned as a value
        return None, error
