"""The secrets of a board: a key, a self-signed certificate that clients pin, and a token that clients send.

They are three files in one folder that only their owner can read: ``key.pem``, ``certificate.pem`` and ``token``. A
client needs the last two.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING

from harness.errors import DeviceError
from harness.store.files import open_regular, write_atomically

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "CERTIFICATE",
    "Credentials",
    "Identity",
    "KEY",
    "NAME",
    "TOKEN",
    "create",
    "fingerprint",
    "load",
    "refusal",
]

KEY, CERTIFICATE, TOKEN = "key.pem", "certificate.pem", "token"
NAME = "harness-agent"
"""The name in every certificate. A client checks this name, and not the board's address."""
VALID_DAYS = 3650
_UTC = datetime.timezone.utc
_EARLIEST = datetime.datetime(2025, 1, 1, tzinfo=_UTC)  # an earlier time means that the clock was never set


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Key, certificate and token of an agent. Its ``repr`` contains no secret."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    token: str = field(repr=False)


def create(
    folder: Path, names: Iterable[str] = (), *, days: float = VALID_DAYS, replace: bool = False
) -> Identity:
    """Make key, certificate and token in ``folder``. The certificate is valid for :data:`NAME` and ``names``.

    ``names`` are host names and IP addresses.

    Raises:
        DeviceError: some files exist and ``replace`` is not set, the clock was never set, a name cannot be in a
            certificate, or the folder cannot be written.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.datetime.now(_UTC)
    if now < _EARLIEST:
        raise DeviceError(
            f"this machine's clock says {now:%Y-%m-%d}: set it first, certificates are valid by date"
        )
    if not replace and (there := [file for file in (KEY, CERTIFICATE, TOKEN) if (folder / file).exists()]):
        raise DeviceError(
            f"{folder} has {', '.join(there)} already: clients that pinned them would be shut out"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))  # a client's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    made = Identity(
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        token=token_urlsafe(32),
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / KEY, made.key_pem, 0o600, sync=True)
        write_atomically(folder / CERTIFICATE, made.certificate_pem, 0o600, sync=True)
        write_atomically(folder / TOKEN, f"{made.token}\n", 0o600, sync=True)
    except OSError as error:
        raise DeviceError(f"cannot write {folder}: {error.strerror or error}") from None
    return made


def load(folder: Path) -> Identity:
    """Return the identity that :func:`create` made.

    Raises:
        DeviceError: a file is missing or invalid, others may read key or token, or the certificate has expired.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key_pem, certificate_pem = _read(folder / KEY, private=True), _read(folder / CERTIFICATE)
    token = _read(folder / TOKEN, private=True).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[\w-]{32,128}", token, re.ASCII):
        raise DeviceError(f"{folder / TOKEN} is no token: {_REPLACE}")
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        raise DeviceError(f"{folder} has a key or certificate that cannot be read: {_REPLACE}") from None
    if key.public_key() != certificate.public_key():
        raise DeviceError(f"{folder / KEY} is not the key of {folder / CERTIFICATE}: {_REPLACE}")
    _check_dates(certificate, folder / CERTIFICATE)
    return Identity(key_pem=key_pem, certificate_pem=certificate_pem, token=token)


_REPLACE = "make new ones with `harness agent init --replace`"


def fingerprint(pem: bytes | str) -> str:
    """Return the SHA-256 of a certificate, in the form of ``openssl x509 -fingerprint``.

    Raises:
        DeviceError: the text is not a certificate.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii") if isinstance(pem, bytes) else pem)
    except ValueError:
        raise DeviceError("not a certificate in PEM form") from None
    return hashlib.sha256(der).digest().hex(":").upper()


def refusal(details: str) -> str:
    """Return in one line why a TLS handshake failed, or an empty string if ``details`` do not describe that."""
    text = details.lower()
    if "certificate has expired" in text or "certificate is not yet valid" in text:
        return "its certificate is not valid at this date: set both clocks, or replace it (`harness agent init --replace`)"
    if (
        "certificate_verify_failed" in text
        or "certificate verify failed" in text
        or "hostname verification" in text
    ):
        return "it shows another certificate than the one in the inventory: it was replaced, or this is another machine"
    if "wrong_version_number" in text or "handshake failed" in text or "ssl_error" in text or "tsi_" in text:
        return "it does not speak TLS, or is no agent"
    return ""


def _alternatives(names: Iterable[str]) -> list[x509.GeneralName]:
    from cryptography import x509

    alternatives: list[x509.GeneralName] = []
    for name in dict.fromkeys((NAME, *names)):
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", name):
                raise DeviceError(f"{name!r} is neither a host's name nor an address") from None
            alternatives.append(x509.DNSName(name))
    return alternatives


def _check_dates(certificate: x509.Certificate, path: Path) -> None:
    now = datetime.datetime.now(_UTC)
    end = certificate.not_valid_after_utc
    if now > end:
        raise DeviceError(
            f"{path} expired on {end:%Y-%m-%d} (this machine's clock says {now:%Y-%m-%d}): {_REPLACE}, and give "
            "clients the new certificate and token"
        )


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        with open_regular(path) as file:
            if private and os.fstat(file.fileno()).st_mode & 0o077:
                raise DeviceError(f"others may read {path}: `chmod 600 {path}`, or {_REPLACE}")
            return file.read(65_536)
    except FileNotFoundError:
        raise DeviceError(f"{path} is missing: {_REPLACE}") from None
    except OSError as error:
        raise DeviceError(f"cannot read {path}: {error.strerror or error}") from None


@dataclass(frozen=True)
class Credentials:
    """The access to a board's agent: ``host:port``, the certificate that it must show, and the token."""

    target: str
    certificate: bytes = b""
    token: str = ""
