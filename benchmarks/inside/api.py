"""The fake Bot API of the rendered tests, in a process of its own.

Prints its address, then each call as it arrives, as lines of JSON. Each line of input has a new person write.
"""

import asyncio
import itertools
import json
import sys

from suite.bot_api import Call, FakeTelegram


class _Announced(list[Call]):
    def append(self, call: Call) -> None:
        """Tell of the call."""
        super().append(call)
        _say({"method": call.method, "at": call.at})


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


async def main() -> None:
    """Serve until killed."""
    async with FakeTelegram() as telegram:
        telegram.calls = _Announced()
        _say({"url": telegram.url})
        for user_id in itertools.count(1):
            if not await asyncio.to_thread(sys.stdin.readline):
                return
            telegram.message("hello", user_id=user_id)


asyncio.run(main())
