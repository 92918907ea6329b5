"""The URL of the store: the one place where it is parsed."""

from pathlib import Path
from urllib.parse import unquote

from skillq.errors import UsageError
from skillq.urls import POSTGRESQL, ServerUrl, UrlError

MEMORY = "memory://"
SQLITE = "sqlite:///"


def parse_store_url(url: str) -> ServerUrl | Path | None:
    """Return the address of a PostgreSQL, the file of an SQLite, or None for the memory.

    Raises:
        UsageError: the URL is none of a store; the message has no part of it.
    """
    scheme, _, _ = url.partition(":")
    if scheme in POSTGRESQL.schemes:
        try:
            return ServerUrl.parse(url, POSTGRESQL)
        except UrlError as error:
            raise UsageError(str(error)) from error
    if url == MEMORY:
        return None
    if scheme == "sqlite":
        name = unquote(url.removeprefix(SQLITE))
        if not url.startswith(SQLITE) or not name or "?" in url or "://" in name:
            raise UsageError("write sqlite:///FILE, with four / for a full path, and no options")
        return Path(name).resolve()
    raise UsageError(f"should be {MEMORY}, {SQLITE}FILE or {POSTGRESQL.example}")
