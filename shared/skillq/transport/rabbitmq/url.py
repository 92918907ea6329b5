"""The URL of the broker: parsed and checked before the first connection."""

import re
from urllib.parse import SplitResult, parse_qs, unquote, urlencode, urlsplit

from skillq import timings
from skillq.errors import UsageError


class BrokerAddress:
    """The parts of a broker URL. `display_url` is the URL without its user and password.

    Raises:
        UsageError: The URL is malformed, or asks for an option that is refused.
    """

    def __init__(self, url: str) -> None:
        display_url = re.sub(r"^((?:[^/]*//)?+[^:@]*):.*@", r"\1:***@", url)
        parts = _split(url, display_url)
        options = parse_qs(parts.query)
        if "no_verify_ssl" in options:
            raise UsageError(f"broker URL {display_url}: no_verify_ssl is refused; use cafile=FILE")
        self.user = unquote(parts.username or "guest")
        self.external_auth = options.get("auth") == ["external"]
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
        self.vhost = unquote(parts.path[1:]) or "/"
        self.display_url = f"{parts.scheme}://{host}:{port}/{parts.path[1:]}"
        query = {"heartbeat": [str(timings.AMQP_HEARTBEAT_SECONDS)]} | options
        self.url = parts._replace(query=urlencode(query, doseq=True)).geturl()


def _split(url: str, display_url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"amqp", "amqps"} and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise UsageError(
        f"broker URL {display_url!r} is not usable; write amqp://user:password@host:5672/vhost"
    )
