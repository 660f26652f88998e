"""Your agent on its own. Change these tests along with `bot/agent.py`."""

from bot.agent import Agent


async def test_it_answers_and_remembers() -> None:
    agent = Agent("")
    assert "hi" in await agent.handle_message(user_id="1", message="hi")
    assert "there" in await agent.handle_message(user_id="1", message="there")
    assert await agent.get_user_state("1") == {"last_message": "there", "message_count": 2}


async def test_it_keeps_users_apart() -> None:
    agent = Agent("")
    await agent.handle_message(user_id="1", message="hi")
    await agent.handle_message(user_id="2", message="hi")
    assert (await agent.get_user_state("2"))["message_count"] == 1
