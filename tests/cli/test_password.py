"""The commands in a room with a password."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.commands import BIN, CONNECTED, DISCONNECTED, Run, invoke
from tests.helpers.login import ASKED, GUESS, WRONG, Guarded
from tests.helpers.peers import DEADLINE, Peer

pytestmark = pytest.mark.slow


def secrets_for(how: str, tmp_path: Path, word: bytes = b"sesame\nnot this") -> tuple[tuple[str, ...], dict[str, str]]:
    """Options and environment that give a command the password."""
    if how == "environment":
        return (), {**os.environ, "CHATKIT_PASSWORD": word.decode().partition("\n")[0]}
    path = tmp_path / f"file{len(list(tmp_path.iterdir()))}"
    path.write_bytes(word)
    path.chmod(0o600)
    return ("--password-file", str(path)), dict(os.environ)


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("how", ["file", "environment"])
def test_the_commands(run: Run, tmp_path: Path, how: str, threads: str) -> None:
    """Both take it from a file or the environment; it is in no output and on no command line."""
    options, env = secrets_for(how, tmp_path)
    server = run("chat-server", "--port", "0", "--threads", threads, *options, env=env)
    printed = [server.line()]
    port = printed[0].rpartition(":")[2]
    stranger, client = Peer(int(port)), run("chat-client", "--port", port, *options, env=env)
    stranger.send(GUESS)
    stranger.send_eof()
    assert stranger.rest().splitlines() == [ASKED, WRONG]
    stranger.close()
    printed += [client.line(), server.line()]
    client.type("hi")
    printed.append(server.line())
    assert (printed[1], printed[3].endswith(": hi")) == (CONNECTED, True)
    commands = [Path(f"/proc/{each.process.pid}/cmdline") for each in (server, client)]
    printed += [path.read_text() for path in commands if path.exists()]
    client.type("exit")
    assert client.ends() == (0, f"{DISCONNECTED}\n", "")
    server.process.terminate()
    status, out, err = server.ends()
    assert (status, err) == (0, "chat-server: a wrong password from 127.0.0.1\n")
    assert "sesame" not in "".join([*printed, out, err])


@pytest.mark.parametrize("once", [(), ("--once",), ("--json",)])
@pytest.mark.parametrize("word", [b"sesame\r\n", b"open", None])
def test_chat_client_in_a_pipe(guarded: Guarded, tmp_path: Path, once: tuple[str, ...], word: bytes | None) -> None:
    """With the password the line is said; with a wrong one or none the status is 3, with one line on stderr."""
    started = guarded()
    options, env = secrets_for("file", tmp_path, word) if word else ((), dict(os.environ))
    program = [str(BIN / "chat-client"), "--port", str(started.port), *options, *once]
    done = subprocess.run(program, input=b"hi\n", env=env, capture_output=True, timeout=DEADLINE)
    out, err = done.stdout.decode(), done.stderr.decode()
    if word == b"sesame\r\n":
        assert (done.returncode, err) == (0, "")
        assert started.events.wait_for("message").endswith(": hi")
    else:
        assert (done.returncode, err.count("\n"), started.events.happened.empty()) == (3, 1, True)
        assert err.startswith("chat-client: ")
    assert not [line for line in (out + err).splitlines() if "sesame" in line or "open" in line]


@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
@pytest.mark.parametrize("held", [b"", b"\nsesame", b"\xffsesame", None])
def test_files_that_hold_no_password(tmp_path: Path, command: str, held: bytes | None) -> None:
    """Empty, missing, or not UTF-8: one line that names the file, and status 1."""
    path = tmp_path / "file"
    if held is not None:
        path.write_bytes(held)
    status, out, err = invoke(command, "--port", "1", "--password-file", str(path))
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"{command}: ")
    assert str(path) in line
    assert "sesame" not in line


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o604])
@pytest.mark.parametrize("command", ["chat-server", "chat-client"])
def test_a_password_that_others_can_read(tmp_path: Path, command: str, mode: int) -> None:
    """One line says so, whoever reads it."""
    path = tmp_path / "file"
    path.write_text("sesame\n")
    path.chmod(mode)
    given = ("--host", "256.0.0.1", "--password-file", str(path))
    warnings = [line for line in invoke(command, *given)[2].splitlines() if str(path) in line]
    advice = f"{command}: others can read the password in {path} (chmod 600 {path})"
    assert warnings == ([] if mode == 0o600 else [advice])
