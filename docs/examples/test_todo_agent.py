"""The agent with a list."""

import asyncio

from bot.state.store import StateStore
from bot.todo_agent import Agent


async def test_the_list_is_kept(store: StateStore) -> None:
    agent = Agent("", store)
    assert await agent.handle_message("1", "buy tea") == "1. buy tea"
    assert await agent.handle_message("1", "call Bob") == "2. call Bob"
    assert await agent.handle_message("1", "done 1") == "Done: buy tea"
    assert await agent.handle_message("1", "list") == "1. call Bob"
    assert await agent.handle_message("2", "list") == "Nothing."


async def test_quick_messages_are_all_on_it(store: StateStore) -> None:
    agent = Agent("", store)
    await asyncio.gather(*(agent.handle_message("1", f"item {n}") for n in range(5)))
    assert len((await agent.get_user_state("1"))["todo"]) == 5
