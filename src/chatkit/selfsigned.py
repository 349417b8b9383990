"""A certificate of one's own, for a room whose members trust it by its fingerprint. Needs the extra `tls`."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile

# Its fingerprint is what is trusted, not its dates: it should outlive the room.
VALID_DAYS = 3650


def data_folder() -> Path:
    """Where this user's programs keep what they made: `$XDG_DATA_HOME/chatkit`, else `~/.local/share/chatkit`."""
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "chatkit"


def self_signed(path: Path) -> None:
    """Make a key and a certificate, in one file that only this user can read, unless it is there already.

    ImportError: the package `cryptography` is missing. OSError: the file can't be written.
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
    # Under another name first, which only this user can read: whoever starts at the same time finds all of it or nothing.
    with NamedTemporaryFile(dir=path.parent) as draft:
        draft.write(pem)
        draft.flush()
        with suppress(FileExistsError):  # somebody was quicker: that one's is used
            os.link(draft.name, path)
