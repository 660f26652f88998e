"""User data in a file, and requests slowed down and tried again, as the wiki advises for production."""

from counter import builder, run
from telegram.ext import AIORateLimiter, PicklePersistence

persistence = PicklePersistence(filepath="counter.pickle")
run(builder().persistence(persistence).rate_limiter(AIORateLimiter(max_retries=5)).build())
