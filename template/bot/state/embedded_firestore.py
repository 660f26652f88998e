"""Google's Firestore emulator for development: started by the first who needs it, stopped after the last.

It keeps records in memory. So they are exported to `.data/firestore` every minute and when it stops, and
imported when it starts: an emulator that is killed loses what came since. Two locks there, which the kernel
drops with the process that holds them, however it ends, say all that has to be known:

    users.lock    shared by every process that uses the emulator
    server.lock   held by the process that looks after it, this module run by `python -m`

That process starts the emulator, starts it again when it is killed, and stops it once it gets `users.lock`
for itself. Killed itself, it leaves an emulator behind, which the next process to come has export and end.
"""

import asyncio
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from bot.errors import OperatorError

if TYPE_CHECKING:
    from bot.state.firestore_client import FirestoreSettings

EMULATOR_PROJECT = "demo-bot"
"""Where no project is named. One that begins with `demo-` can be no real one."""

FOLDER = Path(".data/firestore")
INSTALLED = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
"""Where the emulator is below the folder of Google's command line, however that was installed."""

MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"

EXPORT = "records"
EXPORT_SECONDS = 60.0
START_SECONDS = 30.0
WATCH_SECONDS = 0.2

MISSING = (
    "neither GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST is set, and no emulator is installed: "
    "set one of them, or install Java and `gcloud components install cloud-firestore-emulator`"
)


class EmbeddedFirestore:
    """The emulator of a folder, as one of the processes that use it sees it."""

    def __init__(self, settings: "FirestoreSettings", folder: Path = FOLDER) -> None:
        """Make it; nothing is started yet.

        Args:
            settings: what else there is to say of Firestore.
            folder: where the records are kept.
        """
        self._settings = settings
        self._folder = folder.absolute()
        self._use: IO[bytes] | None = None

    async def start(self) -> "FirestoreSettings":
        """Use the emulator, and start it when nobody did.

        Returns:
            The settings, naming it.

        Raises:
            OperatorError: it is not installed, or does not start.
        """
        host = await asyncio.to_thread(self.join)
        return self._settings.model_copy(update={"firestore_emulator_host": host})

    async def stop(self) -> None:
        """Use the emulator no longer."""
        self.leave()

    def join(self) -> str:
        """Like `start`, blocking; returns host and port."""
        if fcntl is None or not command(1):
            raise OperatorError(MISSING)
        if self._use is None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._use = (self._folder / "users.lock").open("ab")
            except OSError as error:
                raise OperatorError(f"cannot keep records in {self._folder}: {error.strerror}") from None
        try:
            fcntl.flock(self._use, fcntl.LOCK_SH)  # waits while an emulator is just being stopped
            return f"127.0.0.1:{self._wait_for_emulator()}"
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Like `stop`."""
        if self._use:
            self._use.close()
            self._use = None

    def _wait_for_emulator(self) -> int:
        give_up = time.monotonic() + START_SECONDS
        while True:
            if not _is_locked(self._folder / "server.lock"):
                self._start()
            port = _port(self._folder)
            if port and answers(port):
                return port
            if time.monotonic() > give_up:
                raise OperatorError(f"the emulator in {self._folder} does not answer: see emulator.log there")
            time.sleep(0.05)

    def _start(self) -> None:
        with (self._folder / "emulator.log").open("ab") as output:
            done = subprocess.run(  # noqa: S603 - our own module
                [sys.executable, "-m", "bot.state.embedded_firestore", str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=START_SECONDS,
            )
        if done.returncode:
            raise OperatorError(f"the emulator in {self._folder} does not start: see emulator.log there")


def command(port: int, *options: str) -> list[str] | None:
    """The command that starts Google's emulator, or `None` where it is not installed."""
    java, gcloud = shutil.which("java"), shutil.which("gcloud")
    places = [Path("/usr/lib/google-cloud-sdk")]
    if gcloud:
        places.insert(0, Path(gcloud).resolve().parents[1])
    jar = next((place / INSTALLED for place in places if (place / INSTALLED).exists()), None)
    if not java or not jar:
        return None
    # Its error messages are in English only.
    program = [java, "-Xmx1g", "-Duser.language=en", "-cp", str(jar), MAIN, "start"]
    return [*program, "--host=127.0.0.1", f"--port={port}", *options]


def answers(port: int) -> bool:
    """Whether an emulator listens there."""
    return _request(port, "GET", "/") is not None


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def look_after(folder: Path) -> None:
    """Run the emulator of a folder in a process of its own, until nobody uses it; returns once it answers."""
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        sys.exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    os.setsid()  # Ctrl-C in the terminal is for the bot, which may have something left to commit
    os.chdir(folder)
    with open("server.lock", "ab") as server_lock, open("users.lock", "ab") as users_lock:
        try:
            fcntl.flock(server_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.write(writing, b"+")  # another process was faster
            return
        _watch(users_lock, writing)


def _watch(users_lock: IO[bytes], started: int) -> None:
    _stop_orphan()
    port = free_port()
    emulator = _run(port)
    Path("port").write_text(str(port))
    os.write(started, b"+")
    os.close(started)
    exported = time.monotonic()
    while not _lock_for_itself(users_lock):
        time.sleep(WATCH_SECONDS)
        if emulator.poll() is not None:
            emulator = _run(port)
        elif time.monotonic() - exported > EXPORT_SECONDS:
            _export(port)
            exported = time.monotonic()
    _export(port)
    emulator.terminate()
    emulator.wait(START_SECONDS)


def _run(port: int) -> "subprocess.Popen[bytes]":
    saved = next((folder for folder in ("saved", "before") if (Path(folder) / EXPORT).is_dir()), None)
    file = f"{saved}/{EXPORT}/{EXPORT}.overall_export_metadata"
    line = command(port, *([f"--import-data={Path(file).absolute()}"] if saved else []))
    assert line
    emulator = subprocess.Popen(line, stdin=subprocess.DEVNULL)  # noqa: S603 - what is installed here
    give_up = time.monotonic() + START_SECONDS
    while not answers(port):
        if emulator.poll() is not None or time.monotonic() > give_up:
            emulator.kill()
            sys.exit("the emulator did not start")
        time.sleep(0.05)
    return emulator


def _export(port: int) -> None:
    """Write everything to `saved`; what was there before is given up once that is done."""
    shutil.rmtree("new", ignore_errors=True)
    Path("new").mkdir()
    what = {
        "database": f"projects/{EMULATOR_PROJECT}/databases/(default)",
        "export_directory": str(Path("new").absolute()),
        "export_name": EXPORT,
    }
    if _request(port, "POST", f"/emulator/v1/projects/{EMULATOR_PROJECT}:export", what) is None:
        return
    shutil.rmtree("before", ignore_errors=True)
    with suppress(FileNotFoundError):
        os.rename("saved", "before")
    os.rename("new", "saved")


def _stop_orphan() -> None:
    """Have an emulator whose keeper was killed export, and end."""
    port = _port(Path.cwd())
    if port and answers(port):
        _export(port)
        _request(port, "POST", "/shutdown")
        while answers(port):
            time.sleep(0.05)


def _request(port: int, method: str, path: str, body: object = None) -> bytes | None:
    """What the emulator answers; `None`: nothing, or that it will not."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    try:
        connection.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return content if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _port(folder: Path) -> int:
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0


def _lock_for_itself(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    with path.open("ab") as file:
        return not _lock_for_itself(file)


if __name__ == "__main__":
    look_after(Path(sys.argv[1]))
