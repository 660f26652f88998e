"""What the address of a provider's PostgreSQL says: which server, and who may vouch for it.

Providers sign their servers' certificates themselves, so no system knows their authorities; and the addresses
they hand out say `sslmode=require`, which encrypts without asking who is at the other end. Here an address
without a word on it means `verify-full`, with the authorities' certificates from where the provider's module
says.
"""

import ssl
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from bot.errors import OperatorError
from bot.state.postgres_database import DatabaseSettings
from bot.state.store import Finding


class PostgresAddress:
    """A `postgresql://` address, taken apart.

    Attributes:
        host: the server's name, empty for a socket.
        port: 5432 where nothing is said.
        user: the name in the address, empty where there is none.
        has_password: whether there is one in the address.
        sslmode: what it says of encryption, if anything.
        names_authority: whether it names a file of certificates itself.
    """

    def __init__(self, url: str) -> None:
        """Take it apart.

        Args:
            url: one that `DatabaseSettings` took.
        """
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.host = parts.hostname or ""
        self.port = parts.port or 5432
        self.user = parts.username or query.get("user", "")
        self.has_password = bool(parts.password or "password" in query)
        self.sslmode = query.get("sslmode")
        self.names_authority = "sslrootcert" in query

    @classmethod
    def within(cls, domains: tuple[str, ...], settings: DatabaseSettings) -> Self | None:
        """The address that is set, if it is in one of these domains, each with its dot in front."""
        if settings.database_url is None:
            return None
        address = cls(settings.database_url.get_secret_value())
        return address if address.host.endswith(domains) else None

    @property
    def wants_authority(self) -> bool:
        """Whether the server is to be verified, with certificates that somebody else has to name."""
        return self.sslmode in (None, "verify-full") and not self.names_authority

    def encryption(self) -> Finding:
        """What `bot doctor` says of it."""
        if self.sslmode in (None, "verify-full"):
            return Finding("ok", "the connection is encrypted, and the server verified (verify-full)")
        if self.sslmode == "disable":
            text = "DATABASE_URL says sslmode=disable: whoever is in between reads everything"
        else:
            text = f"DATABASE_URL says sslmode={self.sslmode}, which believes any server that answers"
        return Finding("error", f"{text}: leave it out, or say sslmode=verify-full")


def trust(certificates: str, otherwise: str) -> ssl.SSLContext:
    """Trust servers that one of these authorities vouches for, under the name they are called by.

    Args:
        certificates: as PEM.
        otherwise: what to do when they are none.

    Raises:
        OperatorError: they are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=certificates)
    except (ssl.SSLError, ValueError):
        raise OperatorError(f"the database's certificate cannot be verified: {otherwise}") from None
    return context


def trust_file(file: Path, otherwise: str) -> ssl.SSLContext:
    """Like `trust`, with the certificates from a file."""
    return trust(file.read_text("ascii") if file.exists() else "", otherwise)
