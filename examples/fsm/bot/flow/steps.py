"""What the conversation asks, in which order, and which answers it takes.

Nothing here changes anything: that is done in `handlers.py`.
"""

from typing import Any

from aiogram.fsm.state import State, StatesGroup


class ConversationStates(StatesGroup):
    """The steps. Renaming one ends it for those who are at it."""

    step_1 = State()  # the name
    step_2 = State()  # the year of birth
    step_3 = State()  # how to answer, by a button
    summary = State()  # all of it, to confirm


STEPS = (
    ConversationStates.step_1,
    ConversationStates.step_2,
    ConversationStates.step_3,
    ConversationStates.summary,
)

STYLES = {"brief": "Briefly", "detailed": "In detail"}
"""What can be chosen at step 3: the value that is kept, and the text of its button."""

LONGEST_NAME = 50
OLDEST = 130


class AnswerRefused(Exception):
    """The answer cannot be taken. The text is for the user and says why."""


def read_name(text: str | None) -> str:
    """The name in an answer to step 1.

    Raises:
        AnswerRefused: it is none.
    """
    name = " ".join((text or "").split())
    if not name or name.startswith("/"):
        raise AnswerRefused("Please write your name, or /cancel.")
    if len(name) > LONGEST_NAME:
        raise AnswerRefused(f"Please shorten it to {LONGEST_NAME} characters.")
    return name


def read_year(text: str | None, this_year: int) -> int:
    """The year in an answer to step 2.

    Raises:
        AnswerRefused: it is none in which somebody alive was born.
    """
    digits = (text or "").strip()
    if not (digits.isdecimal() and len(digits) == 4 and this_year - OLDEST <= int(digits) <= this_year):
        raise AnswerRefused("Please write the year with four digits, such as 1990, or /cancel.")
    return int(digits)


def question(step: State, data: dict[str, Any]) -> str:
    """What to say on arrival at a step.

    Args:
        step: one of `STEPS`.
        data: the answers to those before it.
    """
    if step == ConversationStates.step_1:
        return "1/3. What is your name?"
    if step == ConversationStates.step_2:
        return f"2/3. Hello, {data['name']}! In which year were you born?"
    if step == ConversationStates.step_3:
        return "3/3. How shall I answer you?"
    style = STYLES[data["style"]].lower()
    return f"You are {data['name']}, born in {data['born']}, and want to be answered {style}. Is that right?"
