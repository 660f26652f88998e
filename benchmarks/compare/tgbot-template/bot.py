"""A bot laid out as Latand/tgbot_template_v3 lays it out: what stands here comes with that template.

Written anew for this comparison. The owner adds `tgbot/handlers/counter.py`.
"""

import asyncio
import logging

import betterlogging
from aiogram import Bot, Dispatcher
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.fsm.storage.base import BaseStorage, DefaultKeyBuilder
from aiogram.fsm.storage.memory import MemoryStorage
from aiogram.fsm.storage.redis import RedisStorage
from tgbot.config import Config, load_config
from tgbot.handlers import routers_list
from tgbot.middlewares.config import ConfigMiddleware


def get_storage(config: Config) -> BaseStorage:
    if not config.use_redis:
        return MemoryStorage()
    keys = DefaultKeyBuilder(with_bot_id=True, with_destiny=True)
    return RedisStorage.from_url(config.redis_url, key_builder=keys)


async def main() -> None:
    betterlogging.basic_colorized_config(level=logging.INFO)
    config = load_config()
    session = AiohttpSession(api=TelegramAPIServer.from_base(config.telegram_api_url))
    bot = Bot(config.token, session=session, default=DefaultBotProperties(parse_mode="HTML"))
    dispatcher = Dispatcher(storage=get_storage(config))
    dispatcher.include_routers(*routers_list)
    dispatcher.message.outer_middleware(ConfigMiddleware(config))
    await dispatcher.start_polling(bot)


if __name__ == "__main__":
    asyncio.run(main())
