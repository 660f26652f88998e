"""Servers behind TLS that have, on this machine, the names they have at a provider."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from suite.engines.redis.proxy import Proxy

WRONG = ["another authority", "expired", "another name"]
"""Certificates that nobody should believe."""

UNCHECKED = ["ssl_cert_reqs=none", "ssl_check_hostname=false"]
"""What in an address believes them all the same."""


def resolve_here(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    """Have every name of a domain lead to this machine."""
    look_up = socket.getaddrinfo

    def on_this_machine(host: Any, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1" if str(host).endswith(domain) else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", on_this_machine)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A throw-away authority, and what it issued.

    Attributes:
        ca_file: the authority's own certificate, for REDIS_CA_FILE.
        context: a server that shows what the authority issued.
    """

    ca_file: Path
    context: ssl.SSLContext


def issue(folder: Path, name: str, flaw: str = "") -> Certificate:
    """Issue a certificate for a name, right or with one of the flaws in WRONG."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    issuer = trustme.CA() if flaw == "another authority" else authority
    ago = datetime.now(UTC) - timedelta(days=1)
    issued = issuer.issue_cert(
        "elsewhere.example" if flaw == "another name" else name,
        not_before=ago - timedelta(days=30),
        not_after=ago if flaw == "expired" else ago + timedelta(days=30),
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(context)
    return Certificate(ca_file, context)


@asynccontextmanager
async def behind_tls(url: str, certificate: Certificate) -> AsyncIterator[Proxy]:
    """Put a server behind TLS."""
    async with Proxy(url, tls=certificate.context) as proxy:
        yield proxy


def named(proxy: Proxy, name: str, login: str = "") -> str:
    """The address of a server behind TLS, by its name."""
    return f"rediss://{login}{name}:{urlsplit(proxy.url).port}"
