"""Everything that can happen to replicas and their Redis, mixed."""

import pytest

from deploy.found import Servers
from tests.chaos import FAULTS, run
from tests.pace import Pace

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


async def test_forty_five_seconds_of_all_faults_mixed(pace: Pace, servers: Servers) -> None:
    """No wrong answer, no error, and no two calls of one key at once outside the windows around the faults.

    `make chaos` prints the whole table.
    """
    row = await run(servers.amqp_url, list(FAULTS), 45, seed=4)
    assert row.events >= 6 / pace.now()
    assert row.requests >= 2000 / pace.now()
    assert (row.wrong, row.errors, row.outside) == (0, 0, 0), row
