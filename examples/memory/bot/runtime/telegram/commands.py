"""The commands that every bot has, what hands messages to the agent, and flood protection.

Handlers return their replies un-awaited: they are sent once the turn is committed, at least once and in
order. An awaited `message.answer()` goes out at once and outside that guarantee.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from aiogram import BaseMiddleware, Bot, Router
from aiogram.enums import ChatMemberStatus, ChatType
from aiogram.exceptions import ClientDecodeError, TelegramAPIError
from aiogram.filters.callback_data import CallbackData
from aiogram.methods import SendChatAction, TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    CallbackQuery,
    InaccessibleMessage,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    MessageGenerationStopped,
    TelegramObject,
)

from bot.runtime import metrics
from bot.runtime.errors import OperatorError
from bot.runtime.state.jobs import MICROSECONDS
from bot.runtime.state.record import is_person
from bot.runtime.state.turn import Turn, current_turn
from bot.runtime.telegram.agent import TelegramAgentAdapter, ask_to_forget
from bot.runtime.telegram.calls import FORMATS, TEXT_LIMIT, options_of, run_alongside, utf16_length
from bot.runtime.telegram.texts import MENU, Texts, TextTable
from bot.runtime.telegram.updates import (
    COMMAND,
    SENT_BY_PEOPLE,
    STOP_BUTTON,
    LruDict,
    answer,
    is_addressed,
    name_of,
)
from bot.runtime.telegram.updates import is_said as is_from_somebody

WAYS = ("edited", "business", "guest")
"""What `accepts` may name besides kinds of messages: ways in which they come."""

TYPING_DELAY = 1.0
"""Seconds an agent may think before the chat shows that the bot is typing."""

TYPING_LASTS = 5.0
"""Seconds for which Telegram shows it: https://core.telegram.org/bots/api#sendchataction"""

ADMINISTRATORS_SECONDS, ASKING_SECONDS = 60.0, 5.0
"""How long it counts that somebody is an administrator, and how long asking for it may take."""

FLOOD, CHATTER = "flood", "chatter"
"""Counters of messages: those for the bot, and what is said in groups to others."""

log = structlog.get_logger()

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]


class Forget(CallbackData, prefix="forget"):
    """What the buttons of `/forget` say."""

    user_id: int
    yes: bool


class Answer(CallbackData, prefix="ask"):
    """What the buttons of a question say, see `Turn.ask`. Nobody has to believe them: people can send others.

    Attributes:
        job: the id of the job that waits for the answer.
        choice: the number of the answer.
        person: who is asked; 0 for anybody.
        until: when it is too late, in seconds since 1970.
    """

    job: str
    choice: int
    person: int
    until: int


def commands() -> Router:
    """The router of `/start`, `/help`, `/reset`, `/export` and `/forget`, and of answers to questions."""
    router = Router(name="commands")
    router.message.filter(is_command)
    router.message(is_start)(start)
    router.message(named("help"))(help_)
    router.message(named("reset"))(reset)
    router.message(named("export"), is_private)(export)
    router.message(named("forget"), is_private)(forget)
    router.message(named("forget"), is_shared)(forget_here)
    router.message(named("export", "forget"))(only_in_private)
    router.callback_query(Forget.filter())(forget_pressed)
    router.callback_query(Answer.filter())(answered)
    router.message(is_stop)(stop)
    router.callback_query(is_stop_pressed)(stop_pressed)
    router.stopped_message_generation()(stopped)
    return router


def conversation(accepts: Collection[str], format: str = "plain") -> Router:
    """The router that hands to the agent what it accepts, and sends what it answers in its format.

    Raises:
        OperatorError: `accepts` has a name that stands for nothing, or `format` does.
    """
    if format not in FORMATS:
        raise OperatorError(f"Agent.format is {format!r}: it has to be one of these: {', '.join(FORMATS)}")
    if isinstance(accepts, str) or (unknown := set(accepts) - SENT_BY_PEOPLE - {"text", *WAYS}):
        named = accepts if isinstance(accepts, str) else ", ".join(sorted(map(str, unknown)))
        kinds = ", ".join(sorted({"text", *SENT_BY_PEOPLE, *WAYS}))
        raise OperatorError(f"Agent.accepts names {named}: it has to be a set of these: {kinds}")

    async def is_accepted(message: Message) -> bool:
        if message.text:
            return "text" in accepts
        # For older bots, a live photo is a photo, too.
        return message.content_type in accepts or bool(message.photo and "photo" in accepts)

    router = Router(name="conversation")
    router.message(is_accepted, is_for_this_bot)(converse)
    if "edited" in accepts:
        router.edited_message(is_accepted, is_for_this_bot)(converse)
    if "business" in accepts:
        router.business_message(is_accepted, is_by_a_customer)(converse)
    if {"edited", "business"} <= set(accepts):
        router.edited_business_message(is_accepted, is_by_a_customer)(converse)
    if "guest" in accepts:
        router.guest_message(is_accepted, is_for_this_bot)(converse)
    return router


def remainder(accepts: Collection[str]) -> Router:
    """The router that takes what nobody else does."""
    router = Router(name="remainder")
    router.message(is_said, is_for_this_bot)(only_text)
    if "guest" in accepts:
        router.guest_message(is_said, is_for_this_bot)(only_text)
    return router


# Filters are coroutines, though nothing is awaited: aiogram runs any other callable, and the expressions of
# its `F`, in a thread, which takes longer than all the rest of the dispatcher.


async def is_command(message: Message) -> bool:
    """Whether somebody gave a command, and did not only hand one on."""
    return (message.text or "").startswith("/") and message.forward_origin is None


def named(*names: str, is_alone: bool = False) -> Callable[[Message, Bot], Awaitable[bool]]:
    """A filter: whether a message is one of these commands, in upper or lower case, and for this bot.

    Args:
        names: of the commands.
        is_alone: nothing may follow it.
    """

    async def matches(message: Message, bot: Bot) -> bool:
        command = COMMAND.match(message.text or "")
        if not command or command["name"].lower() not in names or (is_alone and command["rest"]):
            return False
        return command["whose"] is None or await _is_named(command["whose"], bot)

    return matches


is_start = named("start", is_alone=True)
is_another = named(*MENU.keys() - {"start"})


async def is_always_answered(message: Message, bot: Bot) -> bool:
    """Whether `commands` takes it, and not the agent: that works in the middle of a flood, too."""
    return await is_command(message) and (await is_start(message, bot) or await is_another(message, bot))


async def is_for_this_bot(message: Message, bot: Bot) -> bool:
    """Whether to answer.

    Not another bot, nor what was sent by way of this one, nor a channel's posts as they come into its group
    by themselves, nor a command for another bot.
    """
    writer = message.from_user
    if (writer and writer.is_bot and not message.sender_chat) or message.is_automatic_forward:
        return False
    if message.via_bot and message.via_bot.id == bot.id:
        return False
    command = COMMAND.match(message.text or "")
    return not (command and command["whose"]) or await _is_named(command["whose"], bot)


async def is_by_a_customer(message: Message) -> bool:
    """Whether the business got this, as opposed to its owner, or the bot, having written it."""
    return bool(message.from_user and message.from_user.id == message.chat.id)


async def is_private(message: Message) -> bool:
    """Whether nobody but the sender reads along."""
    return message.chat.type == ChatType.PRIVATE


async def is_shared(message: Message) -> bool:
    """Whether what is kept is not about one person, but about all who write here."""
    turn = _turn()
    return not (turn.is_anonymous or is_person(turn.user_id))


async def start(message: Message, texts: TextTable) -> TelegramMethod[Any]:
    """Say hello."""
    return answer(message, _for(message, texts).hello)


async def help_(message: Message, texts: TextTable) -> TelegramMethod[Any]:
    """List the commands that work here."""
    language = message.from_user.language_code if message.from_user else None
    menu = texts.menu(language, is_private=await is_private(message))
    return answer(message, "\n".join(f"/{command} - {what}" for command, what in menu.items()))


async def reset(
    message: Message, bot: Bot, texts: TextTable, administrators: "Administrators"
) -> TelegramMethod[Any]:
    """Clear state, flows and the conversation here; where it concerns others, for administrators only."""
    if await is_shared(message) and (refusal := await administrators.refusal(message, bot, texts)):
        return refusal
    _turn().reset()
    return answer(message, _for(message, texts).reset)


async def export(message: Message, texts: TextTable, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
    """Send the user everything kept about them, all conversations included."""
    turn = _turn()
    everything = await agent.store.load(turn.user_id, None)
    data = orjson.dumps(turn.personal_data(everything), option=orjson.OPT_INDENT_2)
    name = f"my-data-{datetime.now(UTC):%Y-%m-%d}.json"
    return message.answer_document(BufferedInputFile(data, name), caption=_for(message, texts).export)


async def forget(message: Message, texts: TextTable) -> TelegramMethod[Any]:
    """Ask whether everything shall be erased."""
    words, user_id = _for(message, texts), message.from_user.id if message.from_user else 0
    yes = Forget(user_id=user_id, yes=True).pack()
    no = Forget(user_id=user_id, yes=False).pack()
    return message.answer(
        words.forget,
        reply_markup=InlineKeyboardMarkup(
            inline_keyboard=[
                [
                    InlineKeyboardButton(text=words.forget_yes, callback_data=yes),
                    InlineKeyboardButton(text=words.forget_no, callback_data=no),
                ]
            ]
        ),
    )


async def forget_here(
    message: Message, bot: Bot, texts: TextTable, administrators: "Administrators"
) -> TelegramMethod[Any]:
    """Erase everything about a group, at once."""
    if refusal := await administrators.refusal(message, bot, texts):
        return refusal
    _turn().forget()
    return answer(message, _for(message, texts).forgotten_here)


async def forget_pressed(
    query: CallbackQuery, callback_data: Forget, texts: TextTable, agent: TelegramAgentAdapter
) -> list[TelegramMethod[Any]] | TelegramMethod[Any]:
    """Erase everything, or leave it, if it is the person who was asked that pressed the button."""
    words = texts.of(query.from_user.language_code)
    if query.from_user.id != callback_data.user_id:
        return query.answer(words.not_your_button, show_alert=True)
    text = words.not_forgotten
    if callback_data.yes:
        _turn().forget()
        await ask_to_forget(agent, query.from_user.id)
        text = words.forgotten
    if query.message is None or isinstance(query.message, InaccessibleMessage):
        return query.answer(text, show_alert=True)
    return [query.message.edit_text(text), query.answer()]


async def answered(
    query: CallbackQuery, callback_data: Answer, texts: TextTable
) -> list[TelegramMethod[Any]] | TelegramMethod[Any]:
    """Take an answer to a question, whose method runs next, as a job; or say why not."""
    words, turn = texts.of(query.from_user.language_code), _turn()
    asked = {callback_data.person or None}
    asked |= {job.place.person for job in turn.jobs if job.id == callback_data.job}
    if asked - {None, query.from_user.id}:
        return query.answer(words.not_your_button, show_alert=True)
    label = turn.answer(callback_data.job, callback_data.choice)
    if label is None:
        is_late = callback_data.until <= turn.now // MICROSECONDS
        return query.answer(words.too_late if is_late else words.closed, show_alert=True)
    message = query.message
    if not isinstance(message, Message):
        return query.answer(label)
    text = f"{message.text}\n\n{label}"
    if utf16_length(text) > TEXT_LIMIT:
        return [message.edit_reply_markup(), query.answer(label)]
    return [message.edit_text(text, entities=message.entities), query.answer()]


async def is_stop(message: Message, bot: Bot, agent: TelegramAgentAdapter) -> bool:
    """Whether it is `/stop`, of an agent that can be stopped."""
    return agent.streams is not None and await named("stop", is_alone=True)(message, bot)


async def is_stop_pressed(query: CallbackQuery) -> bool:
    """Whether the button was pressed that stops an answer."""
    return STOP_BUTTON.fullmatch(query.data or "") is not None


async def stop(message: Message) -> None:
    """Do nothing: when it came, it stopped what was to be stopped. See `streaming.Streams.heed`."""


async def stop_pressed(query: CallbackQuery) -> None:
    """Do nothing, as `stop`."""


async def stopped(event: MessageGenerationStopped) -> None:
    """Do nothing, as `stop`: Telegram's own Stop."""


async def only_in_private(message: Message, texts: TextTable) -> TelegramMethod[Any]:
    """Keep personal matters out of groups."""
    return answer(message, _for(message, texts).only_in_private)


async def converse(message: Message, bot: Bot, agent: TelegramAgentAdapter) -> TelegramMethod[Any] | None:
    """Have the agent answer."""
    text = message.text or message.caption or ""
    is_there = message.guest_query_id is None
    with run_alongside(TYPING_DELAY, lambda: _show_typing(bot, message)) if is_there else nullcontext():
        reply = await agent.handle_message(user_id=_turn().user_id, message=text)
    return answer(message, reply, **options_of(agent.format)) if reply and reply.strip() else None


async def only_text(message: Message, texts: TextTable) -> TelegramMethod[Any]:
    """Say that this is nothing for the agent."""
    return answer(message, _for(message, texts).only_text)


class Administrators:
    """Who administrates which chat, as Telegram said lately."""

    def __init__(self) -> None:
        """Know nobody yet."""
        self._known: LruDict[tuple[float, bool]] = LruDict(1_000)

    async def refusal(self, message: Message, bot: Bot, texts: TextTable) -> TelegramMethod[Any] | None:
        """What to answer to somebody who may not do what concerns everybody; `None` to one who may."""
        try:
            if await self._may(message, bot):
                return None
        except (TelegramAPIError, ClientDecodeError, TimeoutError) as error:
            log.warning("Telegram does not say who is an administrator", reason=type(error).__name__)
            return answer(message, _for(message, texts).admins_unknown)
        return answer(message, _for(message, texts).only_admins)

    async def _may(self, message: Message, bot: Bot) -> bool:
        if message.chat.type == ChatType.PRIVATE:
            return True
        if message.sender_chat:
            return message.sender_chat.id == message.chat.id  # an administrator who stays anonymous
        if message.from_user is None:
            return False
        who = hash((message.chat.id, message.from_user.id))
        asked, is_one = self._known.get(who, (-ADMINISTRATORS_SECONDS, False))
        if time.monotonic() - asked > ADMINISTRATORS_SECONDS:
            async with asyncio.timeout(ASKING_SECONDS):
                member = await bot.get_chat_member(message.chat.id, message.from_user.id)
            is_one = member.status in (ChatMemberStatus.CREATOR, ChatMemberStatus.ADMINISTRATOR)
            self._known.set(who, (time.monotonic(), is_one))
        return is_one


class FloodProtection(BaseMiddleware):
    """Takes `limit` messages within `seconds`; the first one beyond is answered, later ones are not read.

    The count stands in the user's record and is part of the turn, so it is right whatever the number of
    replicas, and an update that comes again ends as it did before. It stays until its period is over, also
    when the user is forgotten. The time is Telegram's, so messages that waited while the bot was down are no
    flood. In a group, what is not for the bot is counted apart, and nobody is told. Channels and anonymous
    admins, of whom there is no record, are counted by this process.
    """

    def __init__(self, limit: int, seconds: int, texts: TextTable) -> None:
        """Protect the handlers of messages."""
        self._limit = limit
        self._seconds = seconds
        self._texts = texts
        self._of_nobody: LruDict[dict[str, list[int]]] = LruDict()

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        """Pass a message on, or do not."""
        turn = current_turn()
        if turn is None or not isinstance(event, Message) or not await is_said(event):
            return await handler(event, data)
        if await is_always_answered(event, data["bot"]):
            return await handler(event, data)
        counters = turn.counters
        if event.sender_chat and turn.is_anonymous:
            counters = self._of_nobody.get(event.sender_chat.id, {})
            self._of_nobody.set(event.sender_chat.id, counters)
        name = None if await is_private(event) else await name_of(data["bot"])
        is_for_bot = is_addressed(event, data["bot"].id, name)
        until, number = self._count(counters, FLOOD if is_for_bot else CHATTER, event)
        if number <= self._limit:
            return await handler(event, data)
        metrics.FLOODED.inc()
        if number > self._limit + 1 or not is_for_bot:
            return None
        left = until - int(event.date.timestamp())
        texts = self._texts.of(event.from_user.language_code if event.from_user else None)
        return answer(event, texts.flood.format(limit=self._limit, period=self._seconds, left=max(1, left)))

    def _count(self, counters: dict[str, list[int]], name: str, message: Message) -> tuple[int, int]:
        """Count a message: when the period ends that it falls into, and its number in there."""
        sent = int(message.date.timestamp())
        until, number = counters.get(name, (0, 0))
        if sent >= until:
            until, number = sent + self._seconds, 0
        counters[name] = [until, number + 1]
        return until, number + 1


async def _is_named(name: str, bot: Bot) -> bool:
    """Whether this is the bot's user name; when Telegram does not say, it may be."""
    return name.lower() == (await name_of(bot) or name.lower())


async def is_said(message: Message) -> bool:
    """A filter: whether somebody wrote or sent this, as opposed to Telegram telling about something."""
    return is_from_somebody(message)


def _for(message: Message, texts: TextTable) -> Texts:
    return texts.of(message.from_user.language_code if message.from_user else None)


def _turn() -> Turn:
    turn = current_turn()
    assert turn, "handlers run inside a turn"
    return turn


async def _show_typing(bot: Bot, message: Message) -> None:
    """Show in the message's chat that the bot is typing, for as long as this and the turn last."""
    thread_id = message.message_thread_id if message.is_topic_message else None
    action = SendChatAction(
        chat_id=message.chat.id,
        action="typing",
        message_thread_id=thread_id,
        business_connection_id=message.business_connection_id,
    )
    while _turn().is_open and not _turn().is_shown:
        await bot(action)
        await asyncio.sleep(TYPING_LASTS - 0.5)
