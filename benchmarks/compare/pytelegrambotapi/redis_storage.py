"""State in Redis, as the examples advise for production, and requests tried again."""

from os import environ

from counter import run
from telebot import apihelper
from telebot.storage import StateRedisStorage

apihelper.RETRY_ON_ERROR = True
run(StateRedisStorage(redis_url=environ["REDIS_URL"]))
