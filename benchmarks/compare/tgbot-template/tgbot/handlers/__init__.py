"""All routers, in the order in which they are asked."""

from tgbot.handlers.counter import counter_router

routers_list = [counter_router]
