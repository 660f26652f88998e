"""The journal of the server for development."""

import asyncio

from bot.runtime.state.store import Changes
from suite.engines.dynamodb.server import Server, make_store, make_table


async def test_the_journal_is_cut_short_where_it_was_cut_off_or_overwritten(server: Server) -> None:
    await make_table(server.url, "test")
    store = make_store(server.url, table="test")
    await store.connect()
    version = 0
    for n in range(100):
        version = await store.commit("1", Changes(state={"n": str(n).encode()}), expect=version)
    server.kill()
    journal = server.folder / "journal.jsonl"
    lines = journal.read_bytes().splitlines()
    with journal.open("ab") as file:
        file.write(lines[-1][:-20])  # killed in mid-write, before it answered
    await asyncio.to_thread(server.start)
    assert (await store.load("1")).version == version
    assert (await store.load("1")).state == {"n": 99}
    assert len(journal.read_bytes().splitlines()) == len(lines) - 99
    await store.commit("1", Changes(state={"n": b"100"}), expect=version)
    server.kill()
    await asyncio.to_thread(server.start)
    assert (await store.load("1")).state == {"n": 100}
    await store.close()
