"""A Telegram Bot API server for tests, over real HTTP, on this machine.

Any client may talk to it: ``AiohttpSession(api=TelegramAPIServer.from_base(telegram.url))`` in
this process, or a bot in another process that is killed half way. It keeps Telegram's rules on
delivery (tdlib/telegram-bot-api is the model), is strict about what it is sent, and fails on
demand.

    async with FakeTelegram() as telegram:
        update_id = telegram.message("hello", user_id=1)   # ... the bot under test runs ...
        await telegram.settled()
        assert telegram.texts(1) == ["Hello!"]

All times are in seconds. Nothing is forgotten by ``stop()``: ``start()`` goes on from there.

What people do: `message`, `edit`, `callback`, `press`, `attachment`, `album`, `push` (any update), and
`drafts.stop`, `payments.buy`, `checklists.send` and `checklists.tick`. What the bot did: `texts`, `sent`,
`messages`, `calls`, `drafts.shown`, `payments.purchases`. What goes wrong: `fail`, `bad_gateway`,
`drop_answer`, `delay`, `repeat`, `expire`, `reorder`, `block`.

It can be taught what it does not know, with the means that its own methods are made with:

    @telegram.method("sendDice", "chat_id emoji")
    async def send_dice(call: Call) -> Json:
        message = telegram.new_message(telegram.writable(call), {"dice": {"emoji": "🎲", "value": 4}})
        return telegram.record(call, message)

    async def slow_then_busy(call: Call) -> None:        # runs before what is asked is done
        await asyncio.sleep(1)
        raise ApiError(503, "Service Unavailable")

    telegram.fault("sendDice", slow_then_busy, times=2)
"""

from suite.bot_api.call import Call, Json
from suite.bot_api.chats import Sent
from suite.bot_api.errors import ApiError, BadGatewayError, bad_request
from suite.bot_api.telegram import FakeTelegram
from suite.bot_api.webhooks import Webhook

__all__ = ["ApiError", "BadGatewayError", "Call", "FakeTelegram", "Json", "Sent", "Webhook", "bad_request"]
