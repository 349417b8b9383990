"""The trust of `chat-client` in a server's certificate."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from chatkit.cli.common import FILE, complain, data_folder, fail, option, reason
from chatkit.net.sockets import Address, host_and_port

if TYPE_CHECKING:  # each function loads what it needs: most conversations need none of it
    import ssl
    from pathlib import Path

    from chatkit.tls import WrongCertificate

# In place of the fingerprint of a server never seen before: no certificate has it.
UNKNOWN = "0" * 64


def trust_options(command: Any) -> Any:
    """Add the options for `make_context` to a command."""
    pin = "Use TLS; trust the one certificate with this fingerprint, without any other check."
    ask = "Use TLS; ask about an unknown certificate, remember it, refuse any other one later."
    for add in (
        option("--tls-trust", is_flag=True, help=ask),
        option("--tls-fingerprint", metavar="SHA256", help=pin),
        option("--tls-ca", type=FILE, metavar="FILE", help="Use TLS; trust this authority (PEM), not the system's."),
        option("--tls", is_flag=True, help="Use TLS; trust the authorities of this system."),
    ):
        command = add(command)
    return command


def make_context(
    command: str, tls: bool, tls_ca: Path | None, tls_fingerprint: str | None, known: str | None
) -> ssl.SSLContext | None:
    """Return the TLS context for the options, or None if they don't ask for TLS.

    Args:
        known: with --tls-trust, the fingerprint that the user trusts already, or UNKNOWN.
    """
    if [tls_ca, tls_fingerprint, known].count(None) < 2:
        raise click.UsageError("--tls-ca, --tls-fingerprint and --tls-trust exclude each other")
    fingerprint = known if tls_fingerprint is None else tls_fingerprint
    if not tls and tls_ca is None and fingerprint is None:
        return None
    import ssl

    from chatkit.tls import client_context

    try:
        return client_context(ca=tls_ca, fingerprint=fingerprint)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except ssl.SSLError:
        fail(command, f"cannot use {tls_ca}: no certificate in PEM form", about=["tls_ca"])
    except OSError as error:
        if tls_ca:
            fail(command, f"cannot use {tls_ca}: {reason(error)}", about=["tls_ca"])
        fail(command, f"cannot use {error.filename}: {reason(error)}", "in the environment: SSLKEYLOGFILE")


def tls_error() -> type[ssl.SSLError]:
    """Return the class of TLS's errors, for an `except` that loads it only when something has failed."""
    import ssl

    return ssl.SSLError


def wrong_certificate() -> type[WrongCertificate]:
    """Return the class of the error for a certificate that isn't the trusted one, as `tls_error`."""
    from chatkit.tls import WrongCertificate

    return WrongCertificate


def describe_tls_error(error: ssl.SSLError) -> str:
    """Return why TLS failed, in plain words, and a remedy."""
    import ssl

    from chatkit.tls import WrongCertificate

    if isinstance(error, WrongCertificate):
        return str(error.args[0])
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "--tls-ca trusts a private authority, --tls-fingerprint or --tls-trust one certificate"
        return f"its certificate is not trusted: {error.verify_message} ({hint})"
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "it doesn't speak TLS (leave out --tls)"
    return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"


def _confirms(question: str) -> bool:
    """Ask a question on the terminal. Returns False without one."""
    if not os.isatty(0):
        return False
    click.echo(f"{question} [y/N]: ", nl=False, err=True)
    answer = b""
    with suppress(OSError):  # another process made it non-blocking
        while not answer.endswith(b"\n") and (data := os.read(0, 1024)):  # unbuffered: later lines are for the room
            answer += data
    return answer.strip().lower() in (b"y", b"yes")


class KnownHosts:
    """The file of trusted certificates, as ssh has one: a line `HOST:PORT FINGERPRINT` for each server."""

    def __init__(self, command: str, address: Address) -> None:
        self._command = command
        self._server = host_and_port(address)
        self._path = data_folder(command) / "known_hosts"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint that the user trusts for this server, or UNKNOWN."""
        from chatkit.tls import plain_fingerprint

        try:
            lines = [line.split() for line in self._path.read_text("utf-8").splitlines()]
        except FileNotFoundError:
            lines = []
        except UnicodeError:
            fail(self._command, f"cannot read {self._path}: not valid UTF-8")
        except OSError as error:
            fail(self._command, f"cannot read {self._path}: {reason(error)}")
        known = next((line[1:] for line in lines if line[:1] == [self._server]), [UNKNOWN])
        try:
            return plain_fingerprint(" ".join(known))
        except ValueError:
            fail(self._command, f"the line of {self._server} in {self._path} is damaged", "remove it to be asked again")

    def ask(self, found: str) -> None:
        """Ask the user about an unknown fingerprint, and remember it. End the command if another one was trusted."""
        if (trusted := self.fingerprint) != UNKNOWN:
            change = (
                f"THE CERTIFICATE OF {self._server} HAS CHANGED, and somebody may be listening in: "
                f"the trusted fingerprint is {trusted}, the new one {found}"
            )
            fail(
                self._command,
                change,
                f"if the server's operator confirms the new one, remove its line from {self._path}",
            )
        complain(self._command, f"the certificate of {self._server} is unknown; its fingerprint is {found}")
        if not _confirms("Does the server's operator confirm it, and do you trust it?"):
            fail(self._command, "not trusted", "--tls-trust asks on a terminal; without one use --tls-fingerprint")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            with open(descriptor, "a+", encoding="utf-8") as file:
                file.seek(0)
                content = file.read()
                file.write("\n" * (content[-1:] not in ("", "\n")) + f"{self._server} {found}\n")
        except OSError as error:
            fail(self._command, f"cannot write {self._path}: {reason(error)}")
