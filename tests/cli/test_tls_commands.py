"""The real commands with TLS: certificates, trust, and a line for each fault."""

from __future__ import annotations

import os
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers.commands import (
    BIN,
    CONNECTED,
    DISCONNECTED,
    Run,
    Running,
    checked,
    ended,
    err_line,
    invoke,
    join,
    read_line,
    start_server,
    stop,
)
from tests.helpers.marks import needs
from tests.helpers.papers import HOST, Papers
from tests.helpers.peers import DEADLINE

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands of this test keep what they make."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "chatkit"


def tls_server(run: Run, certificate: Path, *options: str) -> tuple[Running, str]:
    return start_server(run, "--tls-cert", str(certificate), *options)


# chat-server


def test_certificate_and_key_in_two_files(run: Run, papers: Papers, tmp_path: Path) -> None:
    """Members join and talk; the server says nothing but the chat."""
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    begin = "-----BEGIN CERTIFICATE-----"
    private, _, public = papers.good.read_text().partition(begin)
    key.write_text(private)
    certificate.write_text(begin + public)
    server, port = tls_server(run, certificate, "--tls-key", str(key))
    (ann, name), (bob, _) = [join(run, server, port, "--tls", "--tls-ca", str(papers.ca)) for _ in range(2)]
    ann.type("hi")
    assert (server.line(), bob.line()) == (f"{name}: hi", f"{name}: hi")
    for client in (ann, bob):
        client.type("exit")
        assert client.line() == DISCONNECTED
        assert client.ends() == (0, "", "")
    assert stop(server) == ""


@pytest.mark.parametrize(
    ("options", "status", "fault"),
    [
        (("--tls-cert", "{good}", "--tls-key", "{renewed}"), 1, "certificate and key don't match"),
        (("--tls-cert", "{good}-not"), 1, "No such file or directory"),
        (("--tls-cert", "{good}", "--tls-key", "{good}-not"), 1, "No such file or directory"),
        (("--tls-cert", "/dev/null"), 1, "no certificate and key (PEM, not encrypted) that TLS can use"),
        (("--tls-cert", "{ca}"), 1, "no certificate and key (PEM, not encrypted) that TLS can use"),
        (("--tls-key", "{good}"), 2, "--tls-key needs --tls-cert"),
        (("--tls-key", "{good}", "--tls-self-signed"), 2, "--tls-key needs --tls-cert"),
        (("--tls-cert", "{good}", "--tls-self-signed"), 2, "exclude each other"),
    ],
)
def test_a_certificate_that_cannot_be_used(papers: Papers, options: tuple[str, ...], status: int, fault: str) -> None:
    """One line says why, the server doesn't start."""
    given = [option.format(good=papers.good, renewed=papers.renewed, ca=papers.ca) for option in options]
    found, out, err = invoke("chat-server", "--port", "0", *given)
    *usage, line = checked(err).splitlines()
    assert (found, out, bool(usage)) == (status, "", status == 2)
    assert line.endswith(fault)


def test_a_certificate_of_ones_own(run: Run, own_data: Path) -> None:
    """It is made once, for the user's eyes only; the address that trusts it is printed once, ready for use."""
    said = set()
    for _ in range(2):
        server, port = start_server(run, "--tls-self-signed")
        url = rf"chats://127\.0\.0\.1:{port}#([0-9a-f]{{64}})"
        advice = re.fullmatch(rf"chat-server: guests join with: chat-client ({url})", err_line(server))
        assert advice
        said.add(advice[2])
        join(run, server, port, advice[1])
        assert stop(server) == ""
    assert len(said) == 1
    assert [path.name for path in own_data.iterdir()] == ["server.pem"]
    assert stat.S_IMODE((own_data / "server.pem").stat().st_mode) == 0o600


def test_a_missing_extra_is_one_line(run: Run, tmp_path: Path, own_data: Path) -> None:
    """Without `cryptography` the server names the command that installs it."""
    (tmp_path / "cryptography").mkdir()
    (tmp_path / "cryptography" / "__init__.py").write_text("raise ImportError('not here')\n")
    server = run("chat-server", "--port", "0", "--tls-self-signed", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    status, err = ended(server)
    assert (status, err.count("\n")) == (1, 1)
    assert "needs the package cryptography (pip install cryptography)" in err
    assert not own_data.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
def test_a_signal_loads_the_renewed_certificate(run: Run, papers: Papers, tmp_path: Path) -> None:
    """After SIGHUP newcomers get the new one; a broken file leaves it in use and says why; members stay."""
    path = tmp_path / "pem"
    shutil.copy(papers.good, path)
    server, port = tls_server(run, path)
    ann, name = join(run, server, port, "--tls-fingerprint", papers.fingerprint(papers.good))
    shutil.copy(papers.renewed, path)
    server.process.send_signal(signal.SIGHUP)
    assert err_line(server) == f"chat-server: {path} is in use for new connections"
    bob, _ = join(run, server, port, "--tls-fingerprint", papers.fingerprint(papers.renewed))
    path.write_text("broken")
    server.process.send_signal(signal.SIGHUP)
    why = f"{path}: no certificate and key (PEM, not encrypted) that TLS can use"
    assert err_line(server) == f"chat-server: the old certificate stays in use: {why}"
    cy, _ = join(run, server, port, "--tls-fingerprint", papers.fingerprint(papers.renewed))
    ann.type("hi")
    assert [bob.line(), cy.line()] == [f"{name}: hi"] * 2


WARNINGS = {
    "open": ("0.0.0.0", (), "anyone who can reach 0.0.0.0:{port} can join, and the chat is unencrypted"),
    "password": ("0.0.0.0", ("password",), "the password and the chat pass 0.0.0.0:{port} unencrypted"),
    "TLS": ("0.0.0.0", ("tls",), "anyone who can reach 0.0.0.0:{port} can join (--password-file sets a password)"),
    "both": ("0.0.0.0", ("tls", "password"), ""),
    "loopback": (HOST, (), ""),
    "password on loopback": (HOST, ("password",), ""),
}


@pytest.mark.parametrize("case", WARNINGS)
def test_leaving_the_machine_unprotected_warns(run: Run, papers: Papers, tmp_path: Path, case: str) -> None:
    """One line that says who can do what, and only where strangers can; never the password."""
    host, protection, warning = WARNINGS[case]
    (tmp_path / "password").write_text("swordfish\n")
    (tmp_path / "password").chmod(0o600)
    options = ["--tls-cert", str(papers.good)] if "tls" in protection else []
    options += ["--password-file", str(tmp_path / "password")] if "password" in protection else []
    server = run("chat-server", "--host", host, "--port", "0", *options)
    port = server.line().rpartition(":")[2]
    err = stop(server)
    lines = [line for line in err.splitlines() if not line.startswith("chat-server: guests join with: ")]
    assert err.count("\n") - len(lines) == (host != HOST)
    assert len(lines) == bool(warning)
    assert not warning or lines[0].startswith(f"chat-server: {warning.format(port=port)}")
    assert "swordfish" not in err


# chat-client


@pytest.mark.parametrize("option", ["--tls-fingerprint", "--tls-ca"])
def test_an_empty_option_is_no_plain_text(option: str) -> None:
    """An option that a script left unset asks for TLS all the same: nothing is sent in the open."""
    with socket.create_server((HOST, 0)) as listener:
        status, out, err = invoke("chat-client", "--port", str(listener.getsockname()[1]), option, "")
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert (status in (1, 2), out) == (True, "")
    assert err


def test_an_empty_password_in_the_environment() -> None:
    """A secret that came out empty opens no room."""
    hint = "unset it for a room without a password"
    told = f"chat-server: CHATKIT_PASSWORD is empty ({hint})\n"
    assert invoke("chat-server", "--port", "0", CHATKIT_PASSWORD="") == (1, "", told)


def client_faults(papers: Papers) -> dict[str, tuple[Path, tuple[str, ...], str]]:
    """For each case: the server's certificate, the client's options, its complaint."""
    pin, found = papers.fingerprint(papers.renewed), papers.fingerprint(papers.good)
    ca, hint = ("--tls-ca", str(papers.ca)), r"\(--tls-ca .*--tls-fingerprint .*\)"
    return {
        "untrusted": (papers.good, ("--tls",), rf"cannot join .*not trusted: .* {hint}"),
        "name": (papers.other_name, ca, r"cannot join .*not trusted: IP address mismatch.*"),
        "expired": (papers.expired, ca, r"cannot join .*not trusted: certificate has expired.*"),
        "pin": (papers.good, ("--tls-fingerprint", pin), f"cannot trust .*; its fingerprint is {found}"),
    }


@pytest.mark.parametrize("case", ["untrusted", "name", "expired", "pin"])
def test_a_client_that_cannot_trust_says_why(run: Run, papers: Papers, case: str) -> None:
    """One line, and exit status 1; the server never has a member."""
    certificate, options, fault = client_faults(papers)[case]
    server, port = tls_server(run, certificate)
    status, err = ended(run("chat-client", "--port", port, *options))
    assert (status, err.count("\n")) == (1, 1)
    assert re.fullmatch(f"chat-client: {fault}\n", err)
    join(run, server, port, "--tls-fingerprint", papers.fingerprint(certificate))
    assert stop(server) == ""


@pytest.mark.parametrize(
    ("options", "status", "fault"),
    [
        ("--tls-fingerprint abc", 2, "a fingerprint is 64 hexadecimal digits, .*"),
        ("--tls-ca {ca} --tls-fingerprint {pin}", 2, ".* exclude each other"),
        ("--tls-trust --tls-fingerprint {pin}", 2, ".* exclude each other"),
        ("--tls-ca /missing", 1, "cannot use /missing: No such file or directory"),
        ("--tls-ca /dev/null", 1, "cannot use /dev/null: no certificate in PEM form"),
    ],
)
def test_trust_that_cannot_be(papers: Papers, options: str, status: int, fault: str) -> None:
    """The client says why in one line, and connects to nobody."""
    given = options.format(ca=papers.ca, pin=papers.fingerprint(papers.good)).split()
    with socket.create_server((HOST, 0)) as listener:
        found, out, err = invoke("chat-client", "--port", str(listener.getsockname()[1]), *given)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    *usage, line = checked(err).splitlines()
    assert (found, out, bool(usage)) == (status, "", status == 2)
    assert re.fullmatch(f"(chat-client|Error): {fault}", line)


def test_tls_to_a_plain_server(run: Run) -> None:
    """The client says that it should leave out --tls; the room hears nothing."""
    server, port = start_server(run)
    status, err = ended(run("chat-client", "--port", port, "--tls"))
    assert (status, err) == (1, f"chat-client: cannot join {HOST}:{port}: it doesn't speak TLS (leave out --tls)\n")
    passed = [server.line() for _ in range(2)]
    assert [line.split()[0] for line in passed] == ["New", "Connection"]
    assert stop(server) == ""


@pytest.mark.parametrize("typed", ["", "hi\n", "hi\n" * 1000], ids=["nothing", "a line", "many lines"])
def test_a_plain_client_to_a_tls_server(run: Run, papers: Papers, typed: str) -> None:
    """It is told what the port speaks, also when its input is a pipe, and ends with status 3."""
    server, port = tls_server(run, papers.good, "--tls-handshake-seconds", "0.5")
    client = run("chat-client", "--port", port)
    assert client.process.stdin
    with suppress(BrokenPipeError):
        client.process.stdin.write(typed.encode())
    assert client.line() == CONNECTED
    assert client.line() == "*** this port speaks TLS (chat-client --tls)"
    status, out, err = client.ends()
    assert (status, out) == (3, "")
    assert checked(err).startswith("chat-client: disconnected: ")
    assert err.count("\n") == 1
    assert stop(server) == ""


class Person:
    """chat-client --tls-trust on a terminal. shown: all that was on it."""

    def __init__(self, stack: ExitStack, port: str) -> None:
        self.master, slave = pty.openpty()
        stack.callback(os.close, self.master)
        command = [str(BIN / "chat-client"), "--port", port, "--tls-trust"]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        stack.enter_context(self.process)
        stack.callback(self.process.kill)
        os.close(slave)
        self._waiting = b""
        self.shown = ""

    def sees(self, end: str) -> str:
        """Return the text that is shown up to `end`."""
        text, self._waiting = read_line(self.master, self._waiting, end.encode())
        self.shown += text.decode() + end
        return checked(text.decode())

    def types(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ends(self) -> int:
        return self.process.wait(DEADLINE)


@pytest.fixture
def person() -> Iterator[Callable[[str], Person]]:
    with ExitStack() as stack:
        yield lambda port: Person(stack, port)


def test_trust_on_first_use(run: Run, person: Callable[[str], Person], papers: Papers, own_data: Path) -> None:
    """Asked once, remembered, not asked again; another certificate at the same place is refused loudly."""
    known, pin = own_data / "known_hosts", papers.fingerprint(papers.good)
    server, port = tls_server(run, papers.good)
    new = person(port)
    assert new.sees("Does the server's operator").endswith(f"its fingerprint is {pin}\r\n")
    new.types("y\n")
    new.sees(CONNECTED)
    assert known.read_text() == f"{HOST}:{port} {pin}\n"
    back = person(port)
    back.sees(CONNECTED)
    assert back.shown == CONNECTED
    for one in (new, back):
        one.types("exit\n")
        one.sees(DISCONNECTED)
        assert one.ends() == 0
    stop(server)
    start_server(run, "--port", port, "--tls-cert", str(papers.renewed))
    fooled = person(port)
    loud = fooled.sees("\r\n")
    assert f"THE CERTIFICATE OF {HOST}:{port} HAS CHANGED" in loud
    assert (pin in loud, papers.fingerprint(papers.renewed) in loud, str(known) in loud) == (True, True, True)
    assert fooled.ends() == 1
    assert known.read_text() == f"{HOST}:{port} {pin}\n"


@pytest.mark.parametrize("on_terminal", [True, False])
def test_nobody_is_trusted_unasked(
    run: Run, person: Callable[[str], Person], papers: Papers, own_data: Path, on_terminal: bool
) -> None:
    """Answered with n, or where there is no terminal to ask on: status 1, nothing remembered, no member."""
    server, port = tls_server(run, papers.good)
    if on_terminal:
        wary = person(port)
        wary.sees("[y/N]: ")
        wary.types("n\n")
        assert "chat-client: not trusted" in wary.sees("use --tls-fingerprint)")
        assert wary.ends() == 1
    else:
        client = run("chat-client", "--port", port, "--tls-trust")
        client.type("y")
        status, err = ended(client)
        assert status == 1
        assert "chat-client: not trusted (--tls-trust asks on a terminal" in err
    assert not own_data.exists()
    join(run, server, port, "--tls-ca", str(papers.ca))
    assert stop(server) == ""


# Not only our own


@needs(shutil.which("openssl"), "openssl")
def test_openssl_is_a_member(run: Run, papers: Papers) -> None:
    """`openssl s_client` hears and is heard."""
    server, port = tls_server(run, papers.good)
    command = ["s_client", "-quiet", "-verify_return_error", "-CAfile", str(papers.ca), "-connect", f"{HOST}:{port}"]
    member = run(shutil.which("openssl") or "", *command)
    name = server.line().split()[-1].rstrip(")")
    ann, ann_name = join(run, server, port, "--tls-ca", str(papers.ca))
    member.type("hi")
    assert ann.line() == f"{name}: hi"
    ann.type("ho")
    assert member.line() == f"{ann_name}: ho"
    member.type("exit")
    assert [server.line() for _ in range(3)][-1] == f"Connection from ('{HOST}', {name}) closed."
