"""Files of certificates that a URL names: checked at the start, before a network is blamed."""

import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from skillq.errors import UsageError


def check_certificates(
    location: str,
    options: Mapping[str, str],
    *,
    authorities: Sequence[str],
    certificate: str,
    key: str,
    password: str = "",
) -> None:
    """Load the files that these options of a URL name; `location` begins the error message.

    Raises:
        UsageError: a file cannot be read, or is not of the right kind.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def load(option: str, expected: str, action: Callable[[str], object]) -> None:
        if option not in options:
            return
        file = options[option]
        try:
            with Path(file).open("rb"):  # for a folder, ssl's own error has another reason
                action(file)
        except (ssl.SSLError, ValueError) as error:  # ValueError: the path has a null character
            raise UsageError(f"{location}: {option}={file!r} is no {expected}") from error
        except OSError as error:
            raise UsageError(f"{location}: {option}={file!r}: {error.strerror}") from error

    for option in (*authorities, certificate):
        load(option, "file of certificates in PEM form", context.load_verify_locations)
    if certificate in options:
        load(
            key if key in options else certificate,
            f"key, without a passphrase that is missing here, of {certificate}={options[certificate]}",
            lambda file: context.load_cert_chain(options[certificate], file, lambda: password),
        )
