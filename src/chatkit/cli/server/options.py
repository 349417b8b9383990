"""The options of `chat-server`: its bounds, its history, its certificate and password."""

from __future__ import annotations

import ipaddress
import logging
import signal
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chatkit import Limits, Server
from chatkit.cli.common import FILE, complain, data_folder, fail, option, read_password, reason
from chatkit.history.base import History
from chatkit.net.sockets import Address, host_and_port

if TYPE_CHECKING:
    import ssl

logger = logging.getLogger("chatkit")


UNITS = {"bytes": "BYTES", "seconds": "SECONDS"}


def limit_options(command: Any) -> Any:
    """One option for each of `Limits`."""
    for limit in reversed(fields(Limits)):
        whole = "int" in str(limit.type)
        kind = click.IntRange(min=1) if whole else click.FloatRange(min=0, min_open=True)
        name, unit = "--" + limit.name.replace("_", "-"), UNITS.get(limit.name.rpartition("_")[2], "N")
        command = option(name, type=kind, metavar=unit, default=limit.default, help=limit.metadata["help"])(command)
    return command


def history_options(command: Any) -> Any:
    """The options for `history_of`, and `history_required` and `replay`."""
    for add in (
        option(
            "--replay",
            type=click.IntRange(min=0),
            metavar="N",
            default=0,
            help="Tell newcomers the last N messages first.",
        ),
        option(
            "--history-required",
            is_flag=True,
            help="Refuse messages while they can't be kept (full disk ...); else the chat goes on without.",
        ),
        option(
            "--history-days", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Keep messages for N days."
        ),
        option("--history-keep", type=click.IntRange(min=1), metavar="N", help="Keep the newest N messages; else all."),
        option(
            "--history-sync",
            type=click.Choice(["normal", "full"]),
            default="normal",
            help="normal: a crash of the server loses nothing that anyone has seen, a power failure at most the last 10 seconds. "
            "full: that neither, but each message waits for the disk.",
        ),
        option(
            "--history",
            type=FILE,
            metavar="FILE",
            help="Keep what is said in this file (SQLite); read it with chat-history. Nobody is shown a message before it is kept.",
        ),
    ):
        command = add(command)
    return command


def history_of(options: dict[str, Any]) -> History | None:
    """What is to be kept where, taken from the options. UsageError: options for a history, but no history."""
    path, sync, keep, days = (options.pop(f"history{name}") for name in ("", "_sync", "_keep", "_days"))
    if path:
        from chatkit.history.sqlite.store import SqliteHistory  # sqlite3 is loaded when it is needed

        try:
            return SqliteHistory(path, keep=keep, days=days, sync=sync)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    if keep or days or sync != "normal" or options["history_required"]:
        raise click.UsageError(
            "--history-sync, --history-keep, --history-days and --history-required need --history FILE"
        )
    return None


def tls_options(command: Any) -> Any:
    """The options for `protect`."""
    own = "Speak TLS with a certificate made for you, and print its fingerprint."
    for add in (
        option("--tls-self-signed", is_flag=True, help=own),
        option("--tls-key", type=FILE, metavar="FILE", help="Its key, if that is in another file."),
        option("--tls-cert", type=FILE, metavar="FILE", help="Speak TLS with this certificate; SIGHUP loads it anew."),
    ):
        command = add(command)
    return command


@dataclass(frozen=True)
class Protection:
    """tls: made of certificate and key. password: None for an open room."""

    tls: ssl.SSLContext | None
    password: str | None = field(repr=False)
    certificate: Path | None
    key: Path | None

    def warn(self, address: Address) -> None:
        """One line about who can do what, where the room leaves this machine without protection."""
        if ipaddress.ip_address(address[0].partition("%")[0]).is_loopback:
            return
        where = host_and_port(address)
        if self.password and not self.tls:
            logger.warning("the password and the chat pass %s unencrypted (--tls-self-signed encrypts)", where)
        elif self.tls and not self.password:
            logger.warning("everyone who reaches %s is in (--password-file asks)", where)
        elif not self.tls:
            hint = "--tls-self-signed encrypts, --password-file asks"
            logger.warning("everyone who reaches %s is in, and others on the way can read along (%s)", where, hint)

    def renew_on_signal(self, server: Server) -> None:
        """SIGHUP loads the certificate anew; a bad one leaves the old one in use and says why."""

        def renew(number: int, frame: object) -> None:
            from chatkit.tls import server_context

            assert self.certificate
            try:
                server.set_tls(server_context(self.certificate, self.key))
                logger.warning("%s is in use for new connections", self.certificate)
            except OSError as error:
                logger.warning("the old certificate stays in use: %s: %s", self.certificate, fault(error))

        if self.certificate:
            signal.signal(signal.SIGHUP, renew)


def protect(
    command: str, tls_cert: Path | None, tls_key: Path | None, tls_self_signed: bool, password_file: Path | None
) -> Protection:
    """What the options ask for; one line and the end if that can't be."""
    if tls_cert and tls_self_signed:
        raise click.UsageError("--tls-cert and --tls-self-signed exclude each other")
    if tls_key and not tls_cert:
        raise click.UsageError("--tls-key needs --tls-cert")
    password = read_password(command, password_file)
    certificate = _own_certificate(command) if tls_self_signed else tls_cert
    if not certificate:
        return Protection(None, password, None, None)
    from chatkit.tls import server_context  # ssl is loaded when it is needed

    try:
        return Protection(server_context(certificate, tls_key), password, certificate, tls_key)
    except OSError as error:
        fail(command, f"cannot use {certificate}: {fault(error)}")


def fault(error: OSError) -> str:
    """What is wrong with a certificate's file, in plain words."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return reason(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "certificate and key don't belong together"
    return "no certificate and key (PEM, not encrypted) that TLS can use"


def _own_certificate(command: str) -> Path:
    import ssl

    from chatkit.tls import fingerprint_of, self_signed

    path = data_folder() / "server.pem"
    begin = "-----BEGIN CERTIFICATE-----"
    try:
        self_signed(path)
        certificate = ssl.PEM_cert_to_DER_cert(begin + path.read_text().partition(begin)[2])
    except ImportError:
        fail(command, "--tls-self-signed needs the package cryptography", "pip install 'chatkit[tls]'")
    except OSError as error:
        fail(command, f"cannot keep a certificate in {path}: {reason(error)}")
    except ValueError:
        fail(command, f"{path} holds no certificate", "remove it, and a new one is made")
    complain(command, f"members join with --tls-fingerprint {fingerprint_of(certificate)}")
    return path
