"""What `bot.runtime.testing` gives to the tests of an owner."""

import asyncio
import os
import subprocess
import sys
from hashlib import sha1
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiogram import Bot, F, Router
from aiogram.filters import Command
from aiogram.methods import SendMessage, TelegramMethod
from aiogram.types import CallbackQuery, ChatMemberUpdated, Message

import bot
from bot.runtime import testing
from bot.runtime.app import load_owner, open_app
from bot.runtime.config import load_settings
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import OperatorStore
from bot.runtime.telegram.local import DOWNLOAD_LIMIT, TOKEN, LocalTelegram
from bot.runtime.telegram.texts import Texts, TextTable
from bot.runtime.testing import Chat, NotAcknowledged, Owner, Refused, Restart
from suite.agents import CountingAgent

pytestmark = pytest.mark.clause("testing")

# What the owner wrote has no part in this, and may need packages that are not here.
setattr(testing, "load_owner", lambda: Owner(agent=CountingAgent))  # noqa: B010 - which it does not export

chat, restart, store = testing.chat, testing.restart, testing.store
_own_world = testing._own_world
_running_bot, _server_folder, _store_of_chat = (
    testing._running_bot,
    testing._server_folder,
    testing._store_of_chat,
)

SORRY = Texts().sorry


class Agent(CountingAgent):
    """An agent that does more than answer."""

    def __init__(self, bot_token: str) -> None:
        super().__init__(bot_token)
        self.is_time = asyncio.Event()

    async def agent_logic(self, message: str, state: dict[str, Any]) -> str:
        match message.split():
            case ["twice"]:
                self.turn.reply(SendMessage(chat_id=1, text="once"))
            case ["later", text]:
                self.background(self.send_later, self.turn.user_id, text)
            case ["tell", user_id]:
                await self.send(user_id, "psst")
            case ["ask", method]:
                return str(await getattr(self.bot, method)(-1, 1))
            case ["shout", length]:
                await self.bot.send_message(1, "x" * int(length))
        return await super().agent_logic(message, state)

    async def send_later(self, user_id: str, text: str) -> None:
        await self.is_time.wait()
        await self.send(user_id, text)


def router() -> Router:
    """Handlers that make visible what reaches the bot."""
    router = Router()

    @router.message(Command("game"))
    async def game(message: Message) -> TelegramMethod[Any]:
        return message.answer_dice()

    @router.message(F.photo | F.voice | F.document)
    async def file(message: Message, bot: Bot) -> TelegramMethod[Any]:
        found = message.document or message.voice or next(reversed(message.photo or []), None)
        assert found
        content = await bot.download(found)
        assert content
        name = f"{message.document.file_name} ({message.document.mime_type})" if message.document else ""
        return message.answer(f"{message.caption}: {sha1(content.read()).hexdigest()} {name}".strip())

    @router.edited_message()
    async def edited(message: Message) -> TelegramMethod[Any]:
        return message.answer(f"edited: {message.text}")

    @router.my_chat_member()
    async def added(event: ChatMemberUpdated) -> TelegramMethod[Any]:
        return event.answer(f"in {event.chat.title}: {event.new_chat_member.status}")

    @router.chat_member()
    async def moved(event: ChatMemberUpdated) -> TelegramMethod[Any]:
        return event.answer(f"{event.new_chat_member.user.first_name}: {event.new_chat_member.status}")

    @router.message(F.new_chat_members)
    async def welcome(message: Message) -> TelegramMethod[Any]:
        (member,) = message.new_chat_members or []
        return message.answer(f"welcome, {member.first_name}")

    @router.callback_query(F.data == "alert")
    async def alert(query: CallbackQuery) -> TelegramMethod[Any]:
        return query.answer("an alert", show_alert=True)

    return router


@pytest.fixture
def owner() -> Owner:
    german = Texts(hello="Hallo!")
    return Owner(agent=Agent, before=[router()], texts=TextTable({"en": Texts(), "de": german}))


async def test_say_returns_what_the_bot_answers(chat: Chat) -> None:
    assert await chat.say("hi") == ["Processed: hi (#1)"]
    assert await chat.say("twice") == ["once", "Processed: twice (#2)"]
    assert await chat.state() == {"last_message": "twice", "message_count": 2}
    assert [(each.role, each.text) for each in await chat.history()][:2] == [
        ("user", "hi"),
        ("assistant", "Processed: hi (#1)"),
    ]
    assert chat.texts == ["Processed: hi (#1)", "once", "Processed: twice (#2)"]


async def test_quick_messages_know_their_own_answers(chat: Chat) -> None:
    said = await asyncio.gather(*(chat.say(f"m{number}") for number in range(20)))
    assert said == [[f"Processed: m{number} (#{number + 1})"] for number in range(20)]


async def test_replies_are_the_calls_as_they_are_made(chat: Chat) -> None:
    assert await chat.say("/export") == ["Everything I keep about you."]
    (document,) = chat.replies
    assert document.method == "sendDocument"
    assert document.params["chat_id"] == "1"
    ((name, content),) = document.files.values()
    assert name.startswith("my-data-")
    assert b'"user_id": "1"' in content
    assert await chat.say("/game") == ["[dice]"]


async def test_buttons_are_pressed_by_what_they_say(chat: Chat) -> None:
    with pytest.raises(LookupError, match="no button 'Keep it' among"):
        await chat.press("Keep it")
    await chat.say("hi")
    await chat.say("/forget")
    assert chat.buttons == ["Erase everything", "Keep it"]
    with pytest.raises(LookupError, match="Erase everything"):
        await chat.press("Erase")
    assert await chat.press("Keep it") == ["Nothing was erased."]
    assert [call.method for call in chat.replies] == ["editMessageText", "answerCallbackQuery"]
    assert chat.buttons == []
    assert chat.texts[-1] == "Nothing was erased."


async def test_somebody_elses_button_brings_up_an_alert(chat: Chat) -> None:
    await chat.say("/forget")
    (yes, _) = chat.telegram.buttons(chat.chat)
    bob = chat.person("Bob")
    assert await bob.press(yes) == []
    assert chat.texts[-1] == Texts().not_your_button


async def test_files_reach_the_bot_as_they_are(chat: Chat) -> None:
    content = bytes(range(256)) * 1_000  # more than a chunk
    digest = sha1(content).hexdigest()
    assert await chat.send_file("a.bin", content, caption="c") == [
        f"c: {digest} a.bin (application/octet-stream)"
    ]
    assert await chat.send_file("a.txt", content) == [f"None: {digest} a.txt (text/plain)"]
    assert await chat.send_photo(content, caption="see") == [f"see: {digest}"]
    assert await chat.send_voice(content) == [f"None: {digest}"]


async def test_a_file_can_be_too_large_for_bots(chat: Chat) -> None:
    assert await chat.send_voice(b"x" * (DOWNLOAD_LIMIT + 1)) == [SORRY]


async def test_people_are_themselves(chat: Chat) -> None:
    bob = chat.person("Bob", language_code="de")
    assert (chat.user["id"], bob.user["id"]) == (1, 2)
    assert chat.person("Bob").user is bob.user
    assert await bob.say("/start") == ["Hallo!"]
    assert await chat.say("/start") != ["Hallo!"]
    await bob.say("hi")
    assert await bob.state() == {"last_message": "hi", "message_count": 1}
    assert await chat.state() == {}


async def test_a_group_has_members(chat: Chat) -> None:
    team = await chat.group("Team", "Bob")
    assert team.texts == ["in Team: member", "welcome, Bot"]
    bob = team.person("Bob")
    assert await bob.say("hi") == ["Processed: hi (#1)"]
    assert await bob.state() == await chat.person("Bob").state() != {}
    assert await team.join("Eve") == ["Eve: member", "welcome, Eve"]
    assert await team.leave("Eve") == ["Eve: left"]
    assert await team.say("/export") == [Texts().only_in_private]
    assert (chat.texts, chat.person("Bob").texts) == ([], [])
    assert team.person("Bob").texts == team.texts
    assert (await chat.group("Team")).chat["id"] != team.chat["id"]


async def test_what_shows_elsewhere_is_no_answer_here(chat: Chat) -> None:
    bob = chat.person("Bob")
    assert await chat.say("tell 2") == ["Processed: tell 2 (#1)"]
    assert bob.texts == ["psst"]
    assert [call.params["text"] for call in chat.replies] == ["psst", "Processed: tell 2 (#1)"]


async def test_an_edit_is_an_update_of_its_own(chat: Chat) -> None:
    with pytest.raises(LookupError):
        await chat.edit("too early")
    await chat.say("helo")
    assert await chat.edit("hello") == ["edited: hello"]


async def test_any_content_can_be_sent(chat: Chat) -> None:
    assert await chat.send(location={"latitude": 52.5, "longitude": 13.4}) == [Texts().only_text]
    assert await chat.send(new_chat_title="x") == []


async def test_background_work_can_be_waited_for(chat: Chat) -> None:
    assert await chat.say("later done") == ["Processed: later done (#1)"]
    chat._bot.app.agent.is_time.set()  # type: ignore[attr-defined]
    assert await chat.settle() == ["done"]
    assert [call.params["text"] for call in chat.replies] == ["Processed: later done (#1)", "done"]


async def test_a_failure_shows(capsys: pytest.CaptureFixture[str], chat: Chat) -> None:
    await chat.say("hi")
    assert await chat.say("raise") == [SORRY]
    assert await chat.state() == {"last_message": "hi", "message_count": 1}
    assert "RuntimeError: the agent raised" in capsys.readouterr().err


async def test_telegram_can_be_told_what_to_answer(chat: Chat) -> None:
    assert await chat.say("ask get_chat_member") == [SORRY]
    user = {"id": 1, "is_bot": False, "first_name": "Ann"}
    chat.telegram.answers["getChatMember"] = {"status": "left", "user": user}
    (shown,) = await chat.say("ask get_chat_member")
    assert "left" in shown
    chat.telegram.answers["getChatMember"] = Refused(403, "Forbidden: bot is not a member")
    assert await chat.say("ask get_chat_member") == [SORRY]
    chat.telegram.answers["sendMessage"] = Refused(403, "Forbidden: bot was blocked by the user")
    assert await chat.say("hi") == []
    assert (await chat.state())["last_message"] == "hi"


async def test_an_awaited_text_is_not_split(chat: Chat) -> None:
    assert await chat.say("shout 4096") == ["x" * 4096, "Processed: shout 4096 (#1)"]
    assert await chat.say("shout 4097") == [SORRY]


async def test_an_update_comes_again(chat: Chat) -> None:
    with pytest.raises(LookupError):
        await chat.redeliver()
    await chat.say("hi")
    assert await chat.redeliver() == []
    assert await chat.state() == {"last_message": "hi", "message_count": 1}


async def test_a_restart_is_another_process(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    await chat.say("hi")
    assert (await store.load("1")).state == await chat.state()
    before = chat._bot.app
    await restart()
    assert chat._bot.app is not before
    assert await chat.state() == ({"last_message": "hi", "message_count": 1} if store.survives_exit else {})
    assert await chat.redeliver() == ["Processed: hi (#1)"]
    assert (await chat.state())["message_count"] == 1


async def test_a_restart_cuts_off_what_runs(chat: Chat, store: OperatorStore, restart: Restart) -> None:
    saying = asyncio.create_task(chat.say("sleep 60"))
    await asyncio.sleep(0.1)
    await restart()
    with pytest.raises(NotAcknowledged):
        await saying
    assert await chat.state() == {}


@pytest.fixture
def one_message_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOOD_LIMIT", "1")


async def test_a_fixture_sets_what_a_test_needs(
    one_message_a_minute: None, chat: Chat, store: OperatorStore
) -> None:
    assert await chat.say("hi") == ["Processed: hi (#1)"]
    (told,) = await chat.say("hi")
    assert told.startswith("That is more than I can take: 1 messages in 60 seconds.")


async def test_an_agent_that_cannot_connect_says_why(store: OperatorStore) -> None:
    class Unready(Agent):
        async def connect(self) -> None:
            raise OperatorError("LLM_URL is not set")

        async def close(self) -> None:
            raise AttributeError("there is nothing to close")

    bot = testing._RunningBot(Owner(agent=Unready), store)
    with pytest.raises(OperatorError, match="LLM_URL is not set"):
        await bot.start()


async def test_what_goes_wrong_is_not_hidden_by_an_agent_that_cannot_close(store: OperatorStore) -> None:
    class Unclosable(Agent):
        async def close(self) -> None:
            raise AttributeError("there is nothing to close")

    unclosable = Owner(agent=Unclosable)

    async def use() -> None:
        async with open_app(
            load_settings(), session=LocalTelegram().session, token=TOKEN, store=store, owner=unclosable
        ):
            raise LookupError("the reason")

    with pytest.raises(LookupError, match="the reason"):
        await use()
    await store.open()  # type: ignore[attr-defined] # again, as after a restart
    bot = testing._RunningBot(unclosable, store)
    await bot.start()
    with pytest.raises(AttributeError, match="nothing to close"):
        await bot.stop()


async def test_an_agent_connects_to_a_store_that_is_the_bots(store: OperatorStore) -> None:
    began = []

    class Eager(Agent):
        async def connect(self) -> None:
            began.append(self.store)

    bot = testing._RunningBot(Owner(agent=Eager), store)
    await store.bind(bot.telegram.me["id"] + 1)
    with pytest.raises(OperatorError, match="belongs to"):
        await bot.start()
    assert not began


@pytest.mark.parametrize("number", range(2))
async def test_each_test_finds_an_empty_store(chat: Chat, store: OperatorStore, number: int) -> None:
    assert [user async for user in store.users()] == []
    assert (await store.load("1")).version == 0
    await chat.say("hi")


CONFTEST = """
from bot.agent_adapter import TelegramAgentAdapter
from bot.runtime import testing
from bot.runtime.app import load_owner, open_app
from bot.runtime.config import load_settings
from bot.runtime.errors import OperatorError

testing.load_owner = lambda: testing.Owner(agent=TelegramAgentAdapter)
pytest_plugins = ["bot.runtime.testing"]
"""

TEST = """
from bot.agent_adapter import Environment


class OwnSettings(Environment):
    own_setting: str = "not there"


async def test_it(chat, store):
    assert await chat.say("/start")
    assert await store.raw("1")
    assert OwnSettings().own_setting == "not there"
"""


def test_no_setting_reaches_a_test_from_outside(tmp_path: Path) -> None:
    """Neither from a `.env` file nor from the environment; and nothing is left in the folder."""
    (tmp_path / ".env").write_text("NAMESPACE=not:allowed\nLOG_LEVEL=loud\nOWN_SETTING=there\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TEST)
    environment = os.environ | {
        "PYTHONPATH": str(Path(bot.__file__).parents[1]),
        "OWN_SETTING": "there",
        "PORT": "http",
        "FLOOD_LIMIT": "-1",
        "REDIS_URL": "nonsense",
        "DATABASE_URL": "nonsense",
        "AWS_REGION": "nowhere",
        "GOOGLE_CLOUD_PROJECT": "somebodys-own",
    }
    files = sorted(tmp_path.iterdir())
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "."],
        cwd=tmp_path,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout or "no emulator is installed" in result.stdout
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize("router", ["", "before", "after"])
def test_an_owner_need_not_have_every_router(monkeypatch: pytest.MonkeyPatch, router: str) -> None:
    """Nor texts: `bot/agent.py` is enough."""
    agent, handlers = ModuleType("bot.agent"), ModuleType("bot.handlers")
    agent.__dict__["Agent"] = CountingAgent
    handlers.__spec__ = ModuleSpec("bot.handlers", None)
    if router:
        handlers.__dict__[router] = Router(name=router)
    monkeypatch.setitem(sys.modules, "bot.agent", agent)
    monkeypatch.setitem(sys.modules, "bot.handlers", handlers)
    owner = load_owner()
    assert [each.name for each in (*owner.before, *owner.after)] == [router] * bool(router)
