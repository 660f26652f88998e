"""aiogram as it is by default: state in memory."""

from aiogram import Dispatcher
from counter import run

run(Dispatcher())
