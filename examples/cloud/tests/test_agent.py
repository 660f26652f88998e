"""Tests of your agent. Change them along with `bot/agent.py`."""

from bot.agent import Agent


async def test_it_counts_and_remembers() -> None:
    agent = Agent("")
    assert await agent.handle_message("1", "hi") == "Processed: hi (#1)"
    assert await agent.handle_message("1", "there") == "Processed: there (#2)"
    assert await agent.get_user_state("1") == {"last_message": "there", "message_count": 2}


async def test_it_keeps_users_apart() -> None:
    agent = Agent("")
    await agent.handle_message("1", "hi")
    assert await agent.handle_message("2", "hi") == "Processed: hi (#1)"
