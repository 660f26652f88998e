"""What your tests share. The fixtures `chat`, `store` and `restart` come with the template."""

pytest_plugins = ["bot.runtime.testing"]
