"""What the address of a provider's Redis must not say."""

from bot.runtime.engines.redis.connection import Address, RedisSettings
from bot.runtime.errors import OperatorError


def refuse_unchecked(settings: RedisSettings) -> None:
    """See to it that an encrypted connection leads to whom it is meant for: it goes over networks of others.

    Raises:
        OperatorError: `REDIS_URL` says that the server's certificate does not count.
    """
    if settings.redis_url and Address.of_url(settings.redis_url.get_secret_value()).is_unchecked:
        raise OperatorError(
            "REDIS_URL turns checks of the server's certificate off (ssl_cert_reqs, ssl_check_hostname): "
            "leave that out, and set REDIS_CA_FILE to the server's certificate authority"
        )
