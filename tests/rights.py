"""Users with the rights that docs/guides/security.md documents, made by the commands that stand there."""

import asyncio
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from yarl import URL

from deploy.found import Servers
from prediction_responder.cache.redis_link import RedisLink
from tests.real import ROOT

SECRET = "canary-of-the-service-user"
_NAMESPACES = r"[a-z0-9-]+\."

Rules = Callable[[str], str]


def documented(begins: str) -> list[list[str]]:
    """The words of every command of the page that begins so."""
    lines = (ROOT / "docs" / "guides" / "security.md").read_text().splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"    {begins}")]


def for_namespaces(word: str) -> str:
    """The same rule for the queues and keys of any test, whose namespace stands in front of their names."""
    if word.startswith("^"):
        return word.replace("predictions", f"{_NAMESPACES}predictions")
    return re.sub(r"^([~&])pr", r"\1*pr", word)


def add_user(control: Callable[..., str], user: str, rules: Rules) -> None:
    """Run the documented commands that make a user of RabbitMQ."""
    for _, command, *words in documented("rabbitmqctl"):
        if user in words:
            made = [SECRET] if command == "add_user" else []
            control(command, *(rules(word) for word in words if word != "SECRET"), *made)


async def add_redis_user(url: str, rules: Rules, user: str = "responder") -> str:
    """Run the documented command that makes a user of Redis; the URL to log in with."""
    [words] = documented("ACL SETUSER")
    words[2] = user
    async with RedisLink(url, timeout_s=5.0) as link:
        await link.ask(*(rules(word).replace(">SECRET", f">{SECRET}") for word in words))
    return with_user(url, user)


def with_user(url: str, user: str = "responder") -> str:
    """A URL as another user."""
    return str(URL(url).with_user(user).with_password(SECRET))


def as_service(servers: Servers) -> Servers:
    """The same servers with a user for responders; unchanged where we cannot make one."""
    if servers.control is None:
        return servers
    add_user(servers.control, "responder", for_namespaces)
    with ThreadPoolExecutor(1) as thread:  # a fixture may be set up inside a running event loop
        redis_url = thread.submit(asyncio.run, add_redis_user(servers.redis_url, for_namespaces)).result()
    return replace(servers, service=(with_user(servers.amqp_url), redis_url))
