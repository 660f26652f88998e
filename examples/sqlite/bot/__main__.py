"""`python -m bot` is the command `bot`."""

from bot.runtime.cli import main

main()
