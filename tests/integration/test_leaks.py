"""Nothing is left behind by a request: no task, no object, no entry in a dictionary that only grows."""

import asyncio
import gc
from collections import Counter

import pytest

from deploy.found import Servers
from tests.fakes import GatedModel
from tests.lanes import Witness
from tests.real import embedded, settings, until

pytestmark = [pytest.mark.servers, pytest.mark.any_server]

REQUESTS, KEYS = 2000, 100


async def test_requests_leave_no_task_and_no_object_behind(servers: Servers, namespace: str) -> None:
    """After the first round everything that is kept is there; two more rounds add nothing."""
    model = GatedModel(is_open=True)
    queue = f"{namespace}predictions.echo"
    async with (
        Witness.connected(servers.amqp_url) as witness,
        embedded(model.predictor(ttl_s=600), settings(servers, namespace)) as responder,
    ):

        async def one_round() -> tuple[int, Counter[str]]:
            names = [f"n{number}" for number in range(REQUESTS)]
            for first in range(0, REQUESTS, KEYS):
                chunk = names[first : first + KEYS]
                for number, name in enumerate(chunk):
                    await witness.ask(queue, [name], b'{"text": "%d"}' % number)
                await witness.ask(queue, chunk[:5], b'{"text": 7}')  # 400
                await witness.ask(queue, chunk[:5], b"not JSON", reply_to="nobody")
                await witness.ask(queue, chunk[:5], b'{"text": "0"}', headers={"cache-control": "no-store"})
            await until(lambda: len(witness.replies) == REQUESTS and not responder.unsettled)
            await until(lambda: not responder.unconfirmed)
            witness.replies.clear()
            gc.collect()
            return len(asyncio.all_tasks()), Counter(type(one).__name__ for one in gc.get_objects())

        await one_round()
        tasks, objects = await one_round()
        more_tasks, more_objects = await one_round()
    assert more_tasks <= tasks
    grown = {name: count - objects[name] for name, count in more_objects.items() if count - objects[name] > 50}
    assert not grown
