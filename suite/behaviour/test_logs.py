"""What logs may not show, from wherever it comes."""

import logging
import os
import subprocess
import sys

import pytest
import structlog
from pydantic import SecretStr

from bot.runtime.config import Environment, Settings
from bot.runtime.logs import configure_logs

pytestmark = pytest.mark.clause("logs.no-secrets")

TOKEN = "42:AAE-secret-part_of_a_token"


class Elsewhere(Environment):
    """Settings of something else."""

    some_url: SecretStr | None = None
    some_password: SecretStr | None = None


@pytest.mark.parametrize("format_", ["console", "json"])
def test_secrets_of_all_settings_are_struck_out(capfd: pytest.CaptureFixture[str], format_: str) -> None:
    settings = Settings.model_validate(
        {
            "bot_token": TOKEN,
            "webhook_secret": "a-webhook-secret",
            "log_format": format_,
            "log_level": "DEBUG",
        }
    )
    configure_logs(settings)
    url = "scheme://user:pass%3Aword@host:1/db?password=an%40other"
    Elsewhere(some_url=SecretStr(url), some_password=SecretStr("plain-password"))  # read after logs began
    secrets = [
        TOKEN, TOKEN.partition(":")[2], "a-webhook-secret", url, "pass%3Aword", "pass:word",
        "an%40other", "an@other", "plain-password",
    ]  # fmt: skip
    log, library = structlog.get_logger(), logging.getLogger("library")
    for secret in secrets:
        log.info(f"event {secret}", key=secret, nested={secret: [secret]}, error=ValueError(secret))
        library.debug("line %s", {"a": secret})
        for write in (log.exception, library.exception):
            try:
                raise RuntimeError(f"https://api.example/bot{secret}/getMe")
            except RuntimeError:
                write("failed")
    written = capfd.readouterr()
    assert written.err.count("***") >= 6 * len(secrets)
    for secret in secrets:
        assert secret not in written.err + written.out


def test_what_python_itself_says_goes_the_same_way() -> None:
    program = (
        "import os, warnings\n"
        "from bot.runtime.config import Settings\n"
        "from bot.runtime.logs import configure_logs\n"
        "settings = Settings(bot_token=os.environ['TOKEN'], _env_file=None)\n"
        "configure_logs(settings)\n"
        "warnings.warn(f'mind {settings.token}')\n"
        "raise RuntimeError(settings.token)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert "mind ***" in done.stderr
    assert "the program failed" in done.stderr
    assert "RuntimeError: ***" in done.stderr
    assert TOKEN not in done.stderr
