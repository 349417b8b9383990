"""Which server `chat-client` trusts."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Any

import click

from chatkit.cli.common import FILE, complain, data_folder, fail, option, reason
from chatkit.net.sockets import Address, host_and_port
from chatkit.tls import WrongCertificate, client_context, plain_fingerprint

UNKNOWN = "0" * 64


def trust_options(command: Any) -> Any:
    """The options for `trust`."""
    pin = "Speak TLS; trust the one certificate with this fingerprint, in place of all other checks."
    ask = "Speak TLS; ask about a certificate never seen before, remember it, refuse another one."
    for add in (
        option("--tls-trust", is_flag=True, help=ask),
        option("--tls-fingerprint", metavar="SHA256", help=pin),
        option("--tls-ca", type=FILE, metavar="FILE", help="Speak TLS; trust this authority (PEM), not the system's."),
        option("--tls", is_flag=True, help="Speak TLS; trust whom this system trusts."),
    ):
        command = add(command)
    return command


def trust(
    command: str, tls: bool, tls_ca: Path | None, tls_fingerprint: str | None, known: str | None
) -> ssl.SSLContext | None:
    """What the options ask for. known: with --tls-trust the fingerprint that was trusted before, or UNKNOWN."""
    if [tls_ca, tls_fingerprint, known].count(None) < 2:
        raise click.UsageError("--tls-ca, --tls-fingerprint and --tls-trust exclude each other")
    fingerprint = known if tls_fingerprint is None else tls_fingerprint
    if not tls and tls_ca is None and fingerprint is None:
        return None
    try:
        return client_context(ca=tls_ca, fingerprint=fingerprint)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except ssl.SSLError:
        fail(command, f"cannot use {tls_ca}: no certificate in PEM form")
    except OSError as error:
        fail(command, f"cannot use {tls_ca}: {reason(error)}")


def tls_fault(error: ssl.SSLError) -> str:
    """Why TLS failed, in plain words, and what to do."""
    if isinstance(error, WrongCertificate):
        return str(error.args[0])
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "--tls-ca trusts a private authority, --tls-fingerprint or --tls-trust one certificate"
        return f"its certificate is not trusted: {error.verify_message} ({hint})"
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it doesn't speak TLS (leave out --tls)"
    return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"


class KnownHosts:
    """The certificates that were trusted before, as ssh does it: a line `HOST:PORT FINGERPRINT` for each server."""

    def __init__(self, command: str, where: Address) -> None:
        self._command = command
        self._where = host_and_port(where)
        self._path = data_folder() / "known_hosts"

    @property
    def fingerprint(self) -> str:
        """What was trusted there, or UNKNOWN."""
        try:
            lines = [line.split() for line in self._path.read_text().splitlines()]
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeError) as error:
            fail(self._command, f"cannot read {self._path}: {error}")
        known = next((line[1:] for line in lines if line[:1] == [self._where]), [UNKNOWN])
        try:
            return plain_fingerprint(" ".join(known))
        except ValueError:
            fail(self._command, f"the line of {self._where} in {self._path} is damaged", "remove it to be asked again")

    def ask(self, found: str) -> None:
        """Trust this one from now on, if the user says so; else, and where another one was trusted, the end."""
        if (before := self.fingerprint) != UNKNOWN:
            change = f"THE CERTIFICATE OF {self._where} HAS CHANGED, somebody may be listening in: it was {before}, is {found}"
            fail(self._command, change, f"if its operator says so, remove its line from {self._path}")
        complain(self._command, f"the certificate of {self._where} was never seen before; its fingerprint is {found}")
        if not sys.stdin.isatty() or not click.confirm(
            "Does its operator say the same, and do you trust it?", err=True
        ):
            fail(self._command, "not trusted", "--tls-trust asks on a terminal; --tls-fingerprint says it beforehand")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+") as file:
                file.seek(0)
                before = file.read()
                file.write("\n" * (before[-1:] not in ("", "\n")) + f"{self._where} {found}\n")
        except OSError as error:
            fail(self._command, f"cannot write {self._path}: {reason(error)}")
