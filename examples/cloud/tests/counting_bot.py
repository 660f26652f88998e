"""The command line with the tests' agent in place of yours: `python -m tests.counting_bot run`."""

import bot.agent
from bot.cli import main
from tests.agents import CountingAgent

if __name__ == "__main__":
    bot.agent.Agent = CountingAgent  # type: ignore[assignment, misc]
    main()
