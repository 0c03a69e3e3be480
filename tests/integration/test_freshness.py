"""How fresh an answer is given: real servers, real processes, on one replica and on three."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random

import pytest

from deploy.found import Servers
from prediction_client import NO_RETRIES, PredictionClient, PredictionError
from prediction_responder import predictor
from prediction_responder.cache import Entry
from prediction_responder.cache.generation import read_generation
from prediction_responder.cache.keys import Keyring
from prediction_responder.cache.redis import RedisCache
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.value import encode_entry
from prediction_responder.execution.served import ServedModel
from prediction_schemas.canonical import canonical_bytes
from tests.fakes import Echo, Question
from tests.models import Task, recorded
from tests.real import ResponderProcess, replicas, until
from tests.replica import Replica

pytestmark = pytest.mark.servers

TTL_S, LONG_TTL_S = 0.4, 60.0


@dataclass
class Fleet:
    """Running replicas, and what their models did."""

    them: list[ResponderProcess]
    folder: Path
    url: str
    namespace: str
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def calls(self, number: int) -> int:
        """How often the model was called for a number."""
        return recorded(self.folder, "start").count(number)

    def fail(self, number: int) -> None:
        """Have the model fail on a number from now on."""
        (self.folder / f"fail-{number}").touch()


@pytest.fixture(scope="module", params=[1, 3], ids=["one replica", "three replicas"])
def fleet(
    request: pytest.FixtureRequest, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Replicas whose answers are kept for half a minute after they were fresh."""
    folder, namespace = tmp_path_factory.mktemp("fresh"), f"fresh-{secrets.token_hex(4)}."
    environment = {"ORACLE_FOLDER": str(folder), "RESPONDER_KEEP_S": "30"}
    with replicas(servers, namespace, "tests.models:fresh", request.param, **environment) as them:
        yield Fleet(them, folder, servers.amqp_url, namespace)


@pytest.fixture
async def client(fleet: Fleet) -> AsyncIterator[PredictionClient]:
    """The client library, which shows every error."""
    async with PredictionClient(fleet.url, namespace=fleet.namespace, retries=NO_RETRIES) as one:
        yield one


def task(number: int, ttl_s: float = LONG_TTL_S) -> Task:
    """An input; the model takes a while, so that requests meet."""
    return Task(number=number, seconds=0.1, ttl_s=ttl_s)


async def ask(
    client: PredictionClient, number: int, cache_control: str | None = None, *, ttl_s: float = LONG_TTL_S
) -> str:
    """Ask, and say where the answer came from, or the error."""
    try:
        prediction = await client.ask("fresh", task(number, ttl_s), cache_control=cache_control, timeout_s=10)
    except PredictionError as error:
        return error.code
    assert prediction.value == {"square": number**2}
    return prediction.cache_status.kind


async def ask_all(
    client: PredictionClient, number: int, cache_control: str | None = None, *, ttl_s: float = LONG_TTL_S
) -> list[str]:
    """Ask six times at once, so that every replica is asked, and say where the answers came from."""
    return sorted(await asyncio.gather(*(ask(client, number, cache_control, ttl_s=ttl_s) for _ in range(6))))


async def old(client: PredictionClient, number: int, age_s: int, ttl_s: float = LONG_TTL_S) -> None:
    """Have an answer that has reached an age."""
    assert await ask(client, number, ttl_s=ttl_s) == "miss"
    async with asyncio.timeout(10):
        while True:
            one = await client.ask("fresh", task(number, ttl_s), cache_control="only-if-cached, max-stale=9")
            if one.age_s >= age_s:
                return


async def test_plain(fleet: Fleet, client: PredictionClient) -> None:
    """The first waits for the model, and the others of that moment with it; then all are hits."""
    number = next(fleet.numbers)
    assert await ask_all(client, number) == ["collapsed"] * 5 + ["miss"]
    assert await ask_all(client, number) == ["hit"] * 6
    assert fleet.calls(number) == 1


async def test_max_age(fleet: Fleet, client: PredictionClient) -> None:
    """One that is old enough is taken; otherwise it is replaced, once, for everybody."""
    number = next(fleet.numbers)
    await old(client, number, 1)
    assert await ask_all(client, number, "max-age=5") == ["hit"] * 6
    assert await ask_all(client, number, "max-age=0") == ["collapsed"] * 5 + ["request"]
    assert await ask_all(client, number, "max-age=0") == ["hit"] * 6
    assert fleet.calls(number) == 2


async def test_no_cache(fleet: Fleet, client: PredictionClient) -> None:
    """What is there is not taken, and what comes of it is for everybody."""
    number = next(fleet.numbers)
    assert await ask(client, number) == "miss"
    assert await ask(client, number, "no-cache") == "request"
    assert await ask_all(client, number) == ["hit"] * 6
    assert fleet.calls(number) == 2


async def test_no_store(fleet: Fleet, client: PredictionClient) -> None:
    """It takes what is there, and leaves nothing: a call for each."""
    number = next(fleet.numbers)
    assert await ask_all(client, number, "no-store") == ["bypass"] * 6
    assert await ask(client, number, "only-if-cached") == "CACHE_MISS"
    assert fleet.calls(number) == 6
    assert await ask(client, number) == "miss"
    assert await ask_all(client, number, "no-store") == ["hit"] * 6


async def test_only_if_cached(fleet: Fleet, client: PredictionClient) -> None:
    """It asks no model."""
    number = next(fleet.numbers)
    assert await ask_all(client, number, "only-if-cached") == ["CACHE_MISS"] * 6
    assert fleet.calls(number) == 0
    assert await ask(client, number) == "miss"
    assert await ask_all(client, number, "only-if-cached") == ["hit"] * 6


async def test_max_stale(fleet: Fleet, client: PredictionClient) -> None:
    """An answer past its time to live, at once, and one refresh in the background; otherwise one waits."""
    number, other = next(fleet.numbers), next(fleet.numbers)
    await old(client, number, 1, ttl_s=TTL_S)
    await old(client, other, 1, ttl_s=TTL_S)
    stale = await client.ask("fresh", task(number, TTL_S), cache_control="max-stale=9, only-if-cached")
    assert stale.cache_status.encoded.startswith(b"responder; hit; ttl=-")
    assert stale.age_s >= 1
    assert await ask(client, number, "max-stale=9", ttl_s=TTL_S) == "stale"
    await until(lambda: fleet.calls(number) >= 2)
    assert await ask(client, other, "max-stale=0", ttl_s=TTL_S) == "miss"


async def test_stale_if_error(fleet: Fleet, client: PredictionClient) -> None:
    """A failing model costs those nothing but the attempt who take an older answer; others get the error and a hint."""
    number = next(fleet.numbers)
    await old(client, number, 1, ttl_s=TTL_S)
    fleet.fail(number)
    before = fleet.calls(number)
    assert await ask_all(client, number, "stale-if-error=60", ttl_s=TTL_S) == ["stale"] * 6
    assert await ask_all(client, number, "stale-if-error=0", ttl_s=TTL_S) == ["UNAVAILABLE"] * 6
    with pytest.raises(PredictionError) as refused:
        await client.ask("fresh", task(number, TTL_S))
    assert refused.value.retry_after_s is not None
    assert 0 < refused.value.retry_after_s <= 8
    assert fleet.calls(number) - before <= 2


async def test_every_reply_says_where_it_came_from_and_how_old_it_is(fleet: Fleet, client: PredictionClient) -> None:
    """Misses, hits and errors, in the client's reply object and in the headers of any other."""
    from tests.real import ForeignClient

    number = next(fleet.numbers)
    one = task(number)
    first, second = await client.ask("fresh", one), await client.ask("fresh", one)
    assert (first.cache_status.kind, first.age_s, second.cache_status.kind, second.age_s) == ("miss", 0, "hit", 0)
    async with ForeignClient.connected(fleet.url) as foreign:
        for body in (one.model_dump_json().encode(), b"{", b'{"number": "x"}'):
            message, _ = await foreign.ask(f"{fleet.namespace}predictions.fresh", body)
            assert str(message.headers["cache-status"]).startswith("responder")
            assert str(message.headers["age"]) == "0"


async def test_a_thousand_values_that_are_no_answers(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Damaged, cut short, swapped or of an older format: none is served, each is counted, nothing is raised."""
    chance = Random(5)
    keyring = Keyring(namespace=namespace, model="fresh", version="1", fingerprint=b"")
    tasks = [Task(number=number) for number in range(1000)]
    keys = [keyring.key(b"", canonical_bytes(asked)) for asked in tasks]
    with replicas(
        servers, namespace, "tests.models:fresh", 1, ORACLE_FOLDER=str(tmp_path), RESPONDER_PENDING="1000"
    ) as [one]:
        async with (
            PredictionClient(servers.amqp_url, namespace=namespace) as client,
            RedisLink(servers.redis_url, timeout_s=2.0) as redis,
        ):
            await client.ask("fresh", Task(number=5000))
            record = read_generation(await redis.ask("GET", keyring.generation_name))
            assert record is not None
            generation = record.current
            now_ms = round(time.time() * 1000)
            values = [
                encode_entry(key.digest, generation, Entry(now_ms, now_ms + 60_000, 1, b'{"result":{"square":-1}}'))
                for key in keys
            ]
            for number, key in enumerate(keys):
                good, at = values[number], chance.randrange(len(values[number]))
                bad = (
                    good[:at] + bytes([good[at] ^ 1 << chance.randrange(8)]) + good[at + 1 :],
                    good[:at],
                    values[number - 1],
                    bytes([1 + at % 3]) + good[1:],
                    chance.randbytes(at),
                )[number % 5]
                if not bad or bad[0] in (0, 6, 7):  # marks are not values
                    bad = b"garbage"
                await redis.ask("SET", key.name, bad, "PX", 600_000)
            answers = await asyncio.gather(*(client.ask("fresh", asked, timeout_s=20) for asked in tasks))
        metrics = one.metrics()
    assert [answer.value for answer in answers] == [{"square": number**2} for number in range(1000)]
    assert {answer.cache_status.kind for answer in answers} == {"miss"}
    assert 'responder_oddities_total{kind="unusable_value"} 1000.0' in metrics
    assert sorted(recorded(tmp_path, "start")) == [*range(1000), 5000]


async def test_a_thousand_settings_and_no_immortal_answer(servers: Servers, namespace: str) -> None:
    """Time to live, jitter and the longer window, as Redis has them."""
    chance = Random(6)
    async with (
        RedisCache(servers.redis_url, timeout_s=2.0, inbox=namespace) as store,
        RedisLink(servers.redis_url, timeout_s=2.0) as link,
    ):
        for number in range(1000):
            ttl_s = chance.choice((0.0, 0.0001, chance.uniform(0.5, 100), 10 ** chance.uniform(0, 8)))
            stale_s, keep_s = (chance.choice((0.0, chance.uniform(0, 100), 10 ** chance.uniform(0, 8))) for _ in "ab")

            @predictor(name=f"m{number}", ttl_s=ttl_s, stale_s=stale_s, keep_s=keep_s)
            async def echo(question: Question) -> Echo:
                return Echo(text=question.text)

            model = ServedModel(echo, namespace=namespace, max_depth=64, max_reply_bytes=1000)
            await model.load()
            replica = Replica(store, model)
            assert (await replica.ask()).outcome.code is None
            request = Question(text="a")
            name = model.keys.key(b"", canonical_bytes(request)).name
            left_ms: int = await link.ask("PTTL", name)
            window_ms = 1000 * max(stale_s, keep_s)
            if ttl_s == 0:
                assert left_ms == -2
            elif ttl_s < 0.001 and window_ms < 1000:
                assert left_ms != -1
            else:
                assert 0.9 * ttl_s * 1000 + window_ms - 1000 < left_ms <= 1.1 * ttl_s * 1000 + window_ms + 2
            await replica.leases.close()
