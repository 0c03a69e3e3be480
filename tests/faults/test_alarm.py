"""A memory alarm under load: the broker takes no messages for a while, and then it does again."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.lanes import Witness
from tests.pace import Pace
from tests.real import ResponderProcess, responder_process, until

pytestmark = pytest.mark.servers


async def test_an_alarm_under_load_loses_nothing_costs_little_and_is_over_when_it_is_over(
    pace: Pace, servers: Servers, tmp_path: Path, namespace: str
) -> None:
    """While it lasts the responder sleeps (under 10 % of a core); within 3 s after it the rate is what it was."""
    with BrokerProcess.running(tmp_path / "rabbitmq") as broker:
        local = Servers(broker.url, servers.redis_url, "binaries")
        options = {"PRICE_MODEL_SECONDS": "0", "PRICE_TTL_SECONDS": "600"}
        with responder_process(local, namespace, "examples.price:price", **options) as responder:
            async with Witness.connected(broker.url) as witness:
                queue = f"{namespace}predictions.price"
                sent: list[str] = []
                stop = asyncio.Event()

                async def load() -> None:
                    while not stop.is_set():
                        names = [str(len(sent) + one) for one in range(20)]
                        sent.extend(names)
                        await witness.ask(queue, names, b'{"pair": "ETH/EUR"}')

                loads = [asyncio.create_task(load()) for _ in range(3)]
                await until(lambda: len(witness.replies) > 500)
                before = await _rate(witness)
                await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "absolute", "1000")
                while await _rate(witness) > 0:
                    pass
                used = await _cpu_share(responder, 2.0)
                assert not any(task.done() for task in loads)
                await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.4")
                over_at = time.monotonic()
                while (await _rate(witness)) < 0.7 * before:
                    assert time.monotonic() - over_at < 3 * pace.now()
                stop.set()
                await asyncio.gather(*loads)
                await until(lambda: witness.replies.keys() == set(sent))
    assert used < 0.10 * pace.now()


async def _rate(witness: Witness) -> float:
    began, count = time.monotonic(), len(witness.replies)
    await asyncio.sleep(0.5)
    return (len(witness.replies) - count) / (time.monotonic() - began)


async def _cpu_share(responder: ResponderProcess, seconds: float) -> float:
    """The share of one core that a process uses."""
    assert responder.process is not None
    stat = Path(f"/proc/{responder.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    await asyncio.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
