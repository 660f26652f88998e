"""State in Redis, as aiogram's page on storages advises for production."""

from os import environ

from aiogram import Dispatcher
from aiogram.fsm.storage.redis import RedisStorage
from counter import run

run(Dispatcher(storage=RedisStorage.from_url(environ["REDIS_URL"])))
