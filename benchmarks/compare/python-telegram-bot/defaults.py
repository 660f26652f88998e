"""python-telegram-bot as it is by default: user data in memory."""

from counter import builder, run

run(builder().build())
