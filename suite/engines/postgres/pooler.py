"""PgBouncer in front of the tests' server, where it is installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from suite.engines.postgres.harness import server_url

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

CONFIG = """
[databases]
* = host={host} port={port} user={user} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
admin_users = postgres
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
"""


@pytest.fixture(scope="module")
def pooler() -> Iterator[str]:
    """The address of a PgBouncer in transaction mode with three connections to the tests' server."""
    assert PGBOUNCER
    upstream = urlsplit(server_url())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="bot-pooler-"))
    config = folder / "pgbouncer.ini"
    config.write_text(
        CONFIG.format(
            host=parse_qs(upstream.query).get("host", [upstream.hostname])[0],
            port=upstream.port or 5432,
            user=upstream.username or "postgres",
            password=f"password='{unquote(upstream.password)}'" if upstream.password else "",
            listen_port=port,
        )
    )
    options: dict[str, object] = {}
    if os.geteuid() == 0:  # which it refuses to run as
        nobody = pwd.getpwnam("nobody")
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid}
        folder.chmod(0o755)
        socket_folder = parse_qs(upstream.query).get("host")
        if socket_folder:  # the server's own folder, closed to others
            options = {"user": Path(socket_folder[0]).stat().st_uid}
    process = subprocess.Popen(
        [PGBOUNCER, config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, "PgBouncer does not start"
        time.sleep(0.05)
    yield f"postgresql://postgres@127.0.0.1:{port}{upstream.path}"
    process.terminate()
    process.wait()
    shutil.rmtree(folder)
