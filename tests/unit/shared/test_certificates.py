"""Certificates that a URL names are checked at the start, not blamed on the network."""

import subprocess
from pathlib import Path

import pytest

from skillq.errors import UsageError
from skillq.transport.rabbitmq.url import BrokerAddress
from skillq_manager.store.sql.store import SqlStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate, its key, the same key with a passphrase, and what is neither."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("one", "other"):
        _openssl(
            *(
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-subj", "/CN=localhost", "-keyout", f"{folder}/{name}.key"),
            *("-out", f"{folder}/{name}.pem"),
        )
    _openssl(
        *("ec", "-in", f"{folder}/one.key", "-aes256", "-passout", "pass:geheim"),
        *("-out", f"{folder}/locked.key"),
    )
    (folder / "no.pem").write_text("no certificate\n")
    (folder / "empty.pem").touch()
    (folder / "folder").mkdir()
    return folder


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)


def broker_error(options: str) -> str:
    with pytest.raises(UsageError) as caught:
        BrokerAddress(f"amqps://u:geheim@host/v?{options}")
    return str(caught.value)


def store_error(options: str) -> str:
    with pytest.raises(UsageError) as caught:
        SqlStore(f"postgresql://u:geheim@host/v?{options}")
    return str(caught.value)


FILES = {
    "missing.pem": "No such file",
    "folder": "Is a directory",
    "no.pem": "no file of certificates",
    "empty.pem": "no file of certificates",
    "no%00.pem": "no file of certificates",
}


@pytest.mark.parametrize("option", ["cafile", "certfile"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_broker_url_that_is_no_certificate_is_named_with_its_option(
    folder: Path, option: str, name: str
) -> None:
    error = broker_error(f"{option}={folder}/{name}")
    assert error.startswith("broker URL amqps://host:5671/v: ")
    assert f"{option}='{folder}/{name[:2]}" in error
    assert FILES[name] in error
    assert error.isprintable()
    assert "geheim" not in error


@pytest.mark.parametrize("option", ["sslrootcert", "sslcrl", "sslcert"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_store_url_that_is_no_certificate_is_named_with_its_option(
    folder: Path, option: str, name: str
) -> None:
    error = store_error(f"sslmode=verify-full&{option}={folder}/{name}")
    assert error.startswith("store URL 'postgresql://u@host/v': ")
    assert f"{option}='{folder}/{name[:2]}" in error
    assert FILES[name] in error
    assert "geheim" not in error


@pytest.mark.parametrize("key", ["missing.key", "folder", "other.key", "locked.key", "no.pem"])
def test_a_key_that_does_not_fit_is_named_with_its_option(folder: Path, key: str) -> None:
    error = broker_error(f"certfile={folder}/one.pem&keyfile={folder}/{key}")
    assert f"keyfile='{folder}/{key}'" in error
    assert f"sslkey='{folder}/{key}'" in store_error(
        f"sslcert={folder}/one.pem&sslkey={folder}/{key}"
    )


def test_a_certificate_without_a_key_needs_one_in_its_own_file(folder: Path) -> None:
    assert "is no key" in broker_error(f"certfile={folder}/one.pem")


@pytest.mark.parametrize(
    "options",
    ["capath=/nowhere", "capath={folder}/one.pem", "cadata=geheim", "cadata=***", "cadata=AAAA"],
)
def test_a_folder_or_data_without_certificates_is_refused(folder: Path, options: str) -> None:
    error = broker_error(options.format(folder=folder))
    assert options.partition("=")[0] in error
    assert "geheim" not in error


def test_certificates_that_fit_are_accepted(folder: Path) -> None:
    options = f"cafile={folder}/other.pem&certfile={folder}/one.pem&keyfile={folder}/one.key"
    assert (
        f"capath={folder}".replace("/", "%2F")
        in BrokerAddress(f"amqps://host/?{options}&capath={folder}").url
    )
    SqlStore(
        f"postgresql://u@host/v?sslrootcert={folder}/other.pem&sslcert={folder}/one.pem"
        f"&sslkey={folder}/locked.key&sslpassword=geheim"
    )
