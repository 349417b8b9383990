"""The environment of the commands: variables in place of options, and whatever else a machine may lack."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.helpers.commands import BIN, CONNECTED, MAINS, Run, Running, ended, invoke, read_line, start_server
from tests.helpers.history_files import write
from tests.helpers.marks import needs
from tests.helpers.papers import Papers
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

MISSING = {"chat-server": "--tls-cert", "chat-client": "--tls-ca"}
FLAGS = [
    (command, option.name, option.envvar)
    for command, main in MAINS.items()
    for option in main.params
    if getattr(option, "is_flag", False) and option.envvar
]


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
def test_a_variable_that_kubernetes_sets(command: str) -> None:
    """For a service named chatkit it sets CHATKIT_PORT to an address: one warning, and the default port."""
    status, out, err = invoke(command, MISSING[command], "/missing", CHATKIT_PORT="tcp://10.96.0.12:12345")
    warning = "CHATKIT_PORT=tcp://10.96.0.12:12345 is passed over: it describes a service (Kubernetes)"
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"{command}: {warning}",
        f"{command}: cannot use /missing: No such file or directory",
    ]


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
@pytest.mark.parametrize(
    ("value", "fault"), [("x", "'x' is not a valid integer range"), ("70000", "70000 is not in the range")]
)
def test_an_error_names_the_variable(command: str, value: str, fault: str) -> None:
    """Not the option that nobody wrote; beside an option it isn't read."""
    status, out, err = invoke(command, CHATKIT_PORT=value)
    assert (status, out) == (2, "")
    assert f"Error: Invalid value for CHATKIT_PORT in the environment: {fault}" in err
    status, _, err = invoke(command, "--port", "y", CHATKIT_PORT=value)
    assert (status, "CHATKIT_PORT" in err, "--port" in err) == (2, False, True)


def test_an_error_about_several_options_names_the_variables() -> None:
    """Those that were set there."""
    status, _, err = invoke("chat-server", "--tls-self-signed", CHATKIT_TLS_KEY="x", CHATKIT_THREADS="2")
    assert status == 2
    assert err.endswith("Error: --tls-key needs --tls-cert (in the environment: CHATKIT_THREADS, CHATKIT_TLS_KEY)\n")
    status, _, err = invoke("chat-server", CHATKIT_STALL_SECONDS="nan")
    assert status == 2
    assert "(in the environment: CHATKIT_STALL_SECONDS)" in err


CHECKED = [
    (command, parameter.envvar)
    for command, main in MAINS.items()
    for parameter in main.params
    if parameter.envvar and (parameter.callback or not isinstance(parameter.type, click.types.StringParamType))
]


@pytest.mark.parametrize(("command", "variable"), CHECKED)
def test_an_error_names_each_variable(command: str, variable: str) -> None:
    """Whatever is checked when it is read: numbers, choices, flags, files, times, names."""
    needed = {"CHATKIT_HISTORY": "file"} if command == "chat-history" else {}
    for value in ("/", os.fsdecode(b"\xff")):  # a folder, and no text
        status, out, err = invoke(command, **needed | {variable: value})
        if status == 2:
            break
    assert (status, out) == (2, "")
    assert f"Error: Invalid value for {variable} in the environment: " in err


@pytest.mark.parametrize(
    ("command", "variables", "told"),
    [
        ("chat-server", {"HOST": "a..b"}, "cannot listen on a..b:12345: no such host (in the environment: {})"),
        (
            "chat-server",
            {"HISTORY": "text"},
            "text isn't a history of chatkit; choose another file (in the environment: {})",
        ),
        ("chat-server", {"TLS_CERT": "no"}, "cannot use no: No such file or directory (in the environment: {})"),
        ("chat-server", {"PASSWORD_FILE": "no"}, "cannot read no: No such file or directory (in the environment: {})"),
        ("chat-client", {"HOST": "a..b"}, "cannot connect to a..b:12345: no such host (in the environment: {})"),
        ("chat-client", {"TLS_CA": "no"}, "cannot use no: No such file or directory (in the environment: {})"),
        ("chat-client", {"TLS_CA": "text"}, "cannot use text: no certificate in PEM form (in the environment: {})"),
        ("chat-client", {"CURSOR": "text"}, "text isn't a cursor (remove it to begin anew; in the environment: {})"),
        ("chat-history", {"HISTORY": "no"}, "no can't be read: No such file or directory (in the environment: {})"),
        ("chat-history", {"GREP": "x", "HISTORY": "chat.db"}, "nothing found in chat.db (in the environment: {})"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_an_error_found_later_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, variables: dict[str, str], told: str
) -> None:
    """Those that it is about, and not those beside which there is an option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("dear diary\n")
    write(tmp_path / "chat.db", []).close()
    environment = {f"CHATKIT_{name}": value for name, value in variables.items()}
    others = {"CHATKIT_THREADS": "2", "CHATKIT_JSON": "1"}
    status, out, err = invoke(command, **environment, **others)
    assert (status, out, err.replace(f"{tmp_path}/", "")) == (
        1,
        "",
        f"{command}: {told.format(', '.join(environment))}\n",
    )
    options = [part for name, value in variables.items() for part in (f"--{name.lower().replace('_', '-')}", value)]
    given = options if command == "chat-server" else [value for value in options if value not in ("--history",)]
    status, _, err = invoke(command, *given, **environment | others)
    assert (status, "in the environment" in err) == (1, False)


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
@pytest.mark.parametrize("password", ["a\nb", os.fsdecode(b"\xff"), "x" * 100])
def test_a_password_that_no_line_can_hold(tmp_path: Path, command: str, password: str) -> None:
    """The error names the variable, or the file; never the password."""
    reason = "the password must fit into one line of UTF-8, without control characters"
    options = ("--max-line-bytes", "100")
    status, out, err = invoke(command, *options, CHATKIT_PASSWORD=password)
    assert (status, out, err) == (1, "", f"{command}: CHATKIT_PASSWORD: {reason}\n")
    path = tmp_path / "password"
    path.write_text("x" * 100)
    path.chmod(0o600)
    status, out, err = invoke(command, *options, CHATKIT_PASSWORD_FILE=str(path))
    told = f"{command}: {path}: {reason} (in the environment: CHATKIT_PASSWORD_FILE)\n"
    assert (status, out, err) == (1, "", told)


@pytest.mark.parametrize(("command", "name", "variable"), FLAGS)
@pytest.mark.parametrize("value", ["false", "0", "no", "off", ""])
def test_a_flag_that_is_false_in_the_environment_is_off(
    monkeypatch: pytest.MonkeyPatch, command: str, name: str, variable: str, value: str
) -> None:
    """click 8.2 took it for true: a room with `CHATKIT_TLS_SELF_SIGNED=false` spoke TLS."""
    monkeypatch.setenv(variable, value)
    arguments = ["file"] if command == "chat-history" else []
    assert MAINS[command].make_context(command, arguments).params[name] is False


@pytest.fixture
def nobody() -> Iterator[str]:
    """A port that no server can have, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield str(taken.getsockname()[1])


HOMELESS = "this user has no home folder (set HOME or XDG_DATA_HOME)"


@pytest.mark.parametrize(("command", "option"), [("chat-server", "--tls-self-signed"), ("chat-client", "--tls-trust")])
@pytest.mark.parametrize("home", ["", "a/relative/one", None])
def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nobody: str, command: str, option: str, home: str | None
) -> None:
    """Without HOME and an entry in passwd, as in containers: one line, and nothing is written anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getuid", lambda: 123_456_789)  # nobody in passwd
    monkeypatch.delenv("HOME", raising=False)
    variables = {"XDG_DATA_HOME": "also/relative"} | ({} if home is None else {"HOME": home})
    assert invoke(command, "--port", nobody, option, **variables) == (1, "", f"{command}: {HOMELESS}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_no_folder(tmp_path: Path, nobody: str) -> None:
    """As users of services have: one line."""
    (tmp_path / "home").write_text("")
    for command, option in (("chat-server", "--tls-self-signed"), ("chat-client", "--tls-trust")):
        status, out, err = invoke(command, "--port", nobody, option, XDG_DATA_HOME="", HOME=str(tmp_path / "home"))
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.endswith(": Not a directory\n")


def test_trusted_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    """One line says why."""
    (tmp_path / "chatkit").mkdir()
    (tmp_path / "chatkit" / "known_hosts").write_bytes(b"\xff\n")
    status, _, err = invoke("chat-client", "--port", "1", "--tls-trust", XDG_DATA_HOME=str(tmp_path))
    assert status == 1
    assert err == f"chat-client: cannot read {tmp_path}/chatkit/known_hosts: not valid UTF-8\n"


@pytest.mark.parametrize("stdin", ["closed", "a file"])
def test_no_terminal_for_the_question_of_trust(run: Run, papers: Papers, tmp_path: Path, stdin: str) -> None:
    """One line on it, and one that names the option for scripts."""
    _, port = start_server(run, "--tls-cert", str(papers.good))
    redirect = "<&-" if stdin == "closed" else f"< {papers.good}"
    command = f"XDG_DATA_HOME={tmp_path} exec {BIN}/chat-client --port {port} --tls-trust {redirect}"
    status, err = ended(run(shutil.which("bash") or "", "-c", command))
    unknown, not_trusted = err.splitlines()
    assert status == 1
    assert f"is unknown; its fingerprint is {papers.fingerprint(papers.good)}" in unknown
    assert not_trusted.startswith("chat-client: not trusted (--tls-trust asks on a terminal; ")


@pytest.mark.parametrize(("keys", "status"), [(b"\x04", 1), (b"\xff\n", 1), (b"\x03", -signal.SIGINT)])
def test_the_question_of_trust_is_not_answered(
    run: Run, papers: Papers, tmp_path: Path, keys: bytes, status: int
) -> None:
    """The end of input and nonsense are a no; Ctrl-C ends the command as it always does. No traceback."""
    _, port = start_server(run, "--tls-cert", str(papers.good))
    master, slave = pty.openpty()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
    env = os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    options = {"env": env, "preexec_fn": lambda: os.login_tty(slave)}
    client = run("chat-client", "--port", port, "--tls-trust", **streams, **options)
    os.close(slave)
    _, rest = read_line(master, b"", b"[y/N]: ")
    os.write(master, keys)
    assert client.process.wait(DEADLINE) == status
    assert b"Traceback" not in rest + os.read(master, 65536)
    os.close(master)
    assert list(tmp_path.iterdir()) == []


@needs(shutil.which("unshare") and os.getuid() == 0, "unshare")
def test_a_machine_without_devices(run: Run, serve: Serve, tmp_path: Path) -> None:
    """A container may lack /dev: the room runs, with closed streams too, and so does the client."""
    bare = 'mount -t tmpfs none /dev; exec "$@"'

    def without_devices(*command: str) -> Running:
        return run(shutil.which("unshare") or "", "-m", "bash", "-c", bare, "-", *command)

    server = without_devices(str(BIN / "chat-server"), "--port", "0")
    port = server.line().rpartition(":")[2]
    client = without_devices(str(BIN / "chat-client"), "--port", port)
    assert client.line() == CONNECTED
    client.process.send_signal(signal.SIGINT)
    assert client.ends() == (-signal.SIGINT, "", "")
    assert server.line().startswith("New ")
    server.process.send_signal(signal.SIGTERM)
    status, _, err = server.ends()
    assert (status, err) == (0, "")
    closed = without_devices("bash", "-c", f"exec {BIN}/chat-client --port {serve().port} <&- 2>&-")
    assert closed.line() == CONNECTED
    assert closed.ends()[0] == 0


def test_numbers_beyond_64_bits(run: Run, tmp_path: Path) -> None:
    """As good as the largest number that there is."""
    beyond, path = str(10**30), str(tmp_path / "chat.db")
    options = ("--history-keep", beyond, "--replay", beyond, "--history-size", beyond, "--max-pending-bytes", beyond)
    server, port = start_server(run, "--history", path, *options, "--history-days", "1e300", "--stall-seconds", "1e300")
    client = run("chat-client", "--port", port, "--once", "--max-line-bytes", beyond)
    client.type("hi")
    client.type(f"/json {beyond}")
    assert client.process.stdin
    client.process.stdin.close()
    assert client.process.wait(DEADLINE) == 1  # the room refuses the command
    assert server.line().startswith("New ")
    assert server.line().endswith(": hi")
    server.process.send_signal(signal.SIGTERM)
    assert server.ends()[0::2] == (0, "")
    status, out, err = invoke("chat-history", path, "--last", beyond)
    assert (status, out.endswith(": hi\n"), err) == (0, True, "")


@pytest.mark.parametrize("command", ["chat-server", "chat-history"])
def test_a_current_folder_that_was_removed(run: Run, tmp_path: Path, command: str) -> None:
    """One line about the history, not about the network."""
    options = "--port 0 --history chat.db" if command == "chat-server" else "chat.db"
    folder = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; exec {BIN}/{command} {options}"
    status, err = ended(run(shutil.which("bash") or "", "-c", folder))
    words = "cannot keep the history in chat.db" if command == "chat-server" else "cannot show the history"
    assert (status, err) == (1, f"{command}: {words}: No such file or directory\n")


def test_a_log_of_tls_keys_that_cannot_be_written() -> None:
    """The error names its file."""
    status, _, err = invoke("chat-client", "--port", "1", "--tls", SSLKEYLOGFILE="/missing/keys")
    problem = "cannot use /missing/keys: No such file or directory"
    assert (status, err) == (1, f"chat-client: {problem} (in the environment: SSLKEYLOGFILE)\n")


@pytest.mark.parametrize(("module", "options"), [("_sqlite3", ["--history", "x"]), ("_ssl", ["--tls-cert", "x"])])
def test_a_python_without_a_module(run: Run, module: str, options: list[str]) -> None:
    """As some are built: one line names it. A room that doesn't need it runs."""
    forget = "[sys.modules.pop(name) for name in list(sys.modules) if name.startswith('sqlite3')]"  # coverage's
    start = f"import sys; {forget}; sys.modules['{module}'] = None; from chatkit.cli.server.main import main; main()"
    status, err = ended(run("python", "-c", start, "--port", "0", *options))
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("chat-server: this Python lacks a module: ")
    assert module in err
    server = run("python", "-c", start, "--port", "0")
    assert server.line().startswith("Server listening on ")
