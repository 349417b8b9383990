"""A conversation on a terminal with the editor: scrollback, colors, times, bell, local commands, password."""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers.commands import CONNECTED, DISCONNECTED
from tests.helpers.login import Guarded
from tests.helpers.marks import over_tls
from tests.helpers.papers import Papers
from tests.helpers.servers import Serve
from tests.helpers.terminals import WITHOUT_EXTRA, Start, Terminal

pytestmark = pytest.mark.slow

COLORS = {"NO_COLOR": ""}


def test_the_session_of_the_contract(serve: Serve, editor: Start) -> None:
    """Byte for byte what a terminal without an editor shows, whenever nothing is being typed."""
    started = serve()
    shown = editor(started.port)
    shown.until(lambda: (shown.lines, shown.cursor) == ([CONNECTED], (0, 1)))
    ann, bob = started.peers(2)
    shown.type("Hi!\r")
    assert ann.line().endswith(b": Hi!")
    talk = [CONNECTED, "Hi!"]
    for peer, text in ((ann, "Hello!"), (bob, "How are you guys doing?"), (ann, "Good.")):
        peer.send(f"{text}\n".encode())
        talk += [f"{peer.name}: {text}"]
        shown.until_line(talk[-1])
    shown.until(lambda: (shown.lines, shown.cursor) == (talk, (0, len(talk))))
    shown.type("exit\r")
    assert shown.ends()[0] == 0
    assert shown.lines == [*talk, "exit", DISCONNECTED]


@pytest.mark.parametrize("how", ["--plain", "TERM=dumb", "no extra"])
def test_lines_as_before(serve: Serve, tmp_path: Path, how: str) -> None:
    """Without the editor nothing but the chat is written, and a line that the terminal cuts is refused, not cut."""
    started = serve()
    options, env = (["--plain"], {}) if how == "--plain" else ([], {"TERM": "dumb"} if how == "TERM=dumb" else {})
    command = [sys.executable, "-c", WITHOUT_EXTRA] if how == "no extra" else ()
    with ExitStack() as stack:
        shown = Terminal(stack, tmp_path, started.port, *options, command=command, **env)
        assert shown.line() == CONNECTED
        peer = started.peer()
        shown.type("x" * 3000)
        shown.until(lambda: "x" * 3000 in shown.shown)
        shown.type("x" * 3000 + "\nHi!\nexit\n")
        assert peer.line().endswith(b": Hi!")
        assert shown.ends()[0] == 0
    assert "\nchat-client: line 1 of the input was not sent: the terminal cut it at 4095 bytes\n" in shown.shown
    assert "Hi!\nexit\n" in shown.shown
    assert shown.shown.endswith(f"\n{DISCONNECTED}\n")
    assert "\x1b" not in shown.shown


@pytest.mark.parametrize("options", [[], ["--name", "ada"], ["--reconnect"]])
def test_who_you_are(serve: Serve, editor: Start, options: list[str]) -> None:
    """One dim line says it where JSON is used or a name was taken; with plain defaults there is none."""
    started = serve()
    shown = editor(started.port, *options, **COLORS)
    name = "ada" if "ada" in options else started.events.wait_for("join")
    peer = started.peer()
    peer.send(b"hello\n")
    shown.until(lambda: f"{peer.name}: hello" in shown.lines)
    introduction = f"*** you are {name}; /help lists the commands"
    assert shown.lines == [CONNECTED, *([introduction] if options else []), f"{peer.name}: hello"]
    assert (f"\x1b[2m{introduction}\x1b[0m" in shown.shown) == bool(options)


@pytest.mark.parametrize("colors", ["auto", "never", "always", "NO_COLOR", "NO_COLOR always"])
def test_colors(serve: Serve, editor: Start, colors: str) -> None:
    """A color for each name; mentions bold, notices dim; nothing of it with `--color never` or NO_COLOR."""
    started = serve()
    options = [] if colors.startswith("NO") else [f"--color={colors}"]
    options += ["--color=always"] if "always" in colors else []
    shown = editor(started.port, "--name", "ada", *options, NO_COLOR="1" if "NO" in colors else "")
    peer = started.peer()
    peer.send(b"/nick Clara\nhi ada, hi Ada\n/me waves\n/msg ada psst\n")
    shown.until_line("Clara (private): psst")
    is_colored = colors in ("auto", "always", "NO_COLOR always")
    name = shown.styles("* Clara waves")["Clara"]
    assert (name[0] != "default", name[1]) == (is_colored, False)
    assert shown.styles("Clara (private): psst") == {
        "Clara": name,
        "(private):": ("default", False),
        "psst": ("default", False),
    }
    words = shown.styles("Clara: hi ada, hi Ada")
    assert (words["Clara:"], words["hi"], words["ada,"], words["Ada"]) == (
        *(name, ("default", False)),
        *(("default", is_colored), ("default", is_colored)),
    )
    assert ("\x1b[2m*** you are ada" in shown.shown) == is_colored
    shown.type("typed")
    shown.until_line("ada> typed")
    assert shown.styles("ada> typed")["ada>"][1] == is_colored


@pytest.mark.parametrize("option", ["", "--no-bell"])
def test_the_bell(serve: Serve, editor: Start, option: str) -> None:
    """A mention and a private line ring it; other lines, and those of ignored members, don't."""
    started = serve()
    peer, rude = started.peers(2)
    shown = editor(started.port, "--name", "ada", *([option] if option else []))
    shown.type(f"/ignore {rude.name}\r")
    shown.until(lambda: "you no longer see" in shown.lines[-1])
    rude.send(b"ada!\n")
    assert peer.line()
    peer.send(b"adamant\n@ADA: hello\n/msg ada psst\nend\n")
    shown.until_line(f"{peer.name}: end")
    rung = re.findall(r"(\d+)( \(private\))?: (.*)\a", shown.shown)
    assert rung == ([] if option else [(peer.name, "", "@ADA: hello"), (peer.name, " (private)", "psst")])
    assert f"{rude.name}: ada!" not in shown.shown


def test_times(serve: Serve, editor: Start) -> None:
    """In front of each line of the chat, also of one that was typed; not of the greeting and the farewell."""
    started = serve()
    shown = editor(started.port, "--reconnect", "--timestamps", "%Y|", TZ="UTC")
    peer = started.peer()
    peer.send(b"hi\n")
    shown.until(lambda: re.fullmatch(rf"20\d\d\| {peer.name}: hi", shown.lines[-1]) is not None)
    shown.type("typed\rexit\r")
    assert shown.ends()[0] == 0
    assert [re.sub(r"^20\d\d", "year", line) for line in shown.lines[-3:]] == [
        "year| typed",
        "year| exit",
        DISCONNECTED,
    ]
    assert shown.lines[0] == CONNECTED


def test_local_commands(serve: Serve, editor: Start) -> None:
    """They are listed below the room's; they hide a member, answer privately, clear the screen and leave."""
    started = serve()
    shown = editor(started.port)
    rude, friend = started.peers(2)
    shown.type("/help\r")
    shown.until(lambda: shown.lines[-1].startswith("*** /quit"))
    words = [line.split()[1] for line in shown.lines if line.startswith("*** ")]
    assert words[words.index("exit") :] == ["exit", "/reply", "/ignore", "/unignore", "/clear", "/quit"]
    columns = {line.index(" ", len("*** /ignore NAME")) for line in shown.lines if line.startswith("*** /ignore")}
    assert columns
    shown.type("/reply too early\r")
    shown.until_line("*** nobody has sent you a private line yet")
    shown.type(f"/ignore {rude.name}\r")
    shown.until_line(f"*** you no longer see lines of {rude.name} (/unignore {rude.name})")
    rude.send(b"unseen\n")
    assert friend.line() == f"{rude.name}: unseen".encode()
    own = started.server.members[0].name
    friend.send(f"/msg {own} psst\n".encode())
    shown.until_line(f"{friend.name} (private): psst")
    assert f"{rude.name}: unseen" not in shown.lines
    shown.type(f"/reply yes?\r/msg {friend.name} again\r")
    assert friend.lines(2) == [f"{own} (private): yes?".encode(), f"{own} (private): again".encode()]
    shown.until_line(f"-> {friend.name}: again")
    assert shown.lines[-4:-1] == ["/reply yes?", f"-> {friend.name}: yes?", f"/msg {friend.name} again"]
    shown.type(f"/unignore {rude.name}\r")
    shown.until_line(f"*** you see lines of {rude.name} again")
    shown.type("/clear\r")
    shown.until(lambda: shown.lines == [""])
    rude.send(b"seen\n")
    shown.until(lambda: shown.lines == [f"{rude.name}: seen"])
    shown.type("/quit\r")
    assert shown.ends()[0] == 0
    assert shown.lines == [f"{rude.name}: seen", "/quit", DISCONNECTED]
    assert friend.line()


@over_tls
@pytest.mark.parametrize("options", [[], ["--name", "ada"], ["--reconnect"]], ids=["text", "name", "reconnect"])
def test_the_password_is_asked(
    guarded: Guarded, tmp_path: Path, papers: Papers, certificate: Path, tls: bool, options: list[str]
) -> None:
    """However the room is joined, a terminal asks for the password, hidden, and once more after a wrong one."""
    started = guarded()
    trust = ["--tls-fingerprint", papers.fingerprint(certificate)] if tls else []
    with ExitStack() as stack:
        shown = Terminal(stack, tmp_path, started.port, *options, *trust, NO_COLOR="1")
        shown.until_line("Password:")
        shown.type("wrong\r")
        shown.until(lambda: "wrong password" in shown.shown and shown.lines[-1] == "Password:")
        shown.type("sesame\r")
        shown.ready()
        shown.type("hello\r")
        assert started.events.wait_for("message").endswith(": hello")
        shown.type("exit\r")
        assert shown.ends()[0] == 0
    assert "wrong password" in shown.shown
    assert "sesame" not in shown.shown
    assert all("sesame" not in file.read_text() for file in tmp_path.rglob("*history"))
