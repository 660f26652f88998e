"""Your routers, and the words people read. Edit it like `agent.py`: an update never touches it.

Handlers return their replies instead of awaiting them, so that a reply goes out once what the message changed
is kept, and is not lost when the bot is killed in between:

    @before.message(CommandStart())
    async def start(message: Message) -> SendMessage:
        return message.answer("Welcome!")
"""

from aiogram import Router

from bot.agent_adapter import Texts

before = Router(name="before")
"""Asked first: a `/start` of your own, payments, whatever shall not reach your agent."""

after = Router(name="after")
"""Asked last: what no command and no agent took, such as photos."""

TEXTS = {
    "en": Texts(
        hello="Hello! Write to me. I remember what you tell me; /help says what else I can do.",
        only_text="I cannot read messages of this kind, so far.",
        sorry="Sorry, something went wrong with this message. Please try another one.",
        menu={
            "start": "Say hello",
            "help": "What I can do",
            "reset": "Start afresh: clear state and conversation",
            "export": "Get a copy of what I keep about you",
            "forget": "Erase everything I keep about you",
        },
    ),
}
"""What the bot says besides your agent, by language; the first is for everybody whose language is not here.

`Texts` has more of them. The menu of commands shows, and `/help` lists, what stands in `menu`: add your own.
"""
