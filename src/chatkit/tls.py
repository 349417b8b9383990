"""TLS contexts: a server's certificate, and a client's trust in it."""

from __future__ import annotations

import hmac
import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from secrets import token_hex


def server_context(certificate: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """Return a context for `Server(tls=...)`, for TLS 1.2 and newer.

    Args:
        certificate: a file in PEM form, the server's certificate first, then its chain.
        key: the file of the private key, PEM and not encrypted; by default the same file.

    Returns:
        The context. After a renewal of the certificate, make a new one for `Server.set_tls`.

    Raises:
        OSError: a file can't be read.
        ssl.SSLError: a file holds no certificate or key, or the two don't match. It is an OSError, too.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key, password=lambda: "")  # else an encrypted key asks on the terminal
    return context


class WrongCertificate(ssl.SSLCertVerificationError):
    """A server's certificate that isn't the trusted one.

    Attributes:
        fingerprint: of the server's certificate, as `fingerprint_of` returns it.
    """

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"the server's certificate is not the trusted one; its fingerprint is {fingerprint}")
        self.fingerprint = fingerprint

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickle and copy, which by default pass the text instead of the fingerprint."""
        return type(self), (self.fingerprint,), self.__dict__


class PinnedObject(ssl.SSLObject):
    """A TLS object that checks the certificate before the last message of the handshake: the server sees a failure."""

    def do_handshake(self) -> None:
        """Do the handshake, and check the certificate."""
        super().do_handshake()
        _check_pin(self)


class PinnedSocket(ssl.SSLSocket):
    """A TLS socket with the same check, for `wrap_socket`."""

    def do_handshake(self, block: bool = False) -> None:
        """Do the handshake, and check the certificate."""
        super().do_handshake(block)
        _check_pin(self)


class PinnedContext(ssl.SSLContext):
    """A context that trusts one certificate and no other, without regard to its signature.

    Attributes:
        fingerprint: of the trusted certificate, as `fingerprint_of` returns it.
    """

    fingerprint: str
    sslobject_class = PinnedObject
    sslsocket_class = PinnedSocket


def _check_pin(tls: ssl.SSLObject | ssl.SSLSocket) -> None:
    assert isinstance(tls.context, PinnedContext)
    found = fingerprint_of(tls.getpeercert(binary_form=True) or b"")
    if not hmac.compare_digest(found, tls.context.fingerprint):
        raise WrongCertificate(found)


def client_context(*, ca: str | Path | None = None, fingerprint: str | None = None) -> ssl.SSLContext:
    """Return a context for `Client(tls=...)`, for TLS 1.2 and newer.

    Args:
        ca: a file of certificates (PEM) to trust instead of the system's.
        fingerprint: the SHA-256 of the one certificate to trust, in place of all other checks: 64 hexadecimal digits,
            with or without colons.

    Returns:
        A context that checks the server's certificate, and without `fingerprint` also its name and dates.

    Raises:
        OSError: `ca` can't be read; `ssl.SSLError`, an OSError, too, if it holds no certificate.
        ValueError: `fingerprint` is no fingerprint.
    """
    if fingerprint is None and ca is None:
        context = ssl.create_default_context()
    elif fingerprint is None and ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cafile=ca)
    else:
        assert fingerprint is not None
        context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.fingerprint = plain_fingerprint(fingerprint)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def plain_fingerprint(fingerprint: str) -> str:
    """Return a fingerprint in lower case and without colons.

    Args:
        fingerprint: 64 hexadecimal digits, with or without colons.

    Returns:
        The 64 digits.

    Raises:
        ValueError: `fingerprint` is no fingerprint.
    """
    plain = fingerprint.strip().replace(":", "").lower()
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise ValueError("a fingerprint is 64 hexadecimal digits, as chat-server prints it")
    return plain


def fingerprint_of(certificate: bytes) -> str:
    """Return a certificate's fingerprint.

    Args:
        certificate: in DER form.

    Returns:
        The SHA-256, 64 hexadecimal digits in lower case.
    """
    return sha256(certificate).hexdigest()


# Clients trust its fingerprint and don't look at its dates: it should outlive the room.
VALID_DAYS = 3650


def self_signed(path: Path) -> None:
    """Make a key and a certificate, unless the file exists.

    Args:
        path: of the file for both, in PEM form. Only this user can read it.

    Raises:
        ImportError: the package `cryptography` is missing.
        OSError: the file can't be written.
    """
    if path.exists():
        path.chmod(0o600)
        return
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chatkit")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=VALID_DAYS))
    certificate = builder.sign(key, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Under another name first, for this user only: a server that starts at the same time finds all of it or nothing.
    draft = path.with_name(f"{path.name}-{token_hex(8)}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        with suppress(FileExistsError):  # another server was faster; its file is used
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
