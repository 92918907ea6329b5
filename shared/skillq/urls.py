"""URLs of servers: parsed strictly, and shown without secrets.

A character such as `/` or `@` in a password is ambiguous: the rest of the password would become a path, and
appear in logs. So every such URL is refused, and no error quotes a URL that was not understood.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple, Self
from urllib.parse import parse_qs, quote, unquote, unquote_plus

_ENCODE = (
    "a character of the password has to be written as %XX (/ as %2F, ? %3F, # %23, @ %40, & %26)"
)
_URL = re.compile(
    r"(?P<scheme>[^:]*)://(?:(?P<user>[^:@/?#\[\]\\]*)(?::(?P<password>[^@/?#\[\]\\]*))?@)?"
    r"(?P<hosts>[^@/?#\\]*)(?P<path>(?:/[^@?#]*)?)(?:\?(?P<query>[^@#]*))?"
)
_HOST = re.compile(r"(?P<name>\[[^\[\]]+\]|[\w.~%-]*)(?::(?P<port>[0-9]*))?")
_PRINTABLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_MAX_PORT = 65535
_SECRET_OPTIONS = {"password", "sslpassword"}


class UrlError(ValueError):
    """Raised for a URL that is not understood; the message has no part of the URL."""


class UrlKind(NamedTuple):
    """The form of the URLs of one kind of server."""

    schemes: tuple[str, ...]
    example: str
    max_hosts: int = 1
    needs_host: bool = True
    # Where the query may have a password, the other options that it may have: a raw & ends a password.
    options: frozenset[str] = frozenset()


BROKER = UrlKind(("amqp", "amqps"), "amqp://user:password@host:5672/vhost or amqps://…")
POSTGRESQL = UrlKind(
    ("postgresql", "postgres"),
    "postgresql://user:password@host:5432/database",
    max_hosts=1000,
    needs_host=False,
    options=frozenset(
        [
            "application_name",
            "channel_binding",
            "connect_timeout",
            "database",
            "dbname",
            "gsslib",
            "host",
            "krbsrvname",
            "options",
            "passfile",
            "password",
            "port",
            "service",
            "ssl_max_protocol_version",
            "ssl_min_protocol_version",
            "sslcert",
            "sslcrl",
            "sslkey",
            "sslmode",
            "sslnegotiation",
            "sslpassword",
            "sslrootcert",
            "target_session_attrs",
            "user",
        ]
    ),
)
HTTP = UrlKind(("http", "https"), "http://host:port or https://…")


class Host(NamedTuple):
    """A host of a URL, and its port if the URL has one; an address of IPv6 is in brackets."""

    name: str
    port: int | None


@dataclass(frozen=True)
class ServerUrl:
    """The parts of a URL."""

    scheme: str
    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    path: str  # as the user wrote it
    query: str = field(repr=False)  # as the user wrote it
    # The URL that drivers get: its user and its password have ASCII characters only.
    text: str = field(repr=False)
    display: str  # the URL as it may be shown: without its password and its options

    @property
    def options(self) -> dict[str, list[str]]:
        """Return the values of each option of the query."""
        return parse_qs(self.query, keep_blank_values=True)

    @classmethod
    def parse(cls, url: str, kind: UrlKind) -> Self:
        """Parse the URL of a server.

        Raises:
            UrlError: the URL is ambiguous, or is not of this kind.
        """
        if url.partition("://")[0].lower() not in kind.schemes:
            raise UrlError(f"should be {kind.example}")
        found = _URL.fullmatch(url)
        if found is None or not url.isprintable() or " " in url or url.count("://") > 1:
            raise UrlError(f"{_ENCODE}; it should be {kind.example}")
        scheme, user, password, hosts, path, query = found.groups()
        _check_options(query or "", kind)
        login, host = url[: found.start("hosts")], url[found.start("hosts") :]
        shown_user = "" if user is None else f"{user}@"
        return cls(
            scheme.lower(),
            user and unquote(user),
            password and unquote(password),
            _parse_hosts(hosts, kind),
            path,
            query or "",
            quote(login, safe=_PRINTABLE_ASCII) + host,
            f"{scheme.lower()}://{shown_user}{hosts}{path}",
        )


def _check_options(query: str, kind: UrlKind) -> None:
    """Raise UrlError for a query that has a password, whose end may stand as another option."""
    items = [item.partition("=") for item in query.split("&") if item]
    names = {unquote_plus(name) for name, _, _ in items}
    if kind.options & _SECRET_OPTIONS & names and (
        not names <= kind.options or not all(equals for _, equals, _ in items)
    ):
        raise UrlError(f"{_ENCODE}; it should be {kind.example}")


def _parse_hosts(text: str, kind: UrlKind) -> tuple[Host, ...]:
    hosts = tuple(_parse_host(item, kind) for item in text.split(","))
    if len(hosts) > kind.max_hosts or (kind.needs_host and not all(host.name for host in hosts)):
        raise UrlError(f"should be {kind.example}")
    return hosts


def _parse_host(text: str, kind: UrlKind) -> Host:
    found = _HOST.fullmatch(text)
    port = int(found["port"]) if found is not None and found["port"] else None
    if found is None or not _is_host(found["name"]) or not (port is None or 0 < port <= _MAX_PORT):
        raise UrlError(
            f"has no host, or one with a port that is no number up to {_MAX_PORT}; it should be {kind.example}"
        )
    return Host(found["name"], port)


def _is_host(name: str) -> bool:
    """Return whether a name may be of a host; each try to connect would find out otherwise."""
    try:
        if name.startswith("["):
            IPv6Address(name[1:-1])
        elif "%" not in name:  # the folder of a socket of PostgreSQL is encoded
            name.encode("idna")
    except ValueError:
        return False
    return True


def display_url(url: str) -> str:
    """Return a URL that was checked as it may be shown: without password and options."""
    for kind in (BROKER, POSTGRESQL, HTTP):
        if url.partition("://")[0].lower() in kind.schemes:
            return ServerUrl.parse(url, kind).display
    return url  # of a store that is no server


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is of this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
