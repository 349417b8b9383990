"""The options of `chat-server`: limits, history, certificate and password."""

from __future__ import annotations

import ipaddress
import logging
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatkit import Limits, Server
from chatkit.cli.common import FILE, data_folder, fail, option, read_password, reason
from chatkit.history.base import History
from chatkit.net.sockets import Address, host_and_port, host_on_network
from chatkit.net.urls import RoomUrl

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("chatkit")

_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")

UNITS = {"bytes": "BYTES", "seconds": "SECONDS"}


def limit_options(command: Any) -> Any:
    """Add an option for each field of `Limits` to a command."""
    for limit in reversed(fields(Limits)):
        whole = "int" in str(limit.type)
        least = limit.metadata["least"]
        kind = click.IntRange(min=1) if whole else click.FloatRange(min=least, min_open=not least)
        name, unit = "--" + limit.name.replace("_", "-"), UNITS.get(limit.name.rpartition("_")[2], "N")
        command = option(name, type=kind, metavar=unit, default=limit.default, help=limit.metadata["help"])(command)
    return command


def history_options(command: Any) -> Any:
    """Add the options for `make_history`, and those for `history_required` and `replay`, to a command."""
    for add in (
        option(
            "--replay",
            type=click.IntRange(min=0),
            metavar="N",
            default=0,
            help="Replay the last N messages to each new member.",
        ),
        option(
            "--history-required",
            is_flag=True,
            help="Refuse messages while the history can't keep them (full disk ...); by default the chat goes on.",
        ),
        option(
            "--history-days",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help="Delete messages after N days.",
        ),
        option("--history-keep", type=click.IntRange(min=1), metavar="N", help="Keep only the newest N messages."),
        option(
            "--history-sync",
            type=click.Choice(["normal", "full"]),
            default="normal",
            help="normal: a crash of the server loses no delivered message, a power failure at most the last 10 "
            "seconds. full: a power failure loses none either, but each message waits for the disk.",
        ),
        option(
            "--history",
            type=FILE,
            metavar="FILE",
            help="Keep messages in this file (SQLite), each before it is delivered. Read it with chat-history.",
        ),
    ):
        command = add(command)
    return command


def make_history(command: str, options: dict[str, Any]) -> History | None:
    """Take the history's options, and return the history, or None; or end the command with one line.

    Raises:
        UsageError: there are options for a history, but no file.
    """
    path, sync, keep, days = (options.pop(f"history{name}") for name in ("", "_sync", "_keep", "_days"))
    if path:
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded only when it is needed

        try:
            return SqliteHistory(path, keep=keep, days=days, sync=sync)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:  # the current folder was removed
            fail(command, f"cannot keep the history in {path}: {reason(error)}", about=["history"])
    if keep or days or sync != "normal" or options["history_required"]:
        raise click.UsageError(
            "--history-sync, --history-keep, --history-days and --history-required need --history FILE"
        )
    return None


def tls_options(command: Any) -> Any:
    """Add the options for `make_protection` to a command."""
    own = "Use TLS with a new certificate, made once; guests trust its fingerprint."
    for add in (
        option("--tls-self-signed", is_flag=True, help=own),
        option("--tls-key", type=FILE, metavar="FILE", help="Private key of --tls-cert, if it is in another file."),
        option("--tls-cert", type=FILE, metavar="FILE", help="Use TLS with this certificate; SIGHUP reloads it."),
    ):
        command = add(command)
    return command


@dataclass(frozen=True)
class Protection:
    """A room's protection: TLS and the password.

    Attributes:
        password: None for an open room.
        tls: the context made of `certificate` and `key`, or None.
        fingerprint: of the certificate, None if there is none.
        is_self_signed: whether nobody but the user vouches for the certificate.
    """

    password: str | None = field(repr=False)
    tls: ssl.SSLContext | None = None
    certificate: Path | None = None
    key: Path | None = None
    fingerprint: str | None = None
    is_self_signed: bool = False

    def tell_operator(self, address: Address) -> None:
        """Log how guests join, and a warning if strangers on a network can join or read the chat."""
        is_local = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        if not is_local or self.is_self_signed:
            url = RoomUrl(host_on_network(address[0]), address[1], self.tls is not None, self.fingerprint)
            logger.warning("guests join with: chat-client %s", url)
        if not is_local:
            self._warn_of_strangers(address)

    def _warn_of_strangers(self, address: Address) -> None:
        where = host_and_port(address)
        if self.password and not self.tls:
            logger.warning("the password and the chat pass %s unencrypted (--tls-self-signed encrypts them)", where)
        elif self.tls and not self.password:
            logger.warning("anyone who can reach %s can join (--password-file sets a password)", where)
        elif not self.tls:
            hint = "--password-file sets a password, --tls-self-signed encrypts the chat"
            logger.warning("anyone who can reach %s can join, and the chat is unencrypted (%s)", where, hint)

    def reload(self, server: Server) -> None:
        """Load the certificate again. If that fails, the old one stays in use, and the log says why."""
        if not self.certificate:
            logger.warning("there is nothing to reload: the room has no certificate")
            return
        from chatkit.tls import server_context

        try:
            server.set_tls(server_context(self.certificate, self.key))
            logger.warning("%s is in use for new connections", self.certificate)
        except OSError as error:
            logger.warning(
                "the old certificate stays in use: %s: %s", self.certificate, describe_certificate_error(error)
            )


def make_protection(
    command: str,
    max_line_bytes: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_self_signed: bool,
    password_file: Path | None,
) -> Protection:
    """Return the protection that the options describe, or end the command with one line."""
    if tls_cert and tls_self_signed:
        raise click.UsageError("--tls-cert and --tls-self-signed exclude each other")
    if tls_key and not tls_cert:
        raise click.UsageError("--tls-key needs --tls-cert")
    password = read_password(command, password_file, max_line_bytes)
    certificate = _self_signed_certificate(command) if tls_self_signed else tls_cert
    if not certificate:
        return Protection(password)
    from chatkit.tls import server_context  # ssl is loaded only when it is needed

    try:
        context, fingerprint = server_context(certificate, tls_key), _read_fingerprint(certificate)
        return Protection(password, context, certificate, tls_key, fingerprint, tls_self_signed)
    except OSError as error:
        problem = f"cannot use {certificate}: {describe_certificate_error(error)}"
        fail(command, problem, about=["tls_cert", "tls_key"])


def describe_certificate_error(error: OSError) -> str:
    """Return why a certificate's file can't be used, in plain words."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return reason(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "certificate and key don't match"
    return "no certificate and key (PEM, not encrypted) that TLS can use"


def _self_signed_certificate(command: str) -> Path:
    """Return the file of the user's own certificate, made if it is missing."""
    from chatkit.tls import self_signed

    path = data_folder(command) / "server.pem"
    try:
        self_signed(path)
        fingerprint = _read_fingerprint(path)
    except ImportError:
        fail(command, "--tls-self-signed needs the package cryptography", "pip install cryptography")
    except OSError as error:
        fail(command, f"cannot write a certificate to {path}: {reason(error)}")
    if not fingerprint:
        fail(command, f"{path} holds no certificate", "remove it to get a new one")
    return path


def _read_fingerprint(path: Path) -> str | None:
    """Return the fingerprint of the first certificate in a file, or None.

    Raises:
        OSError: it can't be read.
    """
    import ssl

    from chatkit.tls import fingerprint_of

    if not (found := _CERTIFICATE.search(path.read_text("latin-1"))):
        return None
    with suppress(ValueError):
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(found[0]))
    return None
