"""The agent's interface, inside a turn, outside one, and when it is over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime.errors import OperatorError, StateValueError
from bot.runtime.state.record import UserRecord
from bot.runtime.state.store import Changes, OperatorStore, StateStore
from suite.agents import CountingAgent, SourceStyleAgent
from suite.support.runtime import MakeRuntime, Mode

pytestmark = pytest.mark.clause("agent.interface")


class Counted:
    """Stands in front of a store and counts its calls."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, user_id: str, conversation: str | None = "") -> UserRecord:
        self.calls.append("load")
        return await self._store.load(user_id, conversation)

    async def commit(self, user_id: str, changes: Changes, *, expect: int | None) -> int:
        self.calls.append("commit")
        return await self._store.commit(user_id, changes, expect=expect)


@pytest.fixture(params=[CountingAgent, SourceStyleAgent])
def agent(request: pytest.FixtureRequest, store: OperatorStore) -> TelegramAgentAdapter:
    agent: TelegramAgentAdapter = request.param("")
    agent.store = store
    return agent


async def test_the_interface_works_without_telegram(agent: TelegramAgentAdapter) -> None:
    await agent.connect()
    assert await agent.get_user_state("1") == {}
    assert await agent.handle_message(user_id="1", message="hi") == "Processed: hi (#1)"
    await agent.update_user_state("1", "colour", {"name": "red"})
    state = await agent.get_user_state("1")
    assert state == {"last_message": "hi", "message_count": 1, "colour": {"name": "red"}}
    await agent.clear_user_state("1")
    assert await agent.get_user_state("1") == {}
    assert len((await agent.store.load("1")).history) == 2, "the conversation stays"
    await agent.close()


async def test_what_is_entered_is_left_when_the_agent_is_closed() -> None:
    """The last first, and before the store; each time anew."""
    agent, done = CountingAgent(""), list[str]()

    @asynccontextmanager
    async def open_(name: str) -> AsyncIterator[str]:
        yield name
        done.append(name)

    for _ in range(2):
        await agent.connect()
        assert [await agent.enter(open_(name)) for name in ("a", "b")] == ["a", "b"]
        assert done == []
        await agent.close()
        assert done == ["b", "a"]
        done.clear()


class Eager(CountingAgent):
    """Begins to write as soon as it is connected."""

    async def connect(self) -> None:
        await super().connect()
        await self.update_user_state("1", "key", 1)


async def test_nothing_is_written_into_the_records_of_another_bot(
    make_runtime: MakeRuntime, store: OperatorStore, mode: Mode
) -> None:
    bot = make_runtime(mode, agent_class=Eager)
    await store.bind(bot.settings.bot_id + 1)
    with pytest.raises(OperatorError, match="belongs to"):
        await bot.start()
    assert (await bot.record(1)).version == 0


async def test_without_a_store_it_remembers_in_memory() -> None:
    agent = CountingAgent("")
    assert await agent.handle_message(user_id="1", message="hi") == "Processed: hi (#1)"
    assert await agent.handle_message(user_id="1", message="hi") == "Processed: hi (#2)"


async def test_a_turn_costs_one_load_and_one_commit(agent: TelegramAgentAdapter) -> None:
    counted = Counted(agent.store)
    agent.store = counted  # type: ignore[assignment]
    await agent.handle_message(user_id="1", message="hi")
    assert counted.calls == ["load", "commit"]


async def test_messages_at_once_are_all_counted(agent: TelegramAgentAdapter) -> None:
    replies = await asyncio.gather(*(agent.handle_message(user_id="1", message="hi") for _ in range(5)))
    assert sorted(replies) == [f"Processed: hi (#{n})" for n in range(1, 6)]


async def test_processing_outside_a_turn_keeps_what_it_changes() -> None:
    agent = CountingAgent("")
    await agent.process_agent_request("hi", "1")
    assert (await agent.get_user_state("1"))["message_count"] == 1


async def test_a_value_that_is_no_json_is_refused_where_it_is_set(agent: TelegramAgentAdapter) -> None:
    with pytest.raises(StateValueError, match="state\\['when'\\]"):
        await agent.update_user_state("1", "when", {1})


class Curious(TelegramAgentAdapter):
    """Looks at its turn, and at other users."""

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        assert self.turn.user_id == "1"
        assert await self.get_user_state("1") is state
        self.background(self.update_user_state, "2", "seen_by", "1")
        return " ".join(f"{said.role}:{said.text}" for said in self.turn.history)


async def test_an_agent_sees_the_conversation_and_other_users(store: OperatorStore) -> None:
    agent = Curious("", store)
    assert await agent.handle_message(user_id="1", message="a") == "user:a"
    assert await agent.handle_message(user_id="1", message="b") == "user:a assistant:user:a user:b"
    await agent.drain(10)
    assert await agent.get_user_state("2") == {"seen_by": "1"}
    with pytest.raises(RuntimeError, match="no turn is under way"):
        _ = agent.turn


class Busy(TelegramAgentAdapter):
    """Goes on working after it answered."""

    def __init__(self, bot_token: str, store: OperatorStore) -> None:
        super().__init__(bot_token, store)
        self.go_on = asyncio.Event()
        self.work: asyncio.Task[None] | None = None

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        state["answered"] = True
        self.work = asyncio.create_task(self.finish(self.turn.user_id))
        return "later"

    async def finish(self, user_id: str) -> None:
        await self.go_on.wait()
        await self.update_user_state(user_id, "result", 42)


async def test_background_work_writes_to_the_store(store: OperatorStore) -> None:
    agent = Busy("", store)
    await agent.handle_message(user_id="1", message="go")
    agent.go_on.set()
    assert agent.work
    await agent.work
    assert await agent.get_user_state("1") == {"answered": True, "result": 42}


async def test_background_work_does_not_bring_a_forgotten_user_back(store: OperatorStore) -> None:
    agent = Busy("", store)
    await agent.handle_message(user_id="1", message="go")
    await store.forget("1")
    agent.go_on.set()
    assert agent.work
    await agent.work
    assert (await store.load("1")).is_empty


async def test_an_agent_has_to_bring_its_logic() -> None:
    with pytest.raises(NotImplementedError, match=r"bot/agent\.py"):
        await TelegramAgentAdapter("").handle_message(user_id="1", message="hi")
