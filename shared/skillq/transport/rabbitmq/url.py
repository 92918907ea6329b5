"""The broker's URL, checked before anybody connects."""

import re
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from skillq import timings
from skillq.errors import UsageError


class Address:
    """A broker URL, taken apart; never shown with its password."""

    def __init__(self, url: str) -> None:
        shown = re.sub(r"^((?:[^/]*//)?+[^:@]*):.*@", r"\1:***@", url)
        parts = _split(url, shown)
        options = parse_qs(parts.query)
        if "no_verify_ssl" in options:
            raise UsageError(f"broker URL {shown}: no_verify_ssl is refused; use cafile=FILE")
        self.user = unquote(parts.username or "guest")
        self.external = options.get("auth") == ["external"]
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        self.vhost = unquote(parts.path[1:]) or "/"
        self.shown = f"{parts.scheme}://{host}:{port}/{parts.path[1:]}"
        query = {"heartbeat": [str(timings.AMQP_HEARTBEAT_SECONDS)]} | options
        self.url = parts._replace(query=urlencode(query, doseq=True)).geturl()


def _split(url: str, shown: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise UsageError(
        f"broker URL {shown!r} is not usable; write amqp://user:password@host:5672/vhost"
    )
