"""Every error of the command line, as the person sees it who typed the command.

One line that says what is wrong and what to do, and an exit code. In this process: each costs milliseconds.
What only another engine or provider says is in `tests/messages.txt`, which is read in the same way.
"""

import asyncio
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bot.runtime import cli
from bot.runtime.app import Owner
from bot.runtime.chosen import ENGINE
from bot.runtime.config import Environment, _encoding_of
from bot.runtime.telegram import receiver
from suite.agents import CountingAgent
from suite.bot_api import FakeTelegram
from suite.parts import outlives_the_process

pytestmark = [pytest.mark.clause("cli"), pytest.mark.usefixtures("harness")]

TOKEN = {"BOT_TOKEN": "42:TEST"}

WHAT_TO_DO = re.compile(
    r"\b(call|cancel|check|choose|create|deploy|fix|get|gives?|has to|is a quote not closed|leave|make|"
    r"must (be|begin)|names? (another|the|its|one)|needs?|put|run|save|see|set|should be|shows?|stop|"
    r"takes?|unset|use|wants?|write)\b"
)
"""What people are told: to do something, what is wanted, or where more is shown."""


@dataclass(frozen=True)
class Case:
    """What is typed, and what is said.

    Attributes:
        arguments: after `bot`.
        says: how the line begins, after `error: `, as a pattern.
        settings: variables of the environment.
        file: what is in `.env`.
        code: the exit code.
    """

    arguments: str
    says: str
    settings: dict[str, str] = field(default_factory=dict)
    file: bytes | None = None
    code: int = 1


def bad(name: str, value: str, says: str) -> Case:
    """A setting that cannot be used."""
    return Case("run", f"bad settings: {name}: {says}", {**TOKEN, name: value})


SETTINGS = [
    Case("run", r"BOT_TOKEN is not set: get a token from @BotFather and put BOT_TOKEN=\.\.\. into \.env$"),
    bad("BOT_TOKEN", "nonsense", "is not a bot token; @BotFather gives one like 123456:ABC-DEF$"),
    bad("PORT", "http", "Input should be a valid integer"),
    bad("PORT", "70000", "Input should be less than or equal to 65535$"),
    bad("LOG_LEVEL", "loud", "Input should be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'$"),
    bad("AGENT_TIMEOUT", "0", "Input should be greater than 0$"),
    bad("WEBHOOK_URL", "bot.example", "must be an address like https://bot.example.com/telegram$"),
    bad("WEBHOOK_URL", "https://b:x", "must be an address like"),
    bad("WEBHOOK_URL", "http://bot.example", "must begin with https://, which Telegram requires$"),
    bad("WEBHOOK_SECRET", "not allowed!", "must be 16 to 256 of the characters"),
    bad("NAMESPACE", "a b", "must be 2 to 40 of the characters"),
    bad("TELEGRAM_PROXY", "nonsense:1", r"must be an address like socks5://host:1080"),
    bad("TELEGRAM_API_URL", "nonsense", "must be an address like"),
    Case(
        "run",
        r"bad settings: (BOT_TOKEN: .*; PORT: |PORT: .*; BOT_TOKEN: )",
        {"BOT_TOKEN": "nonsense", "PORT": "http"},
    ),
    Case(
        "run", "HTTPS_PROXY or ALL_PROXY: must be an address like", {**TOKEN, "HTTPS_PROXY": "nonsense://x"}
    ),
    *(
        Case("migrate", "bad settings: WEBHOOK_SECRET: must be .*; PORT: ", file=content)
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1")
        for content in ("PORT=http\r\nWEBHOOK_SECRET=für uns\r\n".encode(encoding),)
    ),
    *(
        Case("migrate", r"\S+/\.env, line 2 is not NAME=VALUE: is a quote not closed\?$", file=content)
        for line in ("BOT_TOKEN='42:x", 'BOT_TOKEN="42:x', "export 'BOT_TOKEN")
        for content in (f"# mine\n{line}\nPORT=80\n".encode(),)
    ),
    Case("migrate", r"\S+/\.env cannot be read \(UnicodeDecodeError\): save it as UTF-8$", file=b"\xff\xfeX"),
]

STATE = (
    [
        Case("state show 8", "nothing is kept about user 8: `bot state list` shows"),
        Case("state import {folder}/bad.jsonl", r"\S+/bad.jsonl, line 1: .*fix the line and import again\)$"),
        Case("state export {folder}/none/x", r"cannot write \S+/none/x \(No such file or directory\): "),
    ]
    if outlives_the_process()
    else [
        Case(
            f"state {command}",
            f"the {ENGINE} store keeps nothing outside the running bot; in a chat, /export",
        )
        for command in ("list", "show 1", "export x", "forget 1 --yes")
    ]
)

RUNNING = [
    Case(
        "run",
        r"Telegram does not know this bot: check BOT_TOKEN \(and TELEGRAM_API_URL\)$",
        {"BOT_TOKEN": "42:WRONG"},
    ),
    Case("run", r"cannot listen on 127.0.0.1:\d+ \(.*\): set HOST or PORT$", {**TOKEN, "PORT": "{taken}"}),
    Case(
        "run",
        "Telegram refuses WEBHOOK_URL, set another: Bad Request: bad webhook: no such port$",
        {**TOKEN, "WEBHOOK_URL": "https://bot.example:8080"},
    ),
    Case("run", "another program polls with this BOT_TOKEN: stop it, or use a token of your own$", TOKEN),
]

AWAY: dict[str, dict[str, str]] = {
    "redis": {"REDIS_URL": "redis://127.0.0.1:1/0", "REDIS_CONNECT_TIMEOUT": "0.1"},
    "hybrid": {"REDIS_URL": "redis://127.0.0.1:1/0", "REDIS_CONNECT_TIMEOUT": "0.1"},
}
"""By engine, where there is no server."""

if ENGINE in AWAY:
    there = AWAY[ENGINE]
    RUNNING.append(Case("run", f"the {ENGINE} store cannot be used: .*`bot doctor` ", {**TOKEN, **there}))
    STATE += [
        Case(arguments, f"the {ENGINE} store cannot be used: .*`bot doctor` ", there)
        for arguments in ("state list", "chat")
    ]


@pytest.fixture
def telegram_elsewhere() -> Iterator[FakeTelegram]:
    """A fake Telegram in a thread of its own: the command line has its own event loop here."""
    telegram = FakeTelegram()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(telegram.start(), loop).result(10)
    yield telegram
    asyncio.run_coroutine_threadsafe(telegram.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@contextmanager
def signals_as_before() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


class Person:
    """Types commands, and reads what they say."""

    def __init__(self, folder: Path, captured: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._captured = captured
        self._patch = patch

    def types(self, case: Case, **told: str) -> tuple[int, str]:
        """The exit code, and what stands on standard error."""
        self._captured.readouterr()
        file = self.folder / ".env"
        file.write_bytes(case.file or b"")
        arguments = [each.format(folder=self.folder) for each in case.arguments.split()]
        with self._patch.context() as patch, signals_as_before():
            patch.setattr(sys, "argv", ["bot", *arguments])
            for kind in Environment.__subclasses__():
                patch.setitem(kind.model_config, "env_file", file)
                patch.setitem(kind.model_config, "env_file_encoding", _encoding_of(file))
            for name, value in case.settings.items():
                patch.setenv(name, value.format(**told))
            with pytest.raises(SystemExit) as ended:
                cli.main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), self._captured.readouterr().err


@pytest.fixture
def person(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Person:
    monkeypatch.setattr("bot.runtime.app.load_owner", lambda: Owner(agent=CountingAgent))
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    monkeypatch.setenv("HOST", "127.0.0.1")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "bad.jsonl").write_text("nonsense\n")
    return Person(tmp_path, capsys, monkeypatch)


def check(case: Case, code: int, written: str) -> None:
    """Read an error as the person does."""
    assert code == case.code
    assert written.count("\n") == 1, "one line"
    assert written.startswith("error: ")
    line = written.removeprefix("error: ").removesuffix("\n")
    assert re.match(case.says, line)
    assert WHAT_TO_DO.search(line), "and now?"
    assert not re.search(r"Traceback|ValidationError|<class|<bot\.|\.$", line)
    for secret in ("nonsense", "not allowed!", "für uns", "42:"):
        assert secret not in line


@pytest.mark.parametrize("case", [*SETTINGS, *STATE], ids=lambda case: f"{case.arguments}-{case.says[:40]}")
def test_an_error_is_a_line_that_says_what_to_do(person: Person, case: Case) -> None:
    check(case, *person.types(case))


@pytest.mark.parametrize("case", RUNNING, ids=lambda case: case.says[:40])
def test_so_is_what_ends_a_bot_that_runs(
    person: Person, case: Case, telegram_elsewhere: FakeTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "RIVAL_SECONDS", -1)
    monkeypatch.setenv("TELEGRAM_API_URL", telegram_elsewhere.url)
    if "PORT" not in case.settings:
        monkeypatch.setenv("PORT", "0")
    if "another program" in case.says:
        telegram_elsewhere.fail("getUpdates", status=409, times=100)
    if "refuses WEBHOOK_URL" in case.says:
        telegram_elsewhere.fail(
            "setWebhook", status=400, description="Bad Request: bad webhook: no such port"
        )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check(case, *person.types(case, taken=str(taken.getsockname()[1])))


@pytest.mark.parametrize(
    "typed", ["nonsense", "state nonsense", "run --nonsense", "state show", "chat --user me"]
)
def test_what_cannot_be_typed_says_how_to_get_help(person: Person, typed: str) -> None:
    code, written = person.types(Case(typed, ""))
    assert code == 2
    assert re.search(r"Try '.* -h' for help", written)
    assert "Traceback" not in written
