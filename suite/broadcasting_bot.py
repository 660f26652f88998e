"""The command line, by which a broadcast takes less time: `python -m suite.broadcasting_bot broadcast`."""

import os
import sys

from bot.runtime.cli import main
from bot.runtime.telegram.fast_import import import_aiogram

if __name__ == "__main__":
    sys.argv[0] = "bot"
    import_aiogram()
    from bot.runtime import broadcast

    broadcast.A_SECOND, broadcast.AT_ONCE = 400, 5
    broadcast.LEASE_SECONDS = int(os.environ["LEASE"])
    main()
