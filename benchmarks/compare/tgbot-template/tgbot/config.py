"""Settings, from the environment."""

from dataclasses import dataclass

from environs import Env


@dataclass
class Config:
    token: str
    telegram_api_url: str
    use_redis: bool
    redis_url: str


def load_config() -> Config:
    env = Env()
    return Config(
        token=env.str("BOT_TOKEN"),
        telegram_api_url=env.str("TELEGRAM_API_URL"),
        use_redis=env.bool("USE_REDIS", False),
        redis_url=env.str("REDIS_URL", ""),
    )
