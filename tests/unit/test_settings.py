"""Bad settings: one line each, naming the variable; no traceback, no secret."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from prediction_responder.cli import cli
from prediction_responder.settings import InvalidSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
SECRET = "canary-password"
WRONG = [
    ("AMQP_URL", f"http://u:{SECRET}@host/"),
    ("AMQP_URL", f"amqp://u:{SECRET}@:5672/"),
    ("AMQP_URL", f"amqps://u:{SECRET}@host/?no_verify_ssl=1"),
    ("AMQP_URL", f"amqps://u:{SECRET}@host/?no_verify_ssl="),
    ("AMQP_URL", f"amqps://u:{SECRET}@host/?no_verify_ssl"),
    ("AMQP_URL", f"amqps://u:{SECRET}@host/?no_verify_ssl=0&no_verify_ssl=1"),
    ("AMQP_URL", f"amqp://u:{SECRET}@host:port/"),
    ("AMQP_URL", ""),
    ("REDIS_URL", f"mysql://u:{SECRET}@host/"),
    ("REDIS_URL", "memory:"),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_cert_reqs=none"),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_cert_reqs=optional"),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_check_hostname=False"),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_cert_reqs="),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_ciphers=ALL:aNULL:@SECLEVEL=0"),
    ("REDIS_URL", f"rediss://u:{SECRET}@host/?ssl_min_version=TLSv1"),
    ("RESPONDER_REQUIRE_USER_ID", "["),
    ("RESPONDER_REQUIRE_USER_ID", ""),
    ("RESPONDER_REQUIRE_USER_ID", "(?u)shop"),
    ("RESPONDER_LOAD_TIMEOUT_S", "-1"),
    ("RESPONDER_NAMESPACE", "with space"),
    ("RESPONDER_PREFETCH", "0"),
    ("RESPONDER_PREFETCH", "many"),
    ("RESPONDER_PENDING", "-1"),
    ("RESPONDER_REDIS_TIMEOUT_S", "0"),
    ("RESPONDER_MAX_BODY_BYTES", "1e9"),
    ("RESPONDER_MAX_DEPTH", "4096"),
    ("RESPONDER_HEARTBEAT_S", "0.5"),
    ("RESPONDER_GRACE_S", "nan"),
    ("RESPONDER_QUEUE_TYPE", "mirrored"),
    ("RESPONDER_DECLARE", "perhaps"),
    ("RESPONDER_REPLY_TO_PATTERN", "("),
    ("RESPONDER_HEALTH_PORT", "99999"),
    ("RESPONDER_LOG", "xml"),
    ("RESPONDER_PREFECTH", "10"),
]


def check(environment: dict[str, str], *words: str) -> Result:
    """`responder check`, in this process."""
    return CliRunner().invoke(cli, ["check", *(words or ("examples.price:price",))], env=environment)


@pytest.mark.parametrize(("variable", "value"), WRONG)
def test_a_wrong_setting_is_one_line_that_names_its_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And never shows a password."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSettings) as wrong:
        Settings.from_environment()
    (line,) = str(wrong.value).splitlines()
    assert line.startswith(f"{variable}: ")
    assert SECRET not in line


def test_all_wrong_settings_are_told_at_once_with_status_2_and_no_traceback() -> None:
    """One run of the real command tells everything."""
    wrong = {"AMQP_URL": f"http://u:{SECRET}@h/", "RESPONDER_PREFETCH": "x", "RESPONDER_GRACES": "1"}
    command = [sys.executable, "-m", "prediction_responder", "check", "examples.price:price"]
    ended = subprocess.run(command, env=os.environ | wrong, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["RESPONDER_GRACES", "AMQP_URL", "RESPONDER_PREFETCH"]
    assert "did you mean RESPONDER_GRACE_S?" in lines[0]
    assert SECRET not in ended.stderr


def test_check_shows_what_is_in_force_and_no_secret() -> None:
    """As text and as JSON."""
    for flags in ((), ("--json",)):
        ended = check({"AMQP_URL": f"amqp://u:{SECRET}@host/"}, "examples.price:price", *flags)
        assert ended.exit_code == 0, ended.stderr
        assert "predictions.price" in ended.stdout
        assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("examples.price", "write it as module:name"),
        ("nowhere:price", "No module named 'nowhere'"),
        ("examples.price:prize", "did you mean 'price'?"),
        ("examples.price:Features", "decorate it with @predictor"),
        ("tests.unit.bad_models:no_annotation", "annotate `features` with a pydantic model"),
    ],
)
def test_a_model_that_cannot_be_found_is_one_line(path: str, says: str) -> None:
    """With what to change, and status 2."""
    ended = check({}, path)
    assert ended.exit_code == 2
    (line,) = ended.stderr.splitlines()
    assert says in line


def test_two_models_of_one_name_are_refused() -> None:
    """Their answers would mix."""
    ended = check({}, "examples.price:price", "examples.price:price")
    assert ended.exit_code == 2
    assert "two predictors are named 'price'" in ended.stderr


def test_settings_never_show_a_secret() -> None:
    """Neither in repr nor in a dump."""
    settings = Settings.model_validate({"AMQP_URL": f"amqp://u:{SECRET}@host/"})
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_the_page_of_settings_names_every_setting() -> None:
    """And no setting that does not exist."""
    table = (ROOT / "docs" / "reference" / "settings.md").read_text()
    known = {
        str(field.validation_alias or f"RESPONDER_{name.upper()}") for name, field in Settings.model_fields.items()
    }
    assert set(re.findall(r"`((?:RESPONDER|AMQP|REDIS)_[A-Z_]+)`", table)) == known
