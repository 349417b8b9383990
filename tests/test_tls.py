"""Contexts for TLS."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from chatkit.tls import client_context, server_context
from tests.helpers.papers import Papers


@pytest.mark.parametrize("fingerprint", ["", "ab" * 31, "ab" * 33, "xy" * 32, "ab:" * 31])
def test_what_is_no_fingerprint(fingerprint: str) -> None:
    """ValueError says what one looks like."""
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        client_context(fingerprint=fingerprint)


def test_files_that_are_no_certificates(papers: Papers, tmp_path: Path) -> None:
    """A missing file is OSError, one without a certificate, or with another's key, is ssl.SSLError."""
    (tmp_path / "empty").touch()
    for make in (server_context, lambda path: client_context(ca=path)):
        with pytest.raises(FileNotFoundError):
            make(tmp_path / "missing")
        with pytest.raises(ssl.SSLError):
            make(tmp_path / "empty")
    with pytest.raises(ssl.SSLError):
        server_context(papers.good, papers.renewed)
