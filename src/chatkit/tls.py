"""TLS: the certificate that a server shows, and the one that a client trusts."""

from __future__ import annotations

import hmac
import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path


def server_context(certificate: str | Path, key: str | Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 and newer with this certificate (PEM, the chain after it) and key (by default in the same file).

    OSError: a file can't be read. ssl.SSLError, an OSError too: it holds no such thing, or the two don't match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(certificate, key, password=lambda: "")  # else an encrypted key asks on the terminal
    return context


class WrongCertificate(ssl.SSLCertVerificationError):
    """The server's certificate isn't the one that is trusted. fingerprint: its own."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"the server's certificate is another one, with the fingerprint {fingerprint}")
        self.fingerprint = fingerprint

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickle and copy, which by default pass the text instead of the fingerprint."""
        return type(self), (self.fingerprint,), self.__dict__


class PinnedObject(ssl.SSLObject):
    """Looks at the certificate before the last word of the handshake is sent: the server must not think we are in."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _check_pin(self)


class PinnedSocket(ssl.SSLSocket):
    """The same for `wrap_socket`."""

    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _check_pin(self)


class PinnedContext(ssl.SSLContext):
    """Trusts one certificate and no other, whoever signed it. fingerprint: its SHA-256, in small hexadecimal digits."""

    fingerprint: str
    sslobject_class = PinnedObject
    sslsocket_class = PinnedSocket


def _check_pin(tls: ssl.SSLObject | ssl.SSLSocket) -> None:
    assert isinstance(tls.context, PinnedContext)
    found = fingerprint_of(tls.getpeercert(binary_form=True) or b"")
    if not hmac.compare_digest(found, tls.context.fingerprint):
        raise WrongCertificate(found)


def client_context(*, ca: str | Path | None = None, fingerprint: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 and newer that checks the server's certificate and name.

    ca: a file of certificates (PEM) to trust instead of the system's.
    fingerprint: SHA-256 of the one certificate to trust, in place of all other checks. 64 hexadecimal digits, with or
        without colons.
    OSError: `ca` can't be read. ValueError: `fingerprint` is none.
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
    """A fingerprint in small digits without colons. ValueError: it isn't one."""
    plain = fingerprint.strip().replace(":", "").lower()
    if len(plain) != 64 or set(plain) - set("0123456789abcdef"):
        raise ValueError("a fingerprint is 64 hexadecimal digits, as chat-server prints it")
    return plain


def fingerprint_of(certificate: bytes) -> str:
    """The fingerprint of a certificate in DER."""
    return sha256(certificate).hexdigest()


# Its fingerprint is what is trusted, not its dates: it should outlive the room.
VALID_DAYS = 3650


def self_signed(path: Path) -> None:
    """Make a key and a certificate, in one file that only this user can read, unless it is there already.

    ImportError: the package `cryptography` is missing. OSError: the file can't be written.
    """
    if path.exists():
        path.chmod(0o600)
        return
    from tempfile import NamedTemporaryFile

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
    # Under another name first, which only this user can read: whoever starts at the same time finds all of it or nothing.
    with NamedTemporaryFile(dir=path.parent) as draft:
        draft.write(pem)
        draft.flush()
        with suppress(FileExistsError):  # somebody was quicker: that one's is used
            os.link(draft.name, path)
