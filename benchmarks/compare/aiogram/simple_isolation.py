"""State in Redis; the updates of one user one after another, within this process."""

from os import environ

from aiogram import Dispatcher
from aiogram.fsm.storage.memory import SimpleEventIsolation
from aiogram.fsm.storage.redis import RedisStorage
from counter import run

storage = RedisStorage.from_url(environ["REDIS_URL"])
run(Dispatcher(storage=storage, events_isolation=SimpleEventIsolation()))
