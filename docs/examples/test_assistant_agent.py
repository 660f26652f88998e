"""The agent on the OpenAI Agents SDK, with the SDK's scripted model."""

from collections.abc import Callable

import pytest
from agents.testing import ScriptedModel, assistant_message, function_call

from bot.assistant_agent import Agent, assistant
from bot.runtime.testing import Chat, OperatorStore, Owner, Restart

Script = Callable[..., ScriptedModel]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Has the model do these things, one after another."""

    def script(*steps: object) -> ScriptedModel:
        said = [[assistant_message(step) if isinstance(step, str) else step] for step in steps]
        model = ScriptedModel(said)  # type: ignore[arg-type]
        monkeypatch.setattr(assistant, "model", model)
        return model

    return script


@pytest.fixture
def owner() -> Owner:
    return Owner(agent=Agent)


async def test_it_remembers(chat: Chat, script: Script) -> None:
    model = script("Hello Ann.", "You are Ann.")
    assert await chat.say("I am Ann") == ["Hello Ann."]
    assert await chat.say("Who am I?") == ["You are Ann."]
    assert model.last_call
    assert "Hello Ann." in str(model.last_call.input)


@pytest.mark.parametrize(("button", "orders"), [("Order it", ["soup"]), ("Leave it", [])])
async def test_it_orders_with_consent_only(
    chat: Chat,
    script: Script,
    store: OperatorStore,
    restart: Restart,
    button: str,
    orders: list[str],
) -> None:
    model = script(function_call("order", {"meal": "soup"}, call_id="1"), "As you like.", "Bye.")
    assert await chat.say("I am hungry") == ['order {"meal":"soup"}']
    assert await chat.state() == {}
    await restart()
    assert (await chat.press(button))[-1] == "As you like."
    assert (await chat.state()).get("orders", []) == orders
    assert await chat.say("Bye") == ["Bye."]
    assert model.last_call
    kinds = [item.get("type") for item in model.last_call.input if isinstance(item, dict)]
    assert kinds.count("function_call") == kinds.count("function_call_output") == 1
