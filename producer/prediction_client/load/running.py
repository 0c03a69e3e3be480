"""A run: start the processes, collect their measurements, stop them."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from prediction_client.load.measured import Run
from prediction_client.load.plan import Plan
from prediction_client.load.shipment import Shipment
from prediction_client.load.worker import work

LEAD_S = 0.05  # between the order to begin and the start
ENDS_S = 5.0


class LoadFailed(Exception):
    """The run failed; the message says why."""


def run(plan: Plan, name: str = "", on_progress: Callable[[Run, float], None] = lambda _run, _now: None) -> Run:
    """Run a plan, and return the measurements. Ctrl-C ends it early, with the measurements so far.

    Args:
        plan: the plan.
        name: the name of the run.
        on_progress: called a few times a second with the run and its time, which is negative during the warm-up.

    Raises:
        LoadFailed: the broker cannot be reached, or a process died.
    """
    measured = Run(plan, name)
    with _processes(plan) as (orders, reports), _interrupts() as interrupted:
        _wait_until_ready(reports, interrupted)
        began = time.monotonic() + LEAD_S + plan.arrivals.warm_up_s
        for pipe in orders:
            pipe.send(began)
        numbers = {pipe: number for number, pipe in enumerate(reports)}
        while numbers:
            for ready in connection.wait(list(numbers), timeout=0.25):
                assert isinstance(ready, Connection)
                shipment = _receive(ready)
                if not isinstance(shipment, Shipment):
                    raise LoadFailed(str(shipment))
                measured.add(numbers[ready], shipment)
                if shipment.is_last:
                    del numbers[ready]
            on_progress(measured, time.monotonic() - began)
            if interrupted() and not measured.is_interrupted:
                measured.is_interrupted = True
                for pipe in orders:
                    pipe.close()
    return measured


def _wait_until_ready(reports: Sequence[Connection], interrupted: Callable[[], bool]) -> None:
    for pipe in reports:
        while not pipe.poll(0.1):
            if interrupted():
                raise KeyboardInterrupt
        if (problem := _receive(pipe)) is not None:
            raise LoadFailed(str(problem))


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed.

    The first Ctrl-C only sets a flag: an exception could interrupt the merging of a report. The second one raises.
    """
    pressed = False

    def press(_number: int, _frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    with _on_ctrl_c(press):
        yield lambda: pressed


@contextmanager
def _on_ctrl_c(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _processes(plan: Plan) -> Iterator[tuple[list[Connection], list[Connection]]]:
    """Start the processes; yield the parent's ends of the pipes for orders and for reports."""
    context = get_context("spawn")
    orders: list[Connection] = []
    reports: list[Connection] = []
    processes: list[SpawnProcess] = []
    try:
        for number in range(plan.processes):
            (their_orders, our_orders), (our_reports, their_reports) = (context.Pipe(duplex=False) for _ in range(2))
            orders.append(our_orders)
            reports.append(our_reports)
            theirs = their_orders, their_reports
            process = context.Process(target=work, args=(plan, number, *theirs), name=f"load {number}", daemon=True)
            processes.append(process)
            # Inherited: Ctrl-C reaches the whole process group, but only the parent handles it.
            with _on_ctrl_c(signal.SIG_IGN):
                process.start()
            for pipe in theirs:
                pipe.close()
        yield orders, reports
    finally:
        for pipe in (*orders, *reports):
            pipe.close()
        give_up_at = time.monotonic() + ENDS_S
        for process in processes:
            process.join(max(0.0, give_up_at - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _receive(pipe: Connection) -> object:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise LoadFailed("a load process died; its error, if any, is above") from None
