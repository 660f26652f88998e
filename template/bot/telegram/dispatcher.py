"""The dispatcher: aiogram's, with its flows kept in the store and the agent at hand."""

from aiogram import Dispatcher

from bot.agent_adapter import TelegramAgentAdapter
from bot.state.fsm import RecordStorage
from bot.state.store import StateStore
from bot.telegram.handlers import routers


def make_dispatcher(store: StateStore, agent: TelegramAgentAdapter) -> Dispatcher:
    """Make the dispatcher; `bot run` and `bot chat` use the same."""
    dispatcher = Dispatcher(storage=RecordStorage(store), agent=agent)
    dispatcher.include_routers(*routers())
    return dispatcher
