"""A Telegram agent bot that does not forget."""
