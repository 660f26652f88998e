"""pyTelegramBotAPI as it is by default: state in memory."""

from counter import run
from telebot.storage import StateMemoryStorage

run(StateMemoryStorage())
