"""Options of the commands: announcements, names, JSON Lines, and one line from a script."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from chatkit import Limits, Member, Refused
from tests.helpers.commands import BIN, CONNECTED, DISCONNECTED, Run, client_with, invoke, join, start_server
from tests.helpers.peers import DEADLINE, Peer
from tests.helpers.servers import Serve

pytestmark = pytest.mark.slow
ONCE = ("--once",)


@pytest.mark.parametrize("how", ["option", "environment", "neither"])
def test_announce(run: Run, how: str) -> None:
    """With --announce or CHATKIT_ANNOUNCE=1 plain text tells of members that join, take another name and leave."""
    options = ("--announce",) if how == "option" else ()
    env = {**os.environ, "CHATKIT_ANNOUNCE": "1"} if how == "environment" else dict(os.environ)
    server = run("chat-server", "--port", "0", *options, env=env)
    port = int(server.line().rpartition(":")[2])
    ann = Peer(port)
    ann.send(b"/msg " + ann.name.encode() + b" here\n")
    assert ann.line().endswith(b"(private): here")
    bob = Peer(port)
    bob.send(b"/nick bob\n")
    bob.sync()
    bob.send(b"/nick bo\nexit\n")
    assert bob.rest() == b"*** you are now bo\n"
    bob.close()
    ann.send(b"/msg " + ann.name.encode() + b" sentinel\n")
    told = [] if how == "neither" else ["bob joined", "bob is now bo", "bo left"]
    expected = [f"*** {line}" for line in told] + [f"{ann.name} (private): sentinel"]
    assert [ann.line().decode() for _ in expected] == expected
    ann.close()


def test_the_transcript_of_names_and_actions(run: Run) -> None:
    """chat-server prints changes of names, and actions as members see them."""
    server, port = start_server(run)
    client, name = join(run, server, port)
    client.type("/nick ada")
    assert client.line() == "*** you are now ada"
    assert server.line() == f"{name} is now ada"
    client.type("/me waves")
    assert server.line() == "* ada waves"
    client.type("/who")
    assert client.line() == "*** 1 here: ada"
    client.type("Hi!")
    assert server.line() == "ada: Hi!"


def test_a_name(run: Run, serve: Serve) -> None:
    """--name is what the others see; the terminal shows no more than the contract's lines."""
    started = serve()
    peer = started.peer()
    assert client_with(run, started.port, "Hi!\n", "--name", "ada") == (0, f"{CONNECTED}\n{DISCONNECTED}\n", "")
    assert peer.line() == b"ada: Hi!"


@pytest.mark.parametrize("options", [(), ONCE, ("--json",)])
def test_a_name_that_is_taken(run: Run, serve: Serve, options: tuple[str, ...]) -> None:
    """Also in another case: exit status 1 and one line that names the option; nothing was said."""
    started = serve()
    peer = started.peer()
    peer.send(b"/nick Ada\n")
    assert peer.line() == b"*** you are now Ada"
    status, out, err = client_with(run, started.port, "Hi!\n", "--name", "ada", *options)
    assert (status, out, err) == (1, "", "chat-client: the name ada is taken (choose another with --name)\n")
    started.server.broadcast("sentinel")
    assert peer.line() == b"*** sentinel"


class Doorman:
    """Lets nobody be called eve, and nobody in at all if it is closed."""

    is_closed = False

    def on_join(self, member: Member) -> None:
        if self.is_closed:
            raise Refused("come back tomorrow")

    def on_rename(self, member: Member, old_name: str) -> None:
        if member.name == "eve":
            raise Refused("not that name")


@pytest.mark.parametrize("options", [(), ONCE, ("--json",), ("--reconnect",)])
def test_a_name_and_a_member_that_are_refused(run: Run, serve: Serve, options: tuple[str, ...]) -> None:
    """By the room's program: one line with its reason; nothing was said."""
    doorman = Doorman()
    started = serve(handler=doorman)
    status, out, err = client_with(run, started.port, "Hi!\n", "--name", "eve", *options)
    assert (status, out, err) == (1, "", "chat-client: not that name (choose another with --name)\n")
    doorman.is_closed = True
    status, out, err = client_with(run, started.port, "Hi!\n", "--name", "ann", *options)
    assert (status, out, err) == (3, "", "chat-client: disconnected: refused: come back tomorrow\n")
    assert started.server.stats.messages == 0


@pytest.mark.parametrize("name", ["", "4711", "a b", "a:b", "x" * 33, "p\u0430ypal", "\ufb01n"])
def test_a_name_that_breaks_the_rule(serve: Serve, name: str) -> None:
    """Exit status 2, with the rule, before anything is connected."""
    started = serve()
    status, out, err = invoke("chat-client", "--port", str(started.port), "--name", name)
    assert (status, out) == (2, "")
    assert "a name begins with a letter" in " ".join(err.split())
    assert "--name" in err
    assert started.events.happened.empty()


@pytest.mark.parametrize("options", [("--name", "ada"), ONCE, ("--json",), ("--json", "--name", "ada")])
def test_a_full_room(run: Run, serve: Serve, options: tuple[str, ...]) -> None:
    """A client that asked the server for something says so on stderr, exit status 3."""
    started = serve(limits=Limits(max_clients=1))
    started.peer()
    started.events.wait_for("join")
    assert client_with(run, started.port, "Hi!\n", *options) == (
        3,
        "",
        "chat-client: disconnected: the room is full\n",
    )


def test_json_lines(run: Run, serve: Serve) -> None:
    """Each line of stdout is one event as an ASCII object, the welcome first; no greeting, no goodbye."""
    started = serve()
    client = run("chat-client", "--port", str(started.port), "--json", "--name", "ada")
    lines = [client.line()]
    peer = started.peer()
    said = "caf\u00e9 \u202e \U0001f600"
    peer.send(f"/nick b\n/sync\n/nick bob\n{said}\n/me waves\n/msg ada psst\n/nonsense\nexit\n".encode())
    peer.rest()
    client.type("/who")
    client.type("/nonsense")
    client.type("exit")
    status, rest, err = client.ends()
    assert (status, err) == (0, "")
    lines += rest.splitlines()
    events = [json.loads(line) for line in lines]
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert events[0] == {"type": "welcome", "name": "ada", "newest": 0, "epoch": events[0]["epoch"]}
    kinds = ["welcome", "joined", "renamed", "message", "action", "private", "left", "members", "error"]
    assert [event["type"] for event in events] == kinds
    assert (events[3]["id"], events[3]["from"], events[3]["text"]) == (1, "bob", said)
    assert events[8]["code"] == "unknown_command"


def test_json_that_is_asked_for_by_typing(run: Run, serve: Serve) -> None:
    """A person that types /json in a plain chat-client goes on seeing the chat as text."""
    started = serve()
    client = run("chat-client", "--port", str(started.port))
    assert client.line() == CONNECTED
    client.type("/json")
    assert client.line().startswith("*** you are ")
    peer = started.peer()
    peer.send(b"/nick bob\nHi!\n/me waves\n/nick bo\nexit\n")
    told = ["*** bob joined", "bob: Hi!", "* bob waves", "*** bob is now bo", "*** bo left"]
    assert [client.line() for _ in told] == told
    client.type("exit")
    assert client.ends() == (0, f"{DISCONNECTED}\n", "")


COMMANDS: list[list[str]] = [[str(BIN / "chat-client")], [sys.executable, "-m", "chatkit", "client"]]


def once(command: list[str], port: int, text: bytes, *options: str) -> tuple[int, bytes, str]:
    command = [*command, "--port", str(port), "--once", *options]
    done = subprocess.run(command, input=text, capture_output=True, timeout=DEADLINE)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("command", COMMANDS, ids=["chat-client", "python -m chatkit"])
@pytest.mark.parametrize("end", ["\n", ""])
def test_once_sends_all_of_its_input(serve: Serve, command: list[str], end: str) -> None:
    """When it ends with status 0 the room has every line. It prints no line of the others."""
    started = serve()
    peer = started.peer()
    peer.send(b"not for a script\n")
    lines = [f"line {number}" for number in range(5000)]
    assert once(command, started.port, ("\n".join(lines) + end).encode(), "--name", "ci") == (0, b"", "")
    assert started.server.stats.messages == 5001
    assert peer.lines(5000) == [f"ci: {line}".encode() for line in lines]


@pytest.mark.parametrize("text", [b"", b"exit\n", b"/who\n/help\n/nick x\n"])
def test_once_without_a_message(serve: Serve, text: bytes) -> None:
    """No input, and commands whose answers nobody wants to see: status 0, nothing printed, nothing said."""
    started = serve()
    assert once(COMMANDS[0], started.port, text) == (0, b"", "")
    assert started.server.stats.messages == 0


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        (b"/nonsense", (), "chat-client: unknown command /nonsense (try /help)\n"),
        (b"/msg nobody x", (), "chat-client: nobody here has that name (try /who)\n"),
        (b"/nick 1", (), None),
        (
            b"123456789",
            ("--max-line-bytes", "8"),
            "chat-client: line 2 of the input was not sent: longer than 8 bytes\n",
        ),
        (b"x" * 33, (), "chat-client: not sent: longer than 32 bytes\n"),
    ],
)
def test_once_with_a_line_that_the_room_did_not_take(
    serve: Serve, line: bytes, options: tuple[str, ...], words: str | None
) -> None:
    """One line on stderr and exit status 1; the other lines are said."""
    started = serve(limits=Limits(max_line_bytes=32))
    peer = started.peer()
    status, out, err = once(COMMANDS[0], started.port, b"one\n" + line + b"\ntwo\n", *options)
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith("chat-client: a name begins with") if words is None else err == words
    assert [received.partition(b": ")[2] for received in peer.lines(2)] == [b"one", b"two"]


@pytest.mark.parametrize("line", ["/json", "/json 0", "/json x"])
def test_once_is_not_fooled_by_json_in_its_input(run: Run, serve: Serve, line: str) -> None:
    """Its input is said and its refusals told; the room is known to have heard all of it."""
    started = serve()
    peer = started.peer()
    status, out, err = client_with(run, started.port, f"before\n{line}\nafter\n", "--once")
    assert (status, out) == (1, "")
    assert err in ("chat-client: you already receive JSON\n", "chat-client: usage: /json [AFTER [EPOCH]] [echo]\n")
    assert [peer.line().partition(b": ")[2] for _ in range(2)] == [b"before", b"after"]


@pytest.mark.parametrize("how", ["end", "reset", "kick"])
def test_once_when_the_server_goes_away(run: Run, serve: Serve, how: str) -> None:
    """Exit status 3 and one line, even while its input is still open."""
    started = serve()
    client = run("chat-client", "--port", str(started.port), "--once", "--name", "ci")
    peer = started.peer()
    client.type("one")
    assert peer.line() == b"ci: one"
    if how == "kick":
        started.server.kick("ci", "not today")
    else:
        peer.close()
        started.server.shutdown(grace=0 if how == "reset" else 1)
    assert client.process.wait(DEADLINE) == 3
    status, out, err = client.ends()
    assert (status, out) == (3, "")
    assert err.splitlines()[-1].startswith("chat-client: disconnected: ")
    assert err.splitlines()[:-1] == (["chat-client: not today"] if how == "kick" else [])


@pytest.mark.parametrize("options", [ONCE, ("--name", "ada"), ("--json",)])
def test_a_server_that_ends_before_it_answers(run: Run, options: tuple[str, ...]) -> None:
    """A client that asks the server for something ends with one line and exit status 3, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = run("chat-client", "--port", str(listener.getsockname()[1]), *options)
        sock, _ = listener.accept()
        sock.close()
        assert client.process.wait(DEADLINE) == 3
        status, out, err = client.ends()
        assert (status, out, err.count("\n")) == (3, "", 1)
        assert err.startswith("chat-client: disconnected: ")


@pytest.mark.parametrize("option", [*ONCE, "--json"])
def test_a_server_that_is_not_there(option: str) -> None:
    """As without options: exit status 1 and the hint."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = subprocess.run(
        [*COMMANDS[0], "--port", str(port), option], stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE
    )
    words = f"cannot connect to 127.0.0.1:{port}: Connection refused (is chat-server running there?)"
    assert (done.returncode, done.stdout, done.stderr.decode()) == (1, b"", f"chat-client: {words}\n")


@pytest.mark.parametrize("command", [("chat-client",), ("python -m chatkit", "client")])
def test_the_help_of_the_client(command: tuple[str, ...]) -> None:
    """It names every option."""
    status, out, err = invoke(*command, "--help")
    assert (status, err) == (0, "")
    for name in ("--host", "--port", "--name", "--json", "--once", "--max-line-bytes", "--version", "--help"):
        assert f"  {name}" in out or f", {name}" in out


@pytest.mark.parametrize("command", [("chat-server",), ("python -m chatkit", "server")])
def test_the_help_of_the_server(command: tuple[str, ...]) -> None:
    """It names every option, one for each limit among them."""
    status, out, err = invoke(*command, "--help")
    assert (status, err) == (0, "")
    limits = [f"--{name.replace('_', '-')}" for name in Limits.__match_args__]
    for name in ("--host", "--port", "--threads", "--announce", "--version", "--help", *limits):
        assert f"  {name}" in out or f", {name}" in out


@pytest.mark.parametrize("variable", ["CHATKIT_NAME", "CHATKIT_JSON", "CHATKIT_ONCE"])
def test_the_client_by_its_environment(serve: Serve, variable: str) -> None:
    """Each new option is also CHATKIT_<OPTION>."""
    started = serve()
    env: dict[str, Any] = {**os.environ, variable: "ada" if variable == "CHATKIT_NAME" else "1"}
    command = [*COMMANDS[0], "--port", str(started.port)]
    done = subprocess.run(command, input=b"Hi!\n", env=env, capture_output=True, timeout=DEADLINE)
    assert (done.returncode, done.stderr) == (0, b"")
    if variable == "CHATKIT_NAME":
        assert started.events.wait_for("message") == "ada: Hi!"
    elif variable == "CHATKIT_JSON":
        assert json.loads(done.stdout)["type"] == "welcome"
    else:
        assert done.stdout == b""
    assert started.server.stats.messages == 1
