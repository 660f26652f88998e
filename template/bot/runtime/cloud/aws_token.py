"""Passwords that AWS takes for 15 minutes: a request, signed with the credentials of whoever runs this."""

from functools import cached_property

from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from bot.runtime.errors import StateUnavailable

LIFETIME = 900
"""Seconds for which a token opens connections, as RDS and ElastiCache have it; it ends none that is open.
https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.html
https://docs.aws.amazon.com/AmazonElastiCache/latest/dg/auth-iam.html"""


class AwsSigner:
    """Signs tokens with the credentials that the SDK finds: environment, profile, container, machine."""

    def __init__(self, service: str, region: str) -> None:
        """Name whom the tokens are for.

        Args:
            service: the name that signatures carry, such as `rds-db`.
            region: where it is, such as `eu-central-1`.
        """
        self._service = service
        self._region = region

    def token(self, host: str, **parameters: str) -> str:
        """Sign a request to `https://HOST/`; blocks while credentials are fetched or renewed.

        Args:
            host: whom it is for, with the port where the service wants it.
            parameters: what it asks for, such as `Action`.

        Raises:
            StateUnavailable: there are no credentials, or they cannot be renewed; the text says what to do.
        """
        request = AWSRequest("GET", f"https://{host}/", params=parameters)
        try:
            frozen = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:
            raise StateUnavailable(f"AWS credentials cannot be renewed ({_reason(error)})") from None
        SigV4QueryAuth(frozen, self._service, self._region, expires=LIFETIME).add_auth(request)
        url: str = request.prepare().url
        return url.removeprefix("https://")

    @cached_property
    def _credentials(self) -> Credentials:
        """Kept, because they renew themselves."""
        try:
            found = Session().get_credentials()
        except (BotoCoreError, ClientError) as error:
            raise StateUnavailable(f"AWS credentials cannot be read ({_reason(error)})") from None
        if found is None:
            raise StateUnavailable(
                "there are no AWS credentials: run this under a role that has some, or set AWS_PROFILE"
            )
        return found


def _reason(error: BotoCoreError | ClientError) -> str:
    """What kind of error, in a word: what the service calls it that refuses, or the SDK."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "refused"))
    return type(error).__name__
