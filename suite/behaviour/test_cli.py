"""The command line, as real processes."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bot.runtime.telegram.texts import Texts
from suite.bot_api import FakeTelegram, Webhook
from suite.support.command_line import BOT, environment, run, running

pytestmark = [pytest.mark.clause("cli"), pytest.mark.usefixtures("harness")]


def test_help_names_every_command(tmp_path: Path) -> None:
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    for command in ("run", "chat", "migrate", "doctor", "state"):
        assert f" {command} " in result.stdout
    result = run(tmp_path, "state", "--help")
    for command in ("list", "show", "export", "import", "forget"):
        assert f" {command} " in result.stdout


def test_chat_answers_piped_lines(tmp_path: Path) -> None:
    result = run(tmp_path, "chat", stdin="/help\n\n/start\n")
    assert result.returncode == 0
    help_, hello = result.stdout.split("/forget - Erase everything I keep about you\n")
    assert help_.startswith("/start - ")
    assert hello == "Hello! Write to me. I remember what you tell me; /help says what else I can do.\n"
    assert result.stderr == ""


DEFERRING = """
from bot.runtime.cli import main
from suite.counting_bot import counting_owner
from suite.owner import replace_owner

def deferring_owner():
    owner = counting_owner()
    owner.agent.deferred = True
    return owner

replace_owner(deferring_owner)
main()
"""


def test_chat_waits_for_answers_that_are_deferred(tmp_path: Path) -> None:
    """Another task gives them; that there is no reply is not true."""
    (tmp_path / "deferring.py").write_text(DEFERRING)
    result = run(tmp_path, "chat", stdin="hi\nthere\n", module="deferring")
    assert result.stdout == "Processed: hi (#1)\nProcessed: there (#2)\n"


def test_chat_offers_buttons_as_numbers(tmp_path: Path) -> None:
    result = run(tmp_path, "chat", stdin="/forget\n2\n/forget\n1\n")
    assert "  1) Erase everything\n  2) Keep it\n" in result.stdout
    assert result.stdout.index("Nothing was erased.") < result.stdout.index("I have forgotten everything")


def test_chat_shows_where_the_agent_failed(tmp_path: Path) -> None:
    """What was typed there was typed by who reads it: nothing is hidden."""
    result = run(tmp_path, "chat", stdin="raise\n")
    assert result.stdout == f"{Texts().sorry}\n"
    assert "RuntimeError: the agent raised\n" in result.stderr
    frames = [line for line in result.stderr.splitlines() if line.lstrip().startswith("File ")]
    assert [line.split('"')[1].rpartition("/")[2] for line in frames] == ["agents.py", "agents.py"]


def test_chat_shows_an_export(tmp_path: Path) -> None:
    result = run(tmp_path, "chat", stdin="/export\n")
    assert json.loads(result.stdout[result.stdout.index("{") :])["user_id"] == "1"


def test_chat_takes_bytes_that_are_no_text(tmp_path: Path) -> None:
    result = subprocess.run(
        [*BOT, "chat"],
        cwd=tmp_path,
        env=environment(tmp_path),
        input=b"\xff\xfe\n/start\n",
        capture_output=True,
        timeout=180,
    )
    assert result.returncode == 0
    assert b"Hello!" in result.stdout


def test_an_error_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "run", BOT_TOKEN="nonsense")
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr
        == "error: bad settings: BOT_TOKEN: is not a bot token; @BotFather gives one like 123456:ABC-DEF\n"
    )


def test_settings_come_from_a_file_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOT_TOKEN=nonsense\nPORT=http\n")
    assert "PORT: " in run(tmp_path, "migrate").stderr
    assert "PORT: " not in run(tmp_path, "migrate", PORT="80").stderr


def test_a_command_belongs_to_its_project_wherever_it_is_called(tmp_path: Path) -> None:
    """Its settings are there and, where a server for development is started, its records."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (project, elsewhere):
        folder.mkdir()
    (project / ".env").write_text("PORT=http\n")
    (elsewhere / ".env").write_text("NAMESPACE=not a name\n")
    result = subprocess.run(
        [*BOT, "migrate"],
        cwd=elsewhere,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert "PORT: " in result.stderr
    assert "NAMESPACE" not in result.stderr
    code = "from bot.runtime.config import DATA; print(DATA)"
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=elsewhere, env=environment(project))
    assert printed.decode().strip() == str(project / ".data")
    assert [each.name for each in elsewhere.iterdir()] == [".env"]


def test_version_and_help_in_their_usual_forms(tmp_path: Path) -> None:
    assert re.match(r"bot \S+ \(\w+, aiogram 3\.\S+, Python 3\.\S+\)$", run(tmp_path, "--version").stdout)
    assert " chat " in run(tmp_path, "-h").stdout
    assert " list " in run(tmp_path, "state", "-h").stdout
    assert " chat " in run(tmp_path, "--help", module="bot").stdout


def test_no_command_imports_aiogram_without_need(tmp_path: Path) -> None:
    for arguments in (["--help"], ["state", "show", "1"], ["migrate"]):
        code = (
            "import sys; from bot.runtime.cli import main\n"
            f"sys.argv = ['bot', *{arguments!r}]\n"
            "try:\n    main()\n"
            "except SystemExit:\n    pass\n"
            "print([name for name in sys.modules if name.startswith('aiogram')])"
        )
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert result.stdout.splitlines()[-1] == "[]", arguments


def test_doctor_without_a_token(tmp_path: Path) -> None:
    result = run(tmp_path, "doctor")
    assert result.returncode == 1
    assert "error  BOT_TOKEN is not set" in result.stdout
    assert result.stderr == ""


def test_doctor_names_a_bad_webhook(tmp_path: Path) -> None:
    assert (
        "port that Telegram does not use"
        in run(tmp_path, "doctor", WEBHOOK_URL="https://bot.example:8080").stdout
    )


@pytest.mark.parametrize(("token", "code"), [("42:TEST", 0), ("42:WRONG", 1)])
async def test_doctor_asks_telegram(tmp_path: Path, token: str, code: int) -> None:
    async with FakeTelegram(token="42:TEST") as telegram:
        settings = {"BOT_TOKEN": token, "TELEGRAM_API_URL": telegram.url}
        result = await asyncio.to_thread(run, tmp_path, "doctor", **settings)
    assert result.returncode == code
    expected = "Telegram knows this bot as @" if code == 0 else "Telegram does not know this bot"
    assert expected in result.stdout
    assert token not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("wanted", "there", "says"),
    [
        ("https://bot.example", "", "no webhook is set"),
        ("https://bot.example", "https://bot.example/", ""),  # as Telegram writes it
        ("https://bot.example/hook", "https://other.example/hook", "another webhook is set"),
    ],
)
async def test_doctor_compares_the_webhook(tmp_path: Path, wanted: str, there: str, says: str) -> None:
    async with FakeTelegram() as telegram:
        telegram.webhook = Webhook(there, "", 40) if there else None
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url, "WEBHOOK_URL": wanted}
        result = await asyncio.to_thread(run, tmp_path, "doctor", **settings)
    assert result.returncode == 0
    said = [line for line in result.stdout.splitlines() if "webhook is set" in line]
    assert len(said) == bool(says)
    assert says in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mode", ["polling", "webhook"])
@pytest.mark.clause("shutdown.graceful")
async def test_a_signal_in_mid_handler_loses_nothing(
    tmp_path: Path, number: signal.Signals, mode: str
) -> None:
    async with FakeTelegram() as telegram:
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url}
        if mode == "webhook":
            settings["WEBHOOK_URL"] = "https://bot.example/hook"
        async with running(tmp_path, "run", **settings) as process:
            assert process.stderr
            while b"listening" not in (line := await process.stderr.readline()):
                assert line, "it ended"
            port = int(line.partition(b"port=")[2])
            telegram.webhook_address = f"http://127.0.0.1:{port}"
            telegram.delay("sendMessage", 0.5, times=1)
            telegram.message("/start", user_id=1)
            await telegram.wait_for(lambda: any(call.method == "sendMessage" for call in telegram.calls))
            process.send_signal(number)
            assert await asyncio.wait_for(process.wait(), timeout=120) == 0
        await telegram.settled(120)
    assert len(telegram.texts(1)) == 1


STOPPED = """
import asyncio, os, signal, sys, threading
from bot.runtime.cli import _stop_on_signals

def send(): os.kill(os.getpid(), signal.{number})

real_start = threading.Timer.start
def start(timer):
    send()  # another one, in the midst of the first
    real_start(timer)
threading.Timer.start = start

async def work():
    stop = _stop_on_signals(at_the_latest=60)
    if "early" in sys.argv:
        send()
        await stop.wait()
    send()

asyncio.run(work())
send()  # the loop is closed
print("done")
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("moment", ["early", "late"])
@pytest.mark.clause("shutdown.graceful")
def test_further_signals_change_nothing(number: str, moment: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.replace("{number}", number), moment],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.clause("shutdown.graceful")
async def test_an_agent_that_lets_nothing_stop_it_does_not_keep_the_bot(tmp_path: Path) -> None:
    async with FakeTelegram() as telegram:
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url, "AGENT_TIMEOUT": "0.3"}
        async with running(tmp_path, "run", SHUTDOWN_TIMEOUT="300", **settings) as process:
            telegram.message("cling 600", user_id=1)
            await telegram.settled(60)
            assert telegram.texts(1) == [Texts().sorry]
            process.terminate()
            assert await asyncio.wait_for(process.wait(), timeout=120) == 0


@pytest.mark.clause("logs.no-secrets")
async def test_logs_can_be_json(tmp_path: Path) -> None:
    async with FakeTelegram() as telegram:
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url}
        async with running(tmp_path, "run", LOG_FORMAT="json", **settings) as process:
            update_id = telegram.message("my secret words", user_id=77)
            await telegram.settled()
            process.terminate()
            assert process.stderr
            logged = (await process.stderr.read()).decode()
    lines = [json.loads(line) for line in logged.splitlines()]
    (done,) = [line for line in lines if line["event"] == "update done"]
    assert (done["update_id"], done["user_id"], done["outcome"]) == (update_id, "77", "handled")
    assert telegram.token not in logged
    assert "my secret words" not in logged


@pytest.mark.clause("reply.at-least-once")
async def test_a_killed_bot_gets_its_updates_again(tmp_path: Path) -> None:
    async with FakeTelegram() as telegram:
        settings = {"BOT_TOKEN": telegram.token, "TELEGRAM_API_URL": telegram.url}
        telegram.delay("sendMessage", 30, times=1)
        async with running(tmp_path, "run", **settings) as process:
            telegram.message("/start", user_id=1)
            await telegram.wait_for(lambda: any(call.method == "sendMessage" for call in telegram.calls))
            process.kill()
        assert telegram.texts(1) == []
        async with running(tmp_path, "run", **settings):
            await telegram.settled()
        assert len(telegram.texts(1)) == 1


def test_the_terminal_is_pleasant(tmp_path: Path) -> None:
    """A prompt, colours, arrow keys that bring back what was typed, and Ctrl-D to leave."""
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    import fcntl
    import select
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*BOT, "chat"],
        cwd=tmp_path,
        env=environment(tmp_path, TERM="xterm-256color") | {"NO_COLOR": ""},
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    seen = b""

    def read_until(text: bytes, count: int = 1) -> None:
        nonlocal seen
        while seen.count(text) < count:
            ready, _, _ = select.select([parent], [], [], 30)
            assert ready, f"no {text!r} in {seen!r}"
            chunk = os.read(parent, 65_536)
            seen += chunk
            if b"\x1b[6n" in chunk:
                os.write(parent, b"\x1b[1;1R")

    prompted = b"\x1b[?2004h"
    read_until(prompted)
    os.write(parent, b"/start\r")
    read_until(b"Hello!")
    read_until(prompted, count=2)
    time.sleep(0.3)  # the prompt loads its history beside
    os.write(parent, b"\x1b[A")
    read_until(b"/start", count=seen.count(b"/start") + 1)
    os.write(parent, b"\r")
    read_until(b"Hello!", count=2)
    assert b"you>" in seen
    assert b"\x1b[0;36mHello!" in seen
    read_until(prompted, count=3)
    os.write(parent, b"\x04")
    assert process.wait(timeout=120) == 0
    os.close(parent)
