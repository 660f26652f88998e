"""The conversation in steps. Change these tests along with `bot/flow/`."""

from bot.flow.handlers import CANCELLED, NOT_OPEN, NOTHING_TO_CANCEL, PRESS_A_BUTTON, SAVED
from bot.flow.steps import ConversationStates, question
from bot.runtime.testing import Chat, OperatorStore, Restart

ANN = {"name": "Ann", "born": 1990, "style": "detailed"}
NAME, YEAR, STYLE, SUMMARY = (
    question(getattr(ConversationStates, step), ANN) for step in ("step_1", "step_2", "step_3", "summary")
)


async def test_all_the_way(chat: Chat) -> None:
    assert await chat.say("/profile") == [NAME]
    assert await chat.say("Ann") == [YEAR]
    assert await chat.say("1990") == [STYLE]
    assert await chat.press("In detail") == [SUMMARY]
    assert await chat.press("Yes, save it") == [SAVED]
    assert await chat.state() == {"profile": ANN}


async def test_back_and_forth(chat: Chat) -> None:
    await chat.say("/profile")
    await chat.say("Annie")
    assert await chat.press("Back") == [NAME]
    assert await chat.say("Ann") == [YEAR]
    assert len(await chat.say("MCMXC")) == 1
    assert await chat.say("1990") == [STYLE]
    assert await chat.say("In detail") == [PRESS_A_BUTTON, STYLE]


async def test_it_can_be_left(chat: Chat) -> None:
    await chat.say("/profile")
    assert await chat.say("/cancel") == [CANCELLED]
    assert await chat.say("/cancel") == [NOTHING_TO_CANCEL]
    assert await chat.press("Cancel") == [NOT_OPEN]
    assert await chat.state() == {}


async def test_it_goes_on_after_a_restart(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    await chat.say("/profile")
    await chat.say("Ann")
    await restart()
    if store.survives_exit:
        assert await chat.say("1990") == [STYLE]
    else:  # backend memory
        assert await chat.say("/cancel") == [NOTHING_TO_CANCEL]
