"""Telegram, as one bot sees it: everything put together."""

from dataclasses import dataclass

from suite.bot_api.albums import Albums
from suite.bot_api.checklists import Checklists
from suite.bot_api.commands import Commands
from suite.bot_api.drafts import Drafts
from suite.bot_api.messages import Messages
from suite.bot_api.payments import Payments
from suite.bot_api.people import People
from suite.bot_api.rich import Rich


@dataclass(eq=False, repr=False)
class FakeTelegram(People):
    """A server with all methods it has; see the package for what one does with it.

    Attributes:
        files: every file there is; `files.life`, `files.local_folder`.
        drafts: what is streamed; `drafts.life`.
        payments: what people bought; `payments.answer_within`.
        checklists: what people do with checklists.
        commands: the bot's menu, by scope and language.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.commands = Commands(self)
        self.drafts = Drafts(self)
        self.payments = Payments(self)
        self.checklists = Checklists(self)
        Messages(self)
        Albums(self)
        Rich(self)
