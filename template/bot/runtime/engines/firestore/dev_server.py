"""Google's Firestore emulator for development, in `.data/firestore`.

It keeps records in memory. So they are exported every minute and when it stops, and imported when it starts:
an emulator that is killed loses what came since. One whose keeper was killed is left behind; the next keeper
has it export, and end.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from bot.runtime.engines.dev_server import HOST, START_SECONDS, DevServer, choose_port, keep, port_of

EMULATOR_PROJECT = "demo-bot"
"""Where no project is named. One that begins with `demo-` can be no real one."""

INSTALLED = "platform/cloud-firestore-emulator/cloud-firestore-emulator.jar"
"""Where the emulator is below the folder of Google's command line, however that was installed."""

MAIN = "com.google.cloud.datastore.emulator.firestore.CloudFirestore"

QUICK = ("-Xmx1g", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""It is compiled once and not better and better: it starts in half of the time, and seldom runs for long."""

EXPORT = "records"
EXPORT_SECONDS = 60.0


class FirestoreDevServer(DevServer):
    """The emulator in a folder."""

    name: ClassVar[str] = "firestore"
    missing: ClassVar[str] = (
        "neither GOOGLE_CLOUD_PROJECT nor FIRESTORE_EMULATOR_HOST is set, and no emulator is installed: "
        "set one of them, or install Java and `gcloud components install cloud-firestore-emulator`"
    )

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{port_of(self.folder)}"

    @property
    def is_startable(self) -> bool:
        """Whether it is installed."""
        return super().is_startable and command(1) is not None

    def answers(self) -> bool:
        """Whether it answers."""
        return answers(port_of(self.folder))


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
    program = [java, *QUICK, "-Duser.language=en", "-cp", str(jar), MAIN, "start"]
    return [*program, f"--host={HOST}", f"--port={port}", *options]


def answers(port: int) -> bool:
    """Whether an emulator listens there."""
    return _request(port, "GET", "/") is not None


def serve(folder: Path) -> Generator[None]:
    """Look after the emulator. See `bot.runtime.engines.dev_server.Serve`."""
    os.chdir(folder)
    _stop_orphan()
    port = choose_port(Path())
    emulator = _run(port)
    exported = time.monotonic()
    try:
        while True:
            yield
            if emulator.poll() is not None:
                emulator = _run(port)
            elif time.monotonic() - exported > EXPORT_SECONDS:
                _export(port)
                exported = time.monotonic()
    finally:
        _export(port)
        emulator.terminate()
        emulator.wait(START_SECONDS)
        Path("port").unlink()  # whose it is next, nobody knows


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
    # Its first answer takes seconds: nobody else shall wait for that.
    query = {"structuredQuery": {"from": [{"collectionId": "_"}], "limit": 1}}
    _request(port, "POST", f"/v1/projects/{EMULATOR_PROJECT}/databases/(default)/documents:runQuery", query)
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
    port = port_of(Path())
    if answers(port):
        _export(port)
        _request(port, "POST", "/shutdown")
        while answers(port):
            time.sleep(0.05)


def _request(port: int, method: str, path: str, body: object = None) -> bytes | None:
    """What the emulator answers; `None`: nothing, or that it will not."""
    connection = http.client.HTTPConnection(HOST, port, timeout=START_SECONDS)
    try:
        connection.request(method, path, json.dumps(body or {}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
        return content if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    keep(Path(sys.argv[1]), serve)
