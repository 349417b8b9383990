"""The line editor of chat-client: keys on a terminal, and the lines that reach the room."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.helpers.hostile import HOSTILE, forbidden
from tests.helpers.servers import Serve, Started
from tests.helpers.terminals import Start

pytestmark = pytest.mark.slow

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = "\x1b[D", "\x1b[C", "\x1b[A", "\x1b[B", "\x1b[H", "\x1b[F", "\x1b[3~"


def own_prompt(started: Started) -> str:
    """Return the prompt of the member that has joined last."""
    return f"{started.events.wait_for('join')}> "


def test_a_half_typed_line_is_never_torn(serve: Serve, editor: Start) -> None:
    """Lines appear above it, hostile or not; it stays whole, with the cursor where it was."""
    started = serve()
    shown = editor(started.port)
    prompt = f"{own_prompt(started)}hello"
    peer = started.peer()
    shown.type("hello" + LEFT * 2)
    shown.until(lambda: shown.cursor == (len(prompt) - 2, 1))
    for number, text in enumerate(HOSTILE.values()):
        peer.send(f"{text}\n{number}\n".encode())
        shown.until_lines(f"{peer.name}: {number}", prompt)
        assert shown.cursor == (len(prompt) - 2, len(shown.lines) - 1)
    shown.type("p!" + END + "?\r")
    assert peer.line().endswith(b": help!lo?")
    shown.until_line("help!lo?")
    assert (shown.answers, shown.screen.title) == ([], "")
    assert set(forbidden(shown.shown)) <= {"\x1b", "\b", "\r"}  # the editor's own


KEYS = {
    "bc" + HOME + "a": "abc",
    "ab" + HOME + RIGHT + "x" + END + "y": "axby",
    "bc\x01a\x05d": "abcd",
    "one two\x17three": "one three",
    "gone\x15new": "new",
    "keep cut" + LEFT * 4 + "\x0b": "keep",
    "ab\x7fc": "ac",
    "日本" + LEFT + "語": "日語本",
    "a😀b" + LEFT * 2 + DELETE: "ab",
    "\u05e9\u05dc\u05d5\u05dd" + LEFT + "x": "\u05e9\u05dc\u05d5x\u05dd",
    "e\u0301" + HOME + "x": "xe\u0301",
}


def test_keys(serve: Serve, editor: Start) -> None:
    """The line that the room receives is the line as it was edited, and so is the one that stays on the screen."""
    started = serve()
    shown = editor(started.port)
    peer = started.peer()
    for keys, line in KEYS.items():
        shown.type(keys + "\r")
        assert peer.line().decode().partition(": ")[2] == line
    shown.until_line("x\u00e9")
    assert shown.lines[1:-1] == list(KEYS.values())[:-1]
    shown.type("typed\x0c")  # Ctrl-L
    shown.until(lambda: len(shown.lines) == 1 and shown.lines[0].endswith("> typed"))
    assert shown.answers == []


def test_wide_characters_take_two_cells(serve: Serve, editor: Start) -> None:
    """The cursor is behind them."""
    started = serve()
    shown = editor(started.port)
    width = len(own_prompt(started))
    shown.type("日本語😀")
    shown.until(lambda: shown.cursor == (width + 8, 1))
    shown.type(LEFT * 2)
    shown.until(lambda: shown.cursor == (width + 4, 1))


def test_letters_from_right_to_left(serve: Serve, editor: Start) -> None:
    """They are edited, sent and shown in the order in which they are typed; the terminal draws them."""
    started = serve()
    shown = editor(started.port)
    width, peer = len(own_prompt(started)), started.peer()
    shown.type("שלום")
    shown.until(lambda: shown.cursor == (width + 4, 1))
    shown.type(LEFT + "\x7f" + "\r")  # Backspace
    assert peer.line().decode().endswith(": שלם")
    peer.send("مرحبا\n".encode())
    shown.until(lambda: shown.lines[1:3] == ["שלם", f"{peer.name}: مرحبا"])


def test_a_line_longer_than_the_kernel_keeps(serve: Serve, editor: Start) -> None:
    """It is sent whole; one that is too long for the room stays to be mended."""
    started = serve()
    shown = editor(started.port)
    peer = started.peer()
    shown.paste("x" * 5000)
    shown.type("\r")
    assert len(peer.line().partition(b": ")[2]) == 5000
    shown.paste("y" * 8193)
    shown.type("\r")
    shown.until(lambda: "*** not sent: longer than 8192 bytes" in shown.lines)
    shown.type("\x7f\r")
    assert len(peer.line().partition(b": ")[2]) == 8192


def test_history(serve: Serve, editor: Start, tmp_path: Path) -> None:
    """Up, Down and Ctrl-R bring lines back, also those of an earlier session; a password is never among them."""
    started = serve()
    peer = started.peer()
    shown = editor(started.port)
    for line in ("first", "second", "/password sesame", "/op sesame", "third"):
        shown.type(f"{line}\r")
    assert [peer.line().partition(b": ")[2] for _ in range(3)] == [b"first", b"second", b"third"]
    shown.until_line("*** unknown command /op (try /help)")
    shown.type(UP * 3 + DOWN + "!\r")
    assert peer.line().endswith(b": second!")
    shown.type("exit\r")
    assert shown.ends()[0] == 0
    again = editor(started.port)
    again.type("\x12fir")
    again.until_line("(reverse-i-search)`fir': first")
    again.type("\r")
    assert peer.line().endswith(b": first")
    (file,) = (tmp_path / "chatkit").iterdir()
    assert file.read_text().splitlines() == ["first", "second", "third", "second!", "exit", "first"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "sesame" not in shown.shown + again.shown


def test_tab(serve: Serve, editor: Start) -> None:
    """It completes commands, and names: of members that have spoken, and of those that the room tells when asked."""
    started = serve()
    speaker, silent = started.peers(2)
    for peer, name in ((speaker, b"Clara"), (silent, b"Bertrand")):
        peer.send(b"/nick " + name + b"\n")
        peer.line()
    shown = editor(started.port, "--name", "ada")
    speaker.send(b"hello\n")
    shown.until_line("Clara: hello")
    shown.type("/ms\tcl\tpsst\r")
    assert speaker.line() == b"ada (private): psst"
    shown.type("/msg Ber\t")
    shown.until_line("ada> /msg Bertrand")
    shown.type("psst\r")
    assert silent.line() == b"Clara: hello"
    assert silent.line() == b"ada (private): psst"
    shown.type("/unig\t\t\t")
    shown.until_line("ada> /unignore")
    assert not [line for line in shown.lines if " here: " in line]


def test_tab_asks_no_room_that_has_shown_no_commands(serve: Serve, editor: Start) -> None:
    """A server of another kind would tell everyone `/who`."""
    started = serve()
    shown = editor(started.port)
    prompt = own_prompt(started)
    shown.type("a\tb")
    shown.until_line(f"{prompt}ab")
    shown.type("\r")
    assert started.events.wait_for("message").endswith(": ab")


def test_a_paste_of_several_lines(serve: Serve, editor: Start) -> None:
    """Up to five are sent in order; above, one question comes first. Blank lines stay, and so does a single line."""
    started = serve()
    shown = editor(started.port)
    prompt = own_prompt(started)
    peer = started.peer()
    shown.type("before ")
    shown.paste("one\r\n\r\nthree\r\n")
    assert [peer.line().partition(b": ")[2] for _ in range(3)] == [b"before one", b" ", b"three"]
    many = [f"line {number}" for number in range(50)]
    for answer in ("n", "\r", "\x03", "y\r"):
        shown.type("half")
        shown.paste("\n".join(many))
        shown.until_line("Send 50 lines? [y/N]")
        shown.type(answer)
        if "y" not in answer:
            shown.until_line(f"{prompt}half")
            shown.type("\x15")
    assert [peer.line().decode().partition(": ")[2] for _ in many] == ["halfline 0", *many[1:]]
    shown.paste("single\n")
    shown.until_line(f"{prompt}single")
    shown.type("\r")
    assert peer.line().endswith(b": single")


def test_resize(serve: Serve, editor: Start) -> None:
    """The line that is being typed is drawn for the new width."""
    started = serve()
    shown = editor(started.port)
    prompt = own_prompt(started)
    text = "abcdefghij" * 5
    shown.type(text)
    shown.until_line(prompt + text)
    shown.resize(30)
    shown.until(lambda: "".join(shown.lines[1:]) == prompt + text)
    shown.resize(100)
    shown.until(lambda: shown.lines[1:] == [prompt + text])
    shown.type("!\r")
    assert started.events.wait_for("message").endswith(f": {text}!")
