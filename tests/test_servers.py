"""The engines keep their contract on servers that people run, not only on those that come as wheels.

Debian's, where they are installed; `.ci/run` installs them where it may. And dynalite, where there is Node.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Render
from support import ROOT, must, prove, run

SUITES = [f"suite/contract/test_{name}.py" for name in ("store", "json", "transfer")]

PATIENCE = 30.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short and open to whichever user a server runs as."""
    path = Path(tempfile.mkdtemp(prefix="servers-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def redis_port(folder: Path) -> Iterator[int]:
    """The port of a Redis."""
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder))
    with serving(port, program("redis-server"), *options):
        yield port


@pytest.fixture
def postgres_port(folder: Path) -> Iterator[int]:
    """The port of a PostgreSQL."""
    port, data = free_port(), str(folder / "data")
    initdb = (program("initdb"), "--pgdata", data, "--username", "postgres", "--auth", "trust", "--no-sync")
    must(*not_as_root(), *initdb, cwd=folder)
    options = ("-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1", "-F")
    with serving(port, *not_as_root(), program("postgres"), *options):
        yield port


@pytest.fixture
def pgbouncer_port(folder: Path, postgres_port: int) -> Iterator[int]:
    """The port of a PgBouncer in transaction mode before that."""
    port, config = free_port(), folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={postgres_port} user=postgres\n"
        "[pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\ndefault_pool_size = 3\nmax_client_conn = 200\n"
    )
    with serving(port, *not_as_root(), program("pgbouncer"), str(config)):
        yield port


@pytest.fixture
def dynalite_port() -> Iterator[int]:
    """The port of a dynalite, which npm fetches once."""
    node, npm, place = program("node"), program("npm"), ROOT / ".cache" / "dynalite"
    cli = place / "node_modules" / "dynalite" / "cli.js"
    if not cli.exists():
        place.mkdir(parents=True, exist_ok=True)
        options = ("--no-audit", "--no-fund", "--ignore-scripts", "--prefix", place)
        done = run(npm, "install", *options, "dynalite@4", cwd=place, timeout=300)
        if done.returncode:
            pytest.skip("npm could not fetch dynalite")
    port = free_port()
    with serving(port, node, str(cli), "--host", "127.0.0.1", "--port", str(port), "--createTableMs", "0"):
        yield port


@pytest.mark.slow(60)
def test_redis(render: Render, redis_port: int) -> None:
    """Redis, which is not Valkey."""
    passes(render(backend="redis"), TEST_REDIS_URL=f"redis://127.0.0.1:{redis_port}/1")


@pytest.mark.rarely  # its statements are tried behind a pooler, too
@pytest.mark.slow(60)
def test_postgres(render: Render, postgres_port: int) -> None:
    """An older PostgreSQL than the one of the development server."""
    passes(render(backend="postgres"), TEST_DATABASE_URL=database(postgres_port))


@pytest.mark.slow(60)
def test_pgbouncer(render: Render, pgbouncer_port: int) -> None:
    """PostgreSQL behind a pooler that gives each transaction another connection."""
    url = database(pgbouncer_port)
    passes(render(backend="postgres"), TEST_DATABASE_URL=url, TEST_DATABASE_POOLER="transaction")


@pytest.mark.rarely
def test_dynalite(render: Render, dynalite_port: int) -> None:
    """DynamoDB as other people have written it, with other gaps than moto's: expressions, scans and races."""
    contract = [f"suite/contract/test_{name}.py" for name in ("store", "model", "json", "transfer")]
    own = [f"suite/engines/dynamodb/test_{name}.py" for name in ("items", "races", "wire")]
    bot = render(backend="fsm", fsm_storage="dynamodb")
    passes(bot, *contract, *own, TEST_DYNAMODB_URL=f"http://127.0.0.1:{dynalite_port}")


def passes(bot: Path, *suites: str, **settings: str) -> None:
    """The suites that need nothing but a server pass on the one that the settings name."""
    printed, code = prove(bot, *(suites or SUITES), settings=settings)
    assert code == 0, printed


def database(port: int) -> str:
    """The address of the database that a server has from the beginning."""
    return f"postgresql://postgres@127.0.0.1:{port}/postgres"


def program(name: str) -> str:
    """Where a server's program is; the newest where Debian keeps several. Skips the test where it is not."""
    places = [*os.environ["PATH"].split(":"), "/usr/sbin"]
    places += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = shutil.which(name, path=":".join(places))
    return path or pytest.skip(f"{name} is not installed")


def not_as_root() -> tuple[str, ...]:
    """What to put before a program that refuses to run as root."""
    user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
    return user if os.geteuid() == 0 else ()


@contextmanager
def serving(port: int, *command: str) -> Iterator[None]:
    """Run a server, until the end of the block."""
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            while not answers(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"{command[0]} does not start:\n{log.read()}")
                time.sleep(0.05)
            yield
        finally:
            server.kill()
            server.wait()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
