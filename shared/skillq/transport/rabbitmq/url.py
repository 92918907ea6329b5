"""The URL of the broker: parsed and checked before the first connection."""

import ssl
from base64 import b64decode
from pathlib import Path
from urllib.parse import unquote, urlencode

from skillq import timings
from skillq.errors import UsageError
from skillq.runtime.certificates import check_certificates
from skillq.urls import BROKER, ServerUrl, UrlError

_PORTS = {"amqp": 5672, "amqps": 5671}


class BrokerAddress:
    """The parts of a broker URL. `display_url` is the URL without its user and password.

    Raises:
        UsageError: The URL is malformed, asks for an option that is refused, or names a file of
            certificates that cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = ServerUrl.parse(url, BROKER)
        except UrlError as error:
            raise UsageError(f"broker URL: {error}") from error
        options = parts.options
        [(host, port)] = parts.hosts
        self.user = parts.user or "guest"
        self.external_auth = options.get("auth") == ["external"]
        self.vhost = unquote(parts.path[1:]) or "/"
        self.display_url = (
            f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}/{parts.path[1:]}"
        )
        if "no_verify_ssl" in options:
            raise UsageError(
                f"broker URL {self.display_url}: no_verify_ssl is refused; use cafile=FILE"
            )
        _check_certificates(
            f"broker URL {self.display_url}", {name: values[0] for name, values in options.items()}
        )
        query = {"heartbeat": [str(timings.AMQP_HEARTBEAT_SECONDS)]} | options
        self.url = f"{parts.text.partition('?')[0]}?{urlencode(query, doseq=True)}"


def _check_certificates(location: str, options: dict[str, str]) -> None:
    """Check the certificates that a URL names or contains; `location` begins the error message.

    Raises:
        UsageError: the driver could not use one of them.
    """
    check_certificates(
        location, options, authorities=("cafile",), certificate="certfile", key="keyfile"
    )
    if "capath" in options and not Path(options["capath"]).is_dir():
        raise UsageError(f"{location}: capath={options['capath']}: there is no such folder")
    try:
        if "cadata" in options:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=b64decode(options["cadata"])
            )
    except (ValueError, ssl.SSLError) as error:
        raise UsageError(
            f"{location}: cadata: it is no certificate in DER form and base64"
        ) from error
