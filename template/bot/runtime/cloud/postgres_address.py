"""What the address of a provider's PostgreSQL says: which server, and which certificate authorities to trust.

Providers sign their servers' certificates themselves, so no system knows their authorities; and the addresses
they hand out say `sslmode=require`, which encrypts without asking who is at the other end. Here an address
without a word on it means `verify-full`, with the authorities' certificates from the file that it names
itself (`sslrootcert`) or else from where the provider's module says.
"""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from bot.runtime.engines.postgres.connection import DatabaseSettings
from bot.runtime.errors import OperatorError
from bot.runtime.state.store import Finding


class PostgresAddress:
    """A `postgresql://` address, taken apart.

    Attributes:
        host: the server's name, or the folder of its socket.
        port: 5432 where nothing is said.
        user: the name in the address, empty where there is none.
        has_password: whether there is one in the address.
        sslmode: what it says of encryption, if anything.
        authority: the file of certificates that it names itself, if any.
    """

    def __init__(self, url: str) -> None:
        """Take it apart.

        Args:
            url: one that `DatabaseSettings` took.

        Raises:
            OperatorError: it names several servers, or a port that is none.
        """
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        where = parts.netloc.rpartition("@")[2] or query.get("host", "")
        if "," in where:
            raise OperatorError("DATABASE_URL names several servers: name one, which the provider keeps up")
        try:
            port = parts.port or int(query.get("port", 5432))
        except ValueError:
            raise OperatorError("DATABASE_URL has a port that is no number: write HOST:5432") from None
        self.host = (parts.hostname or query.get("host", "")).lower().rstrip(".")
        self.port = port
        self.user = unquote(parts.username or "") or query.get("user", "")
        self.has_password = bool(parts.password or "password" in query)
        self.sslmode = query.get("sslmode")
        self.authority = Path(query["sslrootcert"]) if "sslrootcert" in query else None

    @classmethod
    def within(cls, domains: tuple[str, ...], settings: DatabaseSettings) -> Self | None:
        """The address that is set, if it is in one of these domains, each with its dot in front."""
        if settings.database_url is None:
            return None
        address = cls(settings.database_url.get_secret_value())
        return address if address.host.endswith(domains) else None

    def verifying(self, authority: Callable[[], ssl.SSLContext]) -> dict[str, Any]:
        """The option that makes `Database` verify the server; none when the address says not to.

        Args:
            authority: trusts the provider; called when the address names no file. (To such a file the driver
                pays no heed unless there is an `sslmode` as well.)

        Raises:
            OperatorError: that file has no certificates, or as `authority`.
        """
        if self.sslmode not in (None, "verify-full"):
            return {}
        if self.authority is None:
            return {"ssl": authority()}
        return {"ssl": trust_file(self.authority, "sslrootcert in DATABASE_URL names no certificates")}

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
    """Trust servers whose certificate one of these authorities signed, for the host name in the address.

    Args:
        certificates: as PEM.
        otherwise: what to do when they are none.

    Raises:
        OperatorError: they are none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # There may be words between them, in whatever language.
        context.load_verify_locations(cadata=certificates.encode("ascii", "ignore").decode())
    except (ssl.SSLError, ValueError):
        raise OperatorError(f"the database's certificate cannot be verified: {otherwise}") from None
    return context


def trust_file(file: Path, otherwise: str) -> ssl.SSLContext:
    """Like `trust`, with the certificates from a file."""
    try:
        certificates = file.read_text("utf-8", "ignore")
    except OSError:
        certificates = ""
    return trust(certificates, otherwise)
