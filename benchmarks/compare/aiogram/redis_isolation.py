"""State in Redis; the updates of one user one after another, by a lock in Redis."""

from os import environ

from aiogram import Dispatcher
from aiogram.fsm.storage.redis import RedisStorage
from counter import run

storage = RedisStorage.from_url(environ["REDIS_URL"])
run(Dispatcher(storage=storage, events_isolation=storage.create_isolation()))
