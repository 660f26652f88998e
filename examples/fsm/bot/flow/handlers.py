"""The conversation's handlers: each takes an answer, keeps it, moves on, and returns the next question.

Step and answers are part of the user's record, and are committed in one piece with whatever else the update
changes. So a bot that is killed between two steps goes on where it was, and the last answer is kept together
with what is made of all of them, or not at all. Replies are returned, un-awaited, to go out after the commit.

Who stops half-way stays at the step for as long as `FSM_TTL` says. After that, step and answers are gone
together, and what the user writes goes to the agent.
"""

from typing import Any

from aiogram import F, Router
from aiogram.filters import Command, StateFilter
from aiogram.filters.callback_data import CallbackData
from aiogram.fsm.context import FSMContext
from aiogram.fsm.state import State
from aiogram.methods import TelegramMethod
from aiogram.types import (
    CallbackQuery,
    InaccessibleMessage,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
)

from bot.agent_adapter import TelegramAgentAdapter

from .steps import (
    STEPS,
    STYLES,
    AnswerRefused,
    ConversationStates,
    question,
    read_name,
    read_year,
)

MENU = {
    "en": {
        "profile": "Tell me about yourself, in three steps",
        "cancel": "Leave that without keeping anything",
    },
}
"""What the commands do, by language, for Telegram's menu and `/help`."""

CANCELLED = "Cancelled. I keep nothing of it."
NOTHING_TO_CANCEL = "There is nothing to cancel. /profile begins."
NOT_OPEN = "This button is no longer in use, or it is not yours. /profile begins anew."
PRESS_A_BUTTON = "Please press a button, or send /cancel."
SAVED = "Saved. I shall remember that."


SAID = {"animation", "audio", "document", "photo", "sticker", "text", "video", "video_note", "voice"}
"""The kinds of messages that are taken for an answer, if perhaps for none of use."""


class Press(CallbackData, prefix="profile", sep="|"):
    """What a button says.

    Attributes:
        run: which run of the conversation it belongs to.
        step: the step whose question it stands under.
        what: a choice of that step, `back` or `cancel`.
    """

    run: int
    step: str
    what: str


def router() -> Router:
    """The conversation's router. The bot asks it after its commands and before the agent."""
    router = Router(name="profile")
    under_way = StateFilter(ConversationStates)

    router.message.filter(is_an_answer)
    router.message(Command("profile"))(begin)
    router.message(Command("cancel"), under_way)(cancel)
    router.message(Command("cancel"))(nothing_to_cancel)
    router.message(StateFilter(ConversationStates.step_1))(handle_step_1)
    router.message(StateFilter(ConversationStates.step_2))(handle_step_2)
    router.message(under_way)(ask_again)

    pressed = router.callback_query
    pressed(Press.filter(F.what == "back"), is_open)(back_pressed)
    pressed(Press.filter(F.what == "cancel"), is_open)(cancel_pressed)
    pressed(StateFilter(ConversationStates.step_3), Press.filter(F.what.in_(STYLES)), is_open)(handle_step_3)
    pressed(StateFilter(ConversationStates.summary), Press.filter(F.what == "save"), is_open)(save)
    pressed(Press.filter())(not_open)
    return router


async def is_an_answer(message: Message) -> bool:
    """Whether somebody said something, as opposed to Telegram telling about a new title, member or pin."""
    return message.content_type in SAID


async def is_open(
    query: CallbackQuery, callback_data: Press, state: FSMContext, raw_state: str | None
) -> bool:
    """Whether the button stands under the question that waits for an answer.

    It does not when it is pressed a second time, when it is old, or when it is somebody else's.
    """
    return callback_data.step == raw_state and callback_data.run == await state.get_value("run")


async def begin(message: Message, state: FSMContext) -> TelegramMethod[Any]:
    """Ask the first question. Who is under way begins anew; the buttons of the run before are then dead."""
    await state.set_data({"run": message.message_id})
    return message.answer(**await _move(state, ConversationStates.step_1))


async def handle_step_1(message: Message, state: FSMContext) -> TelegramMethod[Any]:
    """Take the name."""
    try:
        name = read_name(message.text)
    except AnswerRefused as refused:
        return message.answer(str(refused))
    await state.update_data(name=name)
    return message.answer(**await _move(state, ConversationStates.step_2))


async def handle_step_2(message: Message, state: FSMContext) -> TelegramMethod[Any]:
    """Take the year of birth."""
    try:
        year = read_year(message.text, message.date.year)
    except AnswerRefused as refused:
        return message.answer(str(refused))
    await state.update_data(born=year)
    return message.answer(**await _move(state, ConversationStates.step_3))


async def handle_step_3(query: CallbackQuery, callback_data: Press, state: FSMContext) -> TelegramMethod[Any]:
    """Take the choice, and show everything."""
    await state.update_data(style=callback_data.what)
    return _show(query, **await _move(state, ConversationStates.summary))


async def save(query: CallbackQuery, state: FSMContext, agent: TelegramAgentAdapter) -> TelegramMethod[Any]:
    """Put the answers into the user's state, where the agent finds them, and end the conversation."""
    data = await state.get_data()
    agent.turn.state["profile"] = {key: data[key] for key in ("name", "born", "style")}
    await state.clear()
    return _show(query, SAVED)


async def ask_again(message: Message, state: FSMContext, raw_state: str) -> list[TelegramMethod[Any]]:
    """Repeat a question that only a button answers; its buttons may have scrolled away."""
    (step,) = (step for step in STEPS if step.state == raw_state)
    return [message.answer(PRESS_A_BUTTON), message.answer(**await _move(state, step))]


async def back_pressed(query: CallbackQuery, state: FSMContext, raw_state: str) -> TelegramMethod[Any]:
    """Ask the question before again."""
    (index,) = (index for index, step in enumerate(STEPS) if step.state == raw_state)
    return _show(query, **await _move(state, STEPS[index - 1]))


async def cancel(message: Message, state: FSMContext) -> TelegramMethod[Any]:
    """End the conversation at the user's word."""
    await state.clear()
    return message.answer(CANCELLED)


async def cancel_pressed(query: CallbackQuery, state: FSMContext) -> TelegramMethod[Any]:
    """End the conversation at the press of a button."""
    await state.clear()
    return _show(query, CANCELLED)


async def nothing_to_cancel(message: Message) -> TelegramMethod[Any]:
    """Say that no conversation is under way."""
    return message.answer(NOTHING_TO_CANCEL)


async def not_open(query: CallbackQuery) -> TelegramMethod[Any]:
    """Say why the button does nothing."""
    return query.answer(NOT_OPEN, show_alert=True)


async def _move(state: FSMContext, step: State) -> dict[str, Any]:
    """Move to a step.

    Returns:
        Its question, as arguments of a message.
    """
    await state.set_state(step)
    data = await state.get_data()
    return {"text": question(step, data), "reply_markup": _keyboard(step, data["run"])}


def _keyboard(step: State, run: int) -> InlineKeyboardMarkup:
    rows: list[list[tuple[str, str]]] = [[("back", "Back"), ("cancel", "Cancel")]]
    if step == ConversationStates.step_1:
        rows = [[("cancel", "Cancel")]]
    elif step == ConversationStates.step_3:
        rows.insert(0, list(STYLES.items()))
    elif step == ConversationStates.summary:
        rows.insert(0, [("save", "Yes, save it")])

    def button(what: str, text: str) -> InlineKeyboardButton:
        press = Press(run=run, step=step.state or "", what=what)
        return InlineKeyboardButton(text=text, callback_data=press.pack())

    return InlineKeyboardMarkup(inline_keyboard=[[button(*each) for each in row] for row in rows])


def _show(
    query: CallbackQuery, text: str, reply_markup: InlineKeyboardMarkup | None = None
) -> TelegramMethod[Any]:
    """Put a text into the place of the one whose button was pressed."""
    message = query.message
    assert message, "only a button of an inline query has no message"
    if isinstance(message, InaccessibleMessage):  # Telegram no longer lets bots change it
        return message.answer(text, reply_markup=reply_markup)
    return message.edit_text(text, reply_markup=reply_markup)
