"""Settings: the only reader of the environment. Components receive values, never this object."""

import difflib
import os
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from prediction_responder.execution.input import MAX_VALUES
from prediction_responder.model.answer import MAX_TTL_S

_PREFIX = "RESPONDER_"
_SAFE_SSL = {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password"}


class InvalidSettings(Exception):
    """One line for each wrong setting: its variable, and what is expected. It never shows the value of a URL."""


def _check_pattern(text: str) -> str:
    try:
        re.compile(text.encode())  # as it will be used, on bytes
    except (re.error, ValueError) as error:
        msg = f"must be a regular expression: {error}"
        raise ValueError(msg) from None
    return text


class Settings(BaseSettings):
    """The settings of a deployment. All but the two URLs are read from `RESPONDER_<NAME>`."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True
    )

    amqp_url: SecretStr = Field(SecretStr("amqp://guest:guest@localhost/"), validation_alias="AMQP_URL")
    redis_url: SecretStr = Field(SecretStr("redis://localhost/0"), validation_alias="REDIS_URL")
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    prefetch: Annotated[int, Field(ge=1, le=65_535)] = 1024
    pending: Annotated[int, Field(ge=1, le=65_535)] = 256
    # A shorter lease expires when a busy event loop renews it late.
    lease_s: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    stale_s: Annotated[float, Field(ge=0, le=MAX_TTL_S)] = 0.0
    keep_s: Annotated[float, Field(ge=0, le=MAX_TTL_S)] = 0.0
    redis_timeout_s: Annotated[float, Field(gt=0, le=10)] = 0.2
    # RabbitMQ 4 accepts no message above 16 MiB.
    max_body_bytes: Annotated[int, Field(ge=1, le=16 * 2**20)] = 2**20
    max_reply_bytes: Annotated[int, Field(ge=64, le=16 * 2**20)] = 4 * 2**20
    max_stored_bytes: Annotated[int, Field(ge=64, le=16 * 2**20)] = 2**20
    max_depth: Annotated[int, Field(ge=1, le=128)] = 64
    # Of one input. Reading occupies the event loop, and its cost depends on the values, not on the bytes.
    max_values: Annotated[int, Field(ge=1, le=1_000_000)] = MAX_VALUES
    heartbeat_s: Annotated[int, Field(ge=1, le=600)] = 10
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    queue_type: Literal["quorum", "classic"] = "quorum"
    max_queue_length: Annotated[int | None, Field(ge=1)] = None
    declare_topology: Annotated[bool, Field(validation_alias="RESPONDER_DECLARE")] = True
    reply_exchange: Annotated[str, Field(max_length=255)] = ""
    reply_to_pattern: Annotated[str, AfterValidator(_check_pattern)] = ".+"
    require_user_id: Annotated[str, Field(min_length=1), AfterValidator(_check_pattern)] | None = None
    tenant_from_user_id: bool = False
    load_timeout_s: Annotated[float, Field(ge=0, le=3600)] = 60.0
    health_host: str = "0.0.0.0"
    health_port: Annotated[int | None, Field(ge=0, le=65_535)] = None
    log: Literal["console", "json"] | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("amqp_url")
    @classmethod
    def _amqp(cls, url: SecretStr) -> SecretStr:
        _check_url(url, {"amqp", "amqps"}, "amqp://user:password@host:5672/vhost")
        if set(_options(url).get("no_verify_ssl", ["0"])) != {"0"}:
            msg = "no_verify_ssl would trust any server; name the certificate authority with cafile=... instead"
            raise ValueError(msg)
        return url

    @field_validator("redis_url")
    @classmethod
    def _redis(cls, url: SecretStr) -> SecretStr:
        if url.get_secret_value() != "memory://":
            _check_url(url, {"redis", "rediss", "unix"}, "redis://host:6379/0, or memory://")
            wrong = {name for name in _options(url) if name.startswith("ssl_")} - _SAFE_SSL
            if wrong:
                msg = f"{min(wrong)} could weaken TLS; the ssl_ options allowed are {', '.join(sorted(_SAFE_SSL))}"
                raise ValueError(msg)
        return url

    @classmethod
    def from_environment(cls, **overrides: Any) -> Self:
        """Read and check every setting.

        Raises:
            InvalidSettings: one line for each wrong setting, and for each misspelt `RESPONDER_` variable.
        """
        problems = _unknown_variables(cls)
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            problems += [
                f"{_variable(cls, one['loc'])}: {one['msg'].removeprefix('Value error, ')}"
                for one in error.errors(include_url=False, include_input=False, include_context=False)
            ]
        if problems:
            raise InvalidSettings("\n".join(problems))
        return settings


def _check_url(url: SecretStr, schemes: set[str], example: str) -> None:
    try:
        parts = urlsplit(url.get_secret_value())
        good = parts.scheme in schemes and (bool(parts.hostname) or parts.scheme == "unix") and parts.port != 0
    except ValueError:
        good = False
    if not good:
        msg = f"must be a URL such as {example}"
        raise ValueError(msg)


def _options(url: SecretStr) -> dict[str, list[str]]:
    """The query options, empty values included: the libraries that read the URL give them a meaning."""
    return parse_qs(urlsplit(url.get_secret_value()).query, keep_blank_values=True)


def _variables(cls: type[BaseSettings]) -> dict[str, str]:
    return {name: str(field.validation_alias or f"{_PREFIX}{name.upper()}") for name, field in cls.model_fields.items()}


def _variable(cls: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "settings"
    return _variables(cls).get(name, name if name.isupper() else f"{_PREFIX}{name.upper()}")


def _unknown_variables(cls: type[BaseSettings]) -> list[str]:
    known = {variable.upper() for variable in _variables(cls).values()}
    problems = []
    for variable in sorted(os.environ):
        if variable.upper().startswith(_PREFIX) and variable.upper() not in known:
            close = difflib.get_close_matches(variable.upper(), known, 1)
            problems.append(f"{variable}: no such setting" + (f"; did you mean {close[0]}?" if close else ""))
    return problems
