"""Several processes as one run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from producer.load.ledger import Shipment
from producer.load.measured import Run
from producer.load.plan import Plan
from producer.load.worker import work

LEAD_S = 0.05  # from the word to the moment
ENDS_S = 5.0


class LoadFailed(Exception):
    """The load could not be made; the message says why."""


def run(plan: Plan, name: str = "", on_progress: Callable[[Run, float], None] = lambda _run, _now: None) -> Run:
    """Make the load, and return what was measured. Ctrl-C ends it early, with what there is by then.

    Args:
        plan: what to do.
        name: of the run.
        on_progress: called a few times a second with the run and its time, negative while it warms up.

    Raises:
        LoadFailed: the broker cannot be reached, or a process died.
    """
    measured = Run(plan, name)
    with _processes(plan) as (orders, reports):
        for pipe in reports:
            if (problem := _receive(pipe)) is not None:
                raise LoadFailed(str(problem))
        began = time.monotonic() + LEAD_S + plan.arrivals.warm_up_s
        for pipe in orders:
            pipe.send(began)
        numbers = {pipe: number for number, pipe in enumerate(reports)}
        while numbers:
            try:
                for ready in connection.wait(list(numbers), timeout=0.25):
                    assert isinstance(ready, Connection)
                    shipment = _receive(ready)
                    assert isinstance(shipment, Shipment)
                    measured.add(numbers[ready], shipment)
                    if shipment.is_last:
                        del numbers[ready]
                on_progress(measured, time.monotonic() - began)
            except KeyboardInterrupt:
                if measured.is_interrupted:
                    raise
                measured.is_interrupted = True
                for pipe in orders:
                    pipe.close()
    return measured


@contextmanager
def _processes(plan: Plan) -> Iterator[tuple[list[Connection], list[Connection]]]:
    """Our ends of the pipes that take orders to them, and bring reports."""
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
            process.start()
            for pipe in theirs:
                pipe.close()
        yield orders, reports
    finally:
        for pipe in (*orders, *reports):
            pipe.close()
        for process in processes:
            process.join(ENDS_S)
            if process.is_alive():
                process.kill()


def _receive(pipe: Connection) -> object:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        raise LoadFailed("a process of the load died; see above") from None
