"""The dispatcher: aiogram's, with its flows kept in the store and the agent at hand."""

from aiogram import Dispatcher
from aiogram.fsm.strategy import FSMStrategy

from bot.agent_adapter import TelegramAgentAdapter
from bot.config import Settings
from bot.state.fsm import RecordStorage
from bot.state.store import StateStore
from bot.telegram.flood import FloodProtection
from bot.telegram.handlers import routers


def make_dispatcher(store: StateStore, agent: TelegramAgentAdapter, settings: Settings) -> Dispatcher:
    """Make the dispatcher; `bot run` and `bot chat` use the same."""
    dispatcher = Dispatcher(
        storage=RecordStorage(store, settings.fsm_ttl),
        # A flow is of one person in one chat and, in a forum, in one topic.
        fsm_strategy=FSMStrategy.USER_IN_TOPIC,
        agent=agent,
    )
    if settings.flood_limit:
        flood = FloodProtection(settings.flood_limit, settings.flood_seconds)
        dispatcher.message.outer_middleware(flood)
    dispatcher.include_routers(*routers())
    return dispatcher
