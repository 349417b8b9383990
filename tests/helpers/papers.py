"""Certificates for tests of TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from chatkit.tls import fingerprint_of

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Papers:
    """Certificates (PEM, with their keys) of one authority, for this host but for `other_name`."""

    ca: Path
    good: Path
    renewed: Path
    other_name: Path
    expired: Path

    @staticmethod
    def fingerprint(certificate: Path) -> str:
        begin = "-----BEGIN CERTIFICATE-----"
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(begin + certificate.read_text().split(begin)[1]))
