"""The command line with the tests' agent in place of the owner's: `python -m suite.counting_bot run`."""

from bot.runtime.cli import main
from suite.agents import CountingAgent
from suite.owner import put_in_place

if __name__ == "__main__":
    put_in_place(CountingAgent)
    main()
