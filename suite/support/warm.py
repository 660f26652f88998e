"""Python processes that begin with their packages imported: a second of a processor less for each.

`start` and `run` are to a test what `python -m MODULE` is: a child of its own process, with its own module,
arguments, environment, folder and files, and signals reach it alone. But it is forked from a process that has
imported what bots need of other people's packages, and nothing of a bot. Where that cannot be done, as on
macOS, or with another Python, the process is started in the usual way.
"""

import asyncio
import atexit
import ctypes
import gc
import io
import json
import os
import runpy
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
BOT = ROOT if (ROOT / "bot").is_dir() else ROOT / "template"
"""Where a bot is that shows how aiogram is imported; in its own repository, the kit stands beside none."""

COMMON = (
    *("aiohttp.web", "pydantic_settings", "prometheus_client", "orjson", "dotenv", "uvloop"),
    *("structlog", "rich.console", "rich.traceback", "typer", "aiohttp_socks", "prompt_toolkit"),
)
"""What bots import, besides aiogram."""

OF_ENGINES = (
    "alembic.command",
    "aiobotocore.session",
    "apsw",
    "asyncpg",
    "redis.asyncio",
    "sqlalchemy.ext.asyncio",
)
"""What some engines do, as may the test."""

AT_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_")
"""Variables that Python or its libraries read when they start begin with these."""

SUBREAPER = 36
"""The option of `prctl` by which orphans below a process become its children."""

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Variables that add to the certificates that are trusted."""

Output = int | io.BufferedWriter | None


class Process:
    """What a test uses of `asyncio.subprocess.Process`, for a child that was forked elsewhere."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        with suppress(RuntimeError):  # the loop was closed before
            self._loop.call_soon_threadsafe(self._end, code)

    def _end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()

    async def wait(self) -> int:
        """Wait until it has ended; its exit code."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    async def communicate(self) -> tuple[bytes | None, bytes | None]:
        """Read what it writes until it has ended."""

        async def read(stream: asyncio.StreamReader | None) -> bytes | None:
            return await stream.read() if stream else None

        out, err, _ = await asyncio.gather(read(self.stdout), read(self.stderr), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        if self.returncode is not None:
            raise ProcessLookupError
        with suppress(ProcessLookupError):  # it ended at this moment
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


class _Nursery:
    """The process from which others are forked."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        wanted = [name for name in OF_ENGINES if name.partition(".")[0] in sys.modules]
        self._connection = ours
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno()), *COMMON, *wanted],
            cwd=ROOT,
            env={**os.environ, **variables, "PYTHONPATH": str(BOT)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._one_at_a_time = threading.Lock()
        self._libc = ctypes.CDLL(None)
        atexit.register(self.close)

    def fork(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], files: Sequence[int]
    ) -> int:
        """Begin a process; its id. It is a child of this one."""
        request = json.dumps([[*arguments], str(folder), dict(environment)]).encode()
        with self._one_at_a_time:
            self._libc.prctl(SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._connection, [request], files)
                answer = self._connection.recv(64)
            finally:
                self._libc.prctl(SUBREAPER, 0, 0, 0, 0)
        return int(answer)

    def close(self) -> None:
        """End it."""
        self._connection.close()
        self._process.wait()


_nurseries: dict[tuple[tuple[str, str], ...], _Nursery] = {}


def _nursery(command: Sequence[str], environment: Mapping[str, str]) -> _Nursery | None:
    """Where to fork this command; `None` when it has to be started in the usual way."""
    if sys.platform != "linux" or command[:2] != [sys.executable, "-m"]:
        return None
    chosen = {
        name: value
        for name, value in environment.items()
        if name.startswith(AT_THE_START) and name not in ("PYTHONPATH", "PYTHONWARNINGS")
    }
    key = tuple(sorted(chosen.items()))
    if key not in _nurseries:
        _nurseries[key] = _Nursery(chosen)
    return _nurseries[key]


async def start(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: Output = None,
    stderr: Output = None,
) -> Process | asyncio.subprocess.Process:
    """Begin `python -m MODULE ARGUMENT...` in a folder; `stdout` and `stderr` as for `asyncio.subprocess`."""
    if not (nursery := _nursery(command, env)):
        return await asyncio.create_subprocess_exec(*command, cwd=cwd, env=env, stdout=stdout, stderr=stderr)
    files, pipes = [os.open(os.devnull, os.O_RDONLY)], []
    for number, output in ((1, stdout), (2, stderr)):
        if output == asyncio.subprocess.PIPE:
            ours, theirs = os.pipe()
            pipes.append(ours)
            files.append(theirs)
        else:
            pipes.append(-1)
            files.append(os.dup(number if output is None else output.fileno()))  # type: ignore[union-attr]
    process = Process(nursery.fork(command[2:], cwd, env, files))
    for file in files:
        os.close(file)
    process.stdout, process.stderr = [await _reader(pipe) if pipe >= 0 else None for pipe in pipes]
    return process


async def _reader(pipe: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    file = os.fdopen(pipe, "rb", 0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
    return reader


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdin: str = "", timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run `python -m MODULE ARGUMENT...` in a folder to its end; it has `timeout` seconds."""
    if not (nursery := _nursery(command, env)):
        return subprocess.run(
            command, cwd=cwd, env=env, input=stdin, capture_output=True, text=True, timeout=timeout
        )
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        said.write(stdin.encode())
        said.seek(0)
        pid = nursery.fork(command[2:], cwd, env, [each.fileno() for each in (said, out, err)])
        code = _wait(pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout)
        written = []
        for each in (out, err):
            each.seek(0)
            written.append(each.read().decode(errors="replace"))
    return subprocess.CompletedProcess(command, code, written[0], written[1])


def _wait(pid: int, timeout: float) -> int | None:
    """Wait until a child has ended; its exit code, `None` when it took too long and was killed."""
    give_up = time.monotonic() + timeout
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > give_up:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])


def read_certificates_once() -> None:
    """Let all sessions of aiogram in a process share what they trust: reading it is half of their start."""
    module = import_module("aiogram.client.session.aiohttp")

    @cache
    def made(cafile: str, *_: str | None) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=cafile)

    def shared(cafile: str) -> ssl.SSLContext:
        return made(cafile, *map(os.environ.get, CERTIFICATES))

    setattr(module, "ssl", SimpleNamespace(create_default_context=shared))  # noqa: B010 - it knows the real one


# --- In the process from which others are forked -----------------------------------------------------------


def _prepare(packages: Sequence[str]) -> None:
    """Import what bots need, and nothing of a bot: that is to come from the process' own folder."""
    import_module("bot.runtime.telegram.fast_import").import_aiogram()
    import_module("aiogram.types").Update.model_validate({"update_id": 1})  # builds a hundred models
    read_certificates_once()
    import_module("aiogram.client.session.aiohttp").AiohttpSession()
    for name in packages:
        with suppress(ImportError):
            import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("bot", "suite")]:
        del sys.modules[name]
    sys.path.remove(str(BOT))
    gc.collect()
    gc.freeze()  # what is shared is not looked through by each process, which would copy it


def _wait_to_be_forked(connection: socket.socket) -> tuple[list[str], str, dict[str, str], list[int]]:
    """Fork a process whenever one is wanted; returns in that process."""
    while True:
        request, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
        if not request:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:  # it ends at once, so that its child becomes the test's
            between = os.getpid()
            if pid := os.fork():
                os.write(write, str(pid).encode())
                os._exit(0)
            for each in (read, write, connection.detach()):
                os.close(each)
            while os.getppid() == between:
                time.sleep(0.001)
            arguments, folder, environment = json.loads(request)
            return arguments, folder, environment, files
        os.waitpid(between, 0)
        connection.send(os.read(read, 64))
        for each in (read, write, *files):
            os.close(each)


def _become(folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Take on what a new process is given."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path_importer_cache.clear()
    if "PYTHONWARNINGS" in environment:
        sys.warnoptions.append(environment["PYTHONWARNINGS"])
        warnings.simplefilter(environment["PYTHONWARNINGS"])  # type: ignore[arg-type]
    # As they were made when this Python started, but for what they lead to now.
    sys.stdin, sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            os.fdopen(number, "wb" if number else "rb", closefd=False),
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=number == 2 or os.isatty(number),
            write_through="PYTHONUNBUFFERED" in environment,
        )
        for number, old in enumerate((sys.stdin, sys.stdout, sys.stderr))
    )


def _serve() -> str:
    """Fork processes; returns in each of them, with the module that it is to run."""
    _prepare(sys.argv[2:])
    try:
        arguments, folder, environment, files = _wait_to_be_forked(socket.socket(fileno=int(sys.argv[1])))
    except KeyboardInterrupt:
        os._exit(130)
    _become(folder, environment, files)
    module, *sys.argv[1:] = arguments
    return module


if __name__ == "__main__":
    runpy.run_module(_serve(), run_name="__main__", alter_sys=True)
