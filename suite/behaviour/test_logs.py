"""What logs may not show, from wherever it comes, and what they show all the same."""

import asyncio
import html
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import structlog
from pydantic import SecretStr

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime import logs
from bot.runtime.config import Environment, Settings
from bot.runtime.logs import configure_logs, plain
from suite.bot_api import FakeTelegram
from suite.contract.harness import Harness
from suite.support.command_line import run
from suite.support.runtime import MakeRuntime, Mode
from suite.support.said import SAID, fail

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
        env=os.environ | {"TOKEN": TOKEN, "LOG_CONTENT": "true"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert "mind ***" in done.stderr
    assert "the program failed" in done.stderr
    assert "RuntimeError: ***" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize(
    "secret", ["it's", 'a"b"c', "back\\slash", "pässwörd", "p🔑ss", "two\nlines", "a b/c", "1<2&3", "%3a%zz"]
)
def test_secrets_are_struck_out_however_they_are_written(
    capfd: pytest.CaptureFixture[str], secret: str
) -> None:
    configure_logs(Settings.model_validate({"log_level": "DEBUG"}))
    Elsewhere(some_password=SecretStr(secret))
    ways = [
        secret, repr(secret), repr([secret, "'"]), repr(repr(secret)), ascii(secret), str(secret.encode()),
        json.dumps(secret), json.dumps({"k": json.dumps(secret)}), json.dumps(secret, ensure_ascii=False),
        quote(secret), quote(secret, safe=""), quote(secret, safe="").lower(), quote_plus(secret),
        quote(quote(secret)), html.escape(secret), secret.encode("ascii", "xmlcharrefreplace").decode(),
    ]  # fmt: skip
    for way in ways:
        assert "***" in plain(f"<{way}>"), way
        logging.getLogger("library").info(f"begin {way} end")
        structlog.get_logger().info("x", key=way, nested={"password": [way]}, error=ValueError(way))
        try:
            raise KeyError(way)
        except KeyError:
            structlog.get_logger().exception("failed")
    written = capfd.readouterr().err
    for way in ways:
        assert way not in written


def test_a_secret_that_is_a_number(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    Elsewhere(some_password=SecretStr("73317331"))
    structlog.get_logger().info("x", key=73317331, nested=[73317331])
    assert "73317331" not in capfd.readouterr().err


def test_passwords_are_known_in_any_case_of_their_escapes(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    Elsewhere(some_url=SecretStr("scheme://user:pa%3ass%2fword@host"))
    structlog.get_logger().info("x", one="pa%3Ass%2Fword", other="pa%3ass%2Fword", plain="pa:ss/word")
    assert capfd.readouterr().err.count("***") == 3


FORGED = "2026-01-01 [error    ] forged"
NASTY = f"said\n{FORGED}\r\x1b[2K\x1b]0;title\x07\x85\u2028\u202e{FORGED}"


@pytest.mark.parametrize("format_", ["console", "json"])
def test_no_text_can_forge_a_line(capfd: pytest.CaptureFixture[str], format_: str) -> None:
    settings = Settings.model_validate({"log_format": format_, "log_level": "DEBUG"})
    configure_logs(settings)
    log = structlog.get_logger()
    log.info(NASTY)
    log.info("event", **{NASTY: NASTY}, bare="\x1b[31m", nested={NASTY: [NASTY]}, error=ValueError(NASTY))
    logging.getLogger(NASTY).warning("%s", NASTY)
    error = ValueError(NASTY)
    error.add_note(NASTY)
    try:
        try:
            raise type(NASTY, (Exception,), {})(NASTY)
        except Exception:
            exec(compile("raise error", NASTY, "exec"))
    except ValueError:
        log.exception(NASTY)
    try:
        raise ExceptionGroup(NASTY, [error, ValueError(NASTY)])
    except ExceptionGroup:
        logging.getLogger("library").exception(NASTY)
    written = capfd.readouterr().err
    assert all(line.isprintable() for line in written.split("\n"))
    assert not [line for line in written.split("\n") if line.startswith("2026-01-01")]
    assert plain(NASTY).isprintable()


@pytest.mark.parametrize(("level", "format_"), [("INFO", "console"), ("INFO", "json"), ("ERROR", "console")])
def test_what_people_say_is_not_shown(level: str, format_: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "suite.support.said"],
        env=os.environ | {"LOG_LEVEL": level, "LOG_FORMAT": format_},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 1
    assert SAID not in done.stderr
    for found in (
        "LookupError",
        "KeyError",
        "ExceptionGroup",
        "said.py",
        "in fail",
        "LOG_CONTENT=true",
    ):
        assert found in done.stderr, "an error can be found all the same"
    for found in ("a thread failed", "an exception was ignored", "Task exception was never retrieved",
                  "Exception in callback", "the program failed"):  # fmt: skip
        assert found in done.stderr
    if level != "ERROR":
        assert ("filled in: … and …" if format_ == "console" else "filled in: \\u2026") in done.stderr
        assert "UserWarning" in done.stderr


@pytest.mark.parametrize("asking", [{"log_content": True}, {"log_level": "DEBUG"}])
def test_what_people_say_is_shown_to_who_asks(
    capfd: pytest.CaptureFixture[str], asking: dict[str, Any]
) -> None:
    configure_logs(Settings.model_validate(asking))
    log = structlog.get_logger()
    try:
        fail(SAID)
    except LookupError as error:
        log.exception("caught")
        log.warning("refused", reason=error)
    assert f"LookupError: {SAID}\n" in (written := capfd.readouterr().err)
    assert f"reason='LookupError: {SAID}'" in written
    logging.getLogger("library").warning("filled in: %s", SAID)
    assert f"filled in: {SAID}" in capfd.readouterr().err


def test_what_the_owner_logs_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    logging.getLogger("bot.agent").info("began: %s", 5)
    structlog.get_logger().info("began", number=6)
    logging.getLogger("bot.agent").info("began: %d", "x")
    written = capfd.readouterr().err
    assert "began: 5" in written
    assert "number=6" in written
    assert "began: %d ('x',)" in written


class Talkative(TelegramAgentAdapter):
    """Fails in every way, with what was said in the error and in the keys of the state."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        match message.split():
            case ["raise", said]:
                raise RuntimeError(f"cannot answer {said}")
            case ["key", said]:
                state[said] = {1, 2}
            case ["hoard", said]:
                state[said] = "x" * 10**6
            case ["background", said]:
                self.background(self.fail, said)
            case ["task", said]:
                self.task = asyncio.create_task(self.fail(said))
                await asyncio.sleep(0.05)
                del self.task
        return message

    async def fail(self, said: str) -> None:
        raise RuntimeError(f"cannot do {said}")

    async def on_error(self, error: Exception) -> str | None:
        raise ValueError(f"cannot report {error} {self.turn.state}") from error


async def test_a_bot_that_fails_repeats_nothing(
    capfd: pytest.CaptureFixture[str],
    make_runtime: MakeRuntime,
    telegram: FakeTelegram,
    mode: Mode,
    harness: Harness,
) -> None:
    configure_logs(Settings())  # to where capfd looks
    telegram.fail("sendMessage", status=400, description=f'Bad Request: can\'t parse entities: "{SAID}"')
    telegram.fail("sendMessage", status=403, description=f"Forbidden: {SAID}", after=1)
    telegram.fail("sendMessage", status=500, description=f"Internal: {SAID}", after=2)
    if mode == "polling":
        telegram.fail("getUpdates", status=500, description=f"Internal: {SAID}", after=1)
    async with make_runtime(mode, agent_class=Talkative) as bot:
        for text in (
            SAID,
            SAID,
            SAID,
            *(f"{way} {SAID}" for way in ("raise", "key", "hoard", "background", "task")),
        ):
            telegram.message(text, user_id=1)
        await telegram.settled(60)
        telegram.push({"message": {"chat": {"id": 5, SAID: [SAID]}, "text": {"a": SAID}}})
        telegram.push({"kind": {"text": SAID}})
        await telegram.settled(60)
        await bot.agent.drain(5)
        reader, writer = await asyncio.open_connection("127.0.0.1", bot.port)
        writer.write(f"{SAID} / HTTP/9.{SAID}\r\n{SAID}\r\n\r\n".encode())
        await reader.read()
        writer.close()
        await harness.corrupt("1")
        telegram.message(SAID, user_id=1)
        await telegram.settled(60)
    written = capfd.readouterr().err
    assert SAID not in written
    for found in (
        "RuntimeError", "ValueError", "StateValueError", "state[…] is a set", "STATE_MAX_BYTES", "in fail",
        "background work failed", "on_error failed itself", "update not understood", "TelegramForbiddenError",
        "can't parse entities", "record is corrupt",
    ):  # fmt: skip
        assert found in written, found


def test_commands_repeat_nothing_of_what_is_kept(tmp_path: Path, harness: Harness) -> None:
    lines: list[dict[str, Any]] = [
        {"state": {SAID: {"a": 2**70}}},
        {"state": {}, SAID: 1},
        {"state": {}, "fsm": {SAID: {SAID: 1}}},
        {"state": {"\x1b[2K\x00": 1}},
    ]
    if not harness.settings():
        pytest.skip("nothing is kept outside the bot")
    for number, line in enumerate(lines):
        record = {"user_id": "1", "history": [], "fsm": {}, "applied": [], "outbox": {}} | line
        (file := tmp_path / f"{number}.jsonl").write_text(json.dumps(record))
        done = run(tmp_path, "state", "import", str(file), **harness.settings())
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "line 1: " in done.stderr
        assert SAID not in done.stderr
        assert "\x1b" not in done.stderr


class Fails(TelegramAgentAdapter):
    """Fails in a function of its own, for a reason that a library has."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return await self.ask(message)

    async def ask(self, message: str) -> str:
        try:
            return str(json.loads(message))
        except ValueError as error:
            raise RuntimeError("not asked") from error


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
async def test_a_failed_agent_shows_its_owners_frames(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str], level: str
) -> None:
    """Where it was called from and what a library did is for who asks."""
    async with make_runtime("webhook", agent_class=Fails, log_level=level) as bot:
        configure_logs(bot.settings)
        telegram.message("hi", user_id=1)
        await telegram.settled()
    lines = capfd.readouterr().err.partition("update failed")[2].split("update done")[0].splitlines()
    lines = [line for line in lines if line.startswith("  ")]
    frames = [line.split('"')[1] for line in lines if line.lstrip().startswith("File ")]
    errors = [line.strip().partition(":")[0] for line in lines if "Error: " in line]
    assert errors[-2:] == ["json.decoder.JSONDecodeError", "RuntimeError"]
    if level == "INFO":
        assert set(frames) == {__file__}
        assert len(frames) == 3
        assert len(lines) < 20
        assert "LOG_LEVEL=DEBUG" in lines[-1]
    else:
        assert {Path(frame).name for frame in frames} > {"test_logs.py", "decoder.py", "agent.py"}


class Silent(TelegramAgentAdapter):
    """Forgot the `return`."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        return None  # type: ignore[return-value]


async def test_a_reply_that_is_none_is_named_without_frames(
    make_runtime: MakeRuntime, telegram: FakeTelegram, capfd: pytest.CaptureFixture[str]
) -> None:
    async with make_runtime("webhook", agent_class=Silent) as bot:
        configure_logs(bot.settings)
        telegram.message("hi", user_id=1)
        await telegram.settled()
    lines = capfd.readouterr().err.partition("update failed")[2].split("update done")[0].splitlines()
    lines = [line for line in lines if line.startswith("  ")]
    assert "WrongReply: Silent.agent_logic returned NoneType, not str" in lines[0]
    assert len(lines) == 2


def test_a_file_that_cannot_be_parsed_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "OWN_FOLDERS", (str(tmp_path),))
    configure_logs(Settings())
    file = tmp_path / "agent.py"
    file.write_text("x = 1\ndef y(:\n")
    with pytest.raises(SyntaxError) as raised:
        compile(file.read_text(), str(file), "exec")
    structlog.get_logger().error("failed", exc_info=raised.value)
    lines = capfd.readouterr().err.splitlines()
    assert f'File "{file}", line 2' in lines[2]
    assert "def y(:" in lines[3]
    assert len(lines) <= 6


async def test_an_error_that_is_not_the_owners_has_all_its_frames(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings())
    with pytest.raises(json.JSONDecodeError) as raised:
        json.loads("nonsense")
    trace = raised.value.__traceback__
    error = raised.value.with_traceback(trace and trace.tb_next)  # without that of this file
    structlog.get_logger().error("failed", exc_info=error)
    assert "decoder.py" in capfd.readouterr().err
