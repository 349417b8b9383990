"""chat-history as people and scripts run it: its output, and the end of each fault."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chatkit import Action, Message
from chatkit.protocol.formats import encode_json, parse_json
from chatkit.protocol.sanitize import visible
from tests.helpers.commands import BIN, Run, Running, invoke, read_line, start_server, stop
from tests.helpers.history_files import connect, insert, write
from tests.helpers.hostile import HOSTILE, forbidden
from tests.helpers.peers import DEADLINE, Peer

pytestmark = pytest.mark.slow

MORNING = datetime(2026, 11, 22, 8, 40, 1, tzinfo=UTC).timestamp()
SAID = [
    Message("ada", "Hi!", 1, MORNING),
    Action("ada", "waves", 2, MORNING + 1.5),
    Message("51044", "Grüß Gott 👋", 3, MORNING + 3600),
    Message("Zoë", "Hello!", 4, MORNING + 86400),
]
LINES = [
    "2026-11-22 08:40:01 ada: Hi!",
    "2026-11-22 08:40:02 * ada waves",
    "2026-11-22 09:40:01 51044: Grüß Gott 👋",
    "2026-11-23 08:40:01 Zoë: Hello!",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("PYTHONUTF8", "1")
    monkeypatch.delenv("PAGER", raising=False)


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A history that nobody serves."""
    path = tmp_path / "chat.db"
    write(path, SAID).close()
    return path


def history(*arguments: object, **options: Any) -> tuple[int, list[str], str]:
    """(exit status, lines printed, stderr)"""
    command = [str(BIN / "chat-history"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, encoding="utf-8", **options)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_people_read_lines_with_times(chat: Path) -> None:
    """Oldest first, one line each, actions as in the room."""
    assert history(chat) == (0, LINES, "")


def test_times_are_local(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are those of the reader's time zone; so is the time of --since, unless it has a zone of its own."""
    monkeypatch.setenv("TZ", "IST-5:30")
    assert history(chat, "--last", 1)[1] == ["2026-11-23 14:10:01 Zoë: Hello!"]
    assert len(history(chat, "--since", "2026-11-22 14:10:02")[1]) == 3
    assert len(history(chat, "--since", "2026-11-22T08:40:02Z")[1]) == 3


def test_scripts_read_json_lines(chat: Path) -> None:
    """The events of the wire, in ASCII; where they are ASCII anyhow, byte for byte."""
    status, lines, err = history(chat, "--json")
    assert (status, err) == (0, "")
    assert [parse_json(line) for line in lines] == SAID
    assert all(line.isascii() for line in lines)
    assert lines[0].encode() + b"\n" == encode_json(SAID[0])
    assert json.loads(lines[2]) == json.loads(encode_json(SAID[2]))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("--last 1", [3]),
        ("--last 99", [0, 1, 2, 3]),
        ("--from ADA", [0, 1]),
        ("--from zoë", [3]),
        ("--grep h", [0, 3]),
        ("--grep GRÜß", [2]),
        ("--grep 👋", [2]),
        ("--from ada --grep WAVE", [1]),
        ("--from ada --last 1 --since 2026-11-22", [1]),
        ("--since 2026-11-23", [3]),
        ("--since 2026-11-22T09:00", [2, 3]),
        ("--since 2026-11-22T11:00:00+02:00", [2, 3]),
        ("--since 20261123T084001Z", [3]),
        ("--since 999999999m", [0, 1, 2, 3]),
        ("--until 2026-11-22T08:40:02", [0]),
        ("--until yesterday", [0, 1, 2, 3]),
        ("--until 2026-11-23 --last 1", [2]),
        ("--until 2026-11-23 --grep h", [0]),
        ("--since 2026-11-22T09:00 --until 2026-11-23", [2]),
    ],
)
def test_options_narrow_the_search(chat: Path, options: str, found: list[int]) -> None:
    """Each alone, and together: messages that all of them allow, --last at the end."""
    assert history(chat, *options.split()) == (0, [LINES[number] for number in found], "")


@pytest.mark.parametrize(("ago", "found"), [("40m", 1), ("2h", 2), ("2d", 3)])
def test_since_a_while_ago(tmp_path: Path, ago: str, found: int) -> None:
    """Minutes, hours, days, back from now."""
    said = [
        Message("ada", str(minutes), 5000 - minutes, time.time() - 60 * minutes) for minutes in (4000, 2800, 100, 30)
    ]
    write(tmp_path / "chat.db", said).close()
    assert len(history(tmp_path / "chat.db", "--since", ago)[1]) == found


def test_options_from_the_environment(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its variable."""
    values = {"LAST": "1", "SINCE": "2026-11-22", "UNTIL": "2026-11-23", "FROM": "ada", "GREP": "WAVES", "JSON": "1"}
    for name, value in values.items():
        monkeypatch.setenv(f"CHATKIT_{name}", value)
    assert [parse_json(line) for line in history(chat)[1]] == [SAID[1]]
    monkeypatch.setenv("CHATKIT_HISTORY", str(chat))
    assert [parse_json(line) for line in history()[1]] == [SAID[1]]
    monkeypatch.setenv("CHATKIT_LAST", "0")
    assert history(chat)[0] == 2


def test_a_module_too(chat: Path) -> None:
    """`python -m chatkit history` is the same command."""
    done = subprocess.run(
        [sys.executable, "-m", "chatkit", "history", str(chat)], capture_output=True, timeout=DEADLINE
    )
    assert done.stdout.decode().splitlines() == LINES


def test_help_teaches(chat: Path) -> None:
    """-h shows examples, and each of them is right."""
    status, lines, _ = history("-h")
    examples = [
        re.split("  +", line.strip())[0].partition(" | ")[0] for line in lines if line.startswith("  chat-history")
    ]
    assert (status, len(examples)) == (0, 7)
    for example in examples:
        ends = ["--until", "today"] if "--follow" in example else []
        assert history(*example.split()[1:], *ends, cwd=chat.parent)[0] in (0, 1)


@pytest.mark.parametrize("said", [[], SAID], ids=["empty", "no match"])
def test_nothing_found(tmp_path: Path, said: list[Message]) -> None:
    """Exit status 1 and a line, so that a script can ask whether something was said."""
    write(tmp_path / "chat.db", said).close()
    assert history("chat.db", "--grep", "nothing", cwd=tmp_path) == (1, [], "chat-history: nothing found in chat.db\n")


@pytest.mark.parametrize("name", ["missing.db", "text.db", "damaged.db", "empty\x1b[6n.db", "missing\x1b[6n.db"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """Exit status 1, one line, nothing that a stranger's file, or its name, could do to a terminal."""
    write(tmp_path / "empty\x1b[6n.db", []).close()
    (tmp_path / "text.db").write_text("Hi!\n")
    with closing(write(tmp_path / "damaged.db", SAID)) as connection:
        connection.execute("INSERT INTO messages VALUES (9, 1.0, 'ada', ?, 'Hi!')", (HOSTILE["report"] + "\n",))
    status, _, err = history(name, cwd=tmp_path)
    assert status == 1
    assert re.fullmatch(rf"chat-history: [^\n]*{re.escape(visible(name))}[^\n]*\n", err)
    assert forbidden(err) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing argument 'FILE'"),
        (["."], "is a directory"),
        (["chat.db", "--last", "0"], "--last"),
        (["chat.db", "--since", "soon"], "'soon' is not a time; write it as 12:00, "),
        (["chat.db", "--since", "0001-01-01"], "is not a time"),
        (["chat.db", "--since", "3y"], "90m, 2h or 3d"),
        (["chat.db", "--until", "tomorrow"], "is not a time"),
        (["chat.db", "--grep", os.fsdecode(b"\xff")], "not valid UTF-8"),
    ],
)
def test_wrong_usage(chat: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str) -> None:
    """Exit status 2, and the reason."""
    monkeypatch.chdir(chat.parent)
    status, out, err = invoke("chat-history", *arguments)
    assert (status, out) == (2, "")
    assert told in err


def test_hostile_text_is_harmless(tmp_path: Path) -> None:
    """One message is one line without controls, for people and for scripts, with any text in the file."""
    texts = [*HOSTILE.values(), "two\nlines", "two\r\nlines"]
    write(tmp_path / "chat.db", [Message("ada", text, number, MORNING) for number, text in enumerate(texts, 1)]).close()
    for options in ([], ["--json"]):
        status, lines, err = history(tmp_path / "chat.db", *options)
        assert (status, len(lines), err) == (0, len(texts), "")
        assert forbidden("\n".join(lines)) == []


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str)
def test_a_locale_that_lacks_letters(chat: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """The output is UTF-8 as ever."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert history(chat) == (0, LINES, "")


def test_a_running_server_goes_on(tmp_path: Path) -> None:
    """Its history is read while it has the file open, with what is only in its log."""
    with closing(write(tmp_path / "chat.db", SAID)) as server:
        assert history(tmp_path / "chat.db") == (0, LINES, "")
        assert server.execute("DELETE FROM messages WHERE id > 1").rowcount == 3
        assert history(tmp_path / "chat.db") == (0, LINES[:1], "")


@pytest.fixture
def long_chat(tmp_path: Path) -> Path:
    """More than a pipe takes."""
    path = tmp_path / "long.db"
    write(path, [Message("ada", "x" * 100, number, MORNING) for number in range(1, 5001)]).close()
    return path


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_a_reader_that_has_seen_enough(run: Run, long_chat: Path, options: list[str]) -> None:
    """As `| head` does: it ends without a word."""
    command = run("chat-history", str(long_chat), *options)
    command.line()
    assert command.process.stdout
    command.process.stdout.close()
    assert command.process.wait(DEADLINE) == 0
    assert command.process.stderr
    assert command.process.stderr.read() == b""


def test_a_full_disk(chat: Path) -> None:
    """One line, exit status 1."""
    with open("/dev/full", "w") as full:
        done = subprocess.run([BIN / "chat-history", chat], stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE)
    told = b"chat-history: cannot show the history: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize(("closed", "status"), [("<&-", 0), (">&-", 1), ("2>&-", 0), ("<&- >&- 2>&-", 1)])
def test_streams_that_are_closed(chat: Path, closed: str, status: int) -> None:
    """It needs none but standard output; without that: one line, exit status 1."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", str(BIN / "chat-history"), str(chat)]
    done = subprocess.run(command, capture_output=True, timeout=DEADLINE)
    told = b"chat-history: cannot show the history: standard output is closed\n"
    assert (done.returncode, done.stderr) == (status, told if closed == ">&-" else b"")


def test_ctrl_c(run: Run, long_chat: Path) -> None:
    """Exit status 130, without a word, also while nobody reads what it prints."""
    fcntl = pytest.importorskip("fcntl")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores it
    command = run("chat-history", str(long_chat), stdout=writing, preexec_fn=heed)
    os.close(writing)
    read_line(reading, b"", b"\n")  # the pipe is full again at once
    command.process.send_signal(signal.SIGINT)
    _, err = command.process.communicate(timeout=DEADLINE)
    os.close(reading)
    assert (command.process.returncode, err) == (130, b"")


class OnTerminal:
    """chat-history on a pseudo-terminal."""

    def __init__(self, *arguments: object, rows: int, columns: int) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        command = [str(BIN / "chat-history"), *map(str, arguments)]
        unset = ("LINES", "COLUMNS")  # readline sets them, in pytest's process, too
        env = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True
        )
        os.close(slave)

    def ends(self) -> tuple[int, str]:
        """(exit status, all that was shown)"""
        shown, waiting = "", b""
        try:
            while True:
                line, waiting = read_line(self.master, waiting, b"\r\n")
                shown += line.decode() + "\n"
        except OSError:  # what a terminal's other end reads when the last one has closed it
            return self.process.wait(DEADLINE), shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self.master)


Start = Callable[..., OnTerminal]


@pytest.fixture
def on_terminal() -> Iterator[Start]:
    """on_terminal(...) starts it with these arguments, on a screen that fits three short lines and a prompt."""
    with ExitStack() as stack:

        def start(*arguments: object, rows: int = 4, columns: int = 80) -> OnTerminal:
            started = OnTerminal(*arguments, rows=rows, columns=columns)
            stack.callback(started.close)
            return started

        yield start


def pager(folder: Path, code: str) -> str:
    """A $PAGER that runs `code`."""
    path = folder / "pager"
    path.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_terminal_gets_a_pager(chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """$PAGER gets every line, and not one more; JSON goes by it."""
    code = "text = sys.stdin.buffer.read(); print(len(text.splitlines()), text.endswith(b'!\\n'))"
    monkeypatch.setenv("PAGER", pager(chat.parent, code))
    assert on_terminal(chat).ends() == (0, "4 True\n")
    assert on_terminal(chat, "--json", "--last", 1).ends() == (0, encode_json(SAID[3]).decode().replace("ë", "\\u00eb"))


@pytest.mark.parametrize(
    ("rows", "columns", "paged"), [(5, 80, False), (4, 80, True), (5, 25, True), (6, 25, True), (8, 25, False)]
)
def test_no_pager_for_what_fits(
    tmp_path: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch, rows: int, columns: int, paged: bool
) -> None:
    """Lines that fit the screen beside a prompt are printed; long lines, and wide letters, take more of its rows."""
    texts = ["a", "b" * 20, "聊天室" * 3, "\u0301".join("c" * 4)]
    write(tmp_path / "chat.db", [Message("x", text, number, MORNING) for number, text in enumerate(texts, 1)]).close()
    monkeypatch.setenv("PAGER", pager(tmp_path, "sys.stdin.read(); print('paged')"))
    status, shown = on_terminal(tmp_path / "chat.db", rows=rows, columns=columns).ends()
    assert (status, shown.count("\n")) == (0, 1 if paged else len(texts))
    assert (shown == "paged\n") == paged


def test_a_locale_that_lacks_letters_and_a_pager(
    chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pager gets UTF-8, and less is told so, unless its user chose something else."""
    code = "import os; text = sys.stdin.buffer.read(); print(ascii(text.decode())[-6:], os.environ['LESSCHARSET'])"
    monkeypatch.setenv("PAGER", pager(chat.parent, code))
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    assert on_terminal(chat, "--last", 1, rows=1).ends() == (0, "lo!\\n' utf-8\n")
    monkeypatch.setenv("LESSCHARSET", "latin1")
    assert on_terminal(chat, rows=1).ends()[1].endswith(" latin1\n")


def test_a_pager_that_is_left_early(long_chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 0, not a word."""
    monkeypatch.setenv("PAGER", pager(long_chat.parent, "print(sys.stdin.readline()[:19])"))
    assert on_terminal(long_chat).ends() == (0, "2026-11-22 08:40:01\n")


def test_nothing_hostile_reaches_the_pager(tmp_path: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the terminal behind it, though `less` lets colours through."""
    said = [Message("ada", text, number, MORNING) for number, text in enumerate(HOSTILE.values(), 1)]
    write(tmp_path / "chat.db", said).close()
    monkeypatch.setenv("PAGER", "cat")
    status, shown = on_terminal(tmp_path / "chat.db").ends()
    assert (status, shown.count("\n")) == (0, len(HOSTILE))
    assert forbidden(shown) == []


def test_no_pager_for_nothing(chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is found, no pager hides the line that says so."""
    monkeypatch.setenv("PAGER", pager(chat.parent, "print('a pager')"))
    told = f"chat-history: nothing found in {chat}\n"
    assert on_terminal(chat, "--grep", "nothing").ends() == (1, told)


@pytest.mark.parametrize(
    ("command", "fault"), [("less '", "no closing quotation"), ("/missing/less -R", "No such file or directory")]
)
def test_a_pager_that_cannot_run(
    chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    """One line says why, and names the variable; exit status 1. What fits the screen needs none."""
    monkeypatch.setenv("PAGER", command)
    assert on_terminal(chat).ends() == (1, f"chat-history: cannot run the pager in $PAGER: {fault}\n")
    assert on_terminal(chat, "--last", 1).ends() == (0, LINES[-1] + "\n")


def test_follow(run: Run, chat: Path, on_terminal: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """First what is there, then each new message at once, in a pipe and on a terminal; Ctrl-C ends it."""
    monkeypatch.setenv("PAGER", "false")
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    piped = run("chat-history", str(chat), "--follow", "--last", "1", "--from", "zoë", preexec_fn=heed)
    shown = on_terminal(chat, "--follow")
    assert piped.line() == LINES[3]
    waiting = b""
    for line in LINES:
        told, waiting = read_line(shown.master, waiting, b"\r\n")
        assert told.decode() == line
    with closing(connect(chat)) as server:
        for number in (5, 6):
            insert(server, [Message("Zoë", f"message {number}", number, MORNING)])
            assert piped.line() == f"2026-11-22 08:40:01 Zoë: message {number}"
            told, waiting = read_line(shown.master, waiting, b"\r\n")
            assert told.decode() == f"2026-11-22 08:40:01 Zoë: message {number}"
    piped.process.send_signal(signal.SIGINT)
    assert piped.ends() == (130, "", "")


def test_follow_over_restarts(run: Run, tmp_path: Path) -> None:
    """The end of the server, and its next start, change nothing."""
    path = tmp_path / "chat.db"
    followed: Running | None = None
    for text in ("one", "two", "three"):
        server, port = start_server(run, "--history", str(path))
        followed = followed or run("chat-history", str(path), "--follow")
        peer = Peer(int(port))
        peer.send(f"{text}\n".encode())
        assert followed.line().endswith(f": {text}")
        peer.close()
        assert stop(server) == ""


def test_follow_before_the_first_message(run: Run, tmp_path: Path) -> None:
    """An empty room isn't the end."""
    with closing(write(tmp_path / "chat.db", [])) as server:
        command = run("chat-history", str(tmp_path / "chat.db"), "--follow", "--json")
        insert(server, SAID[:1])
        assert parse_json(command.line()) == SAID[0]


def test_follow_ends_with_its_reader(run: Run, chat: Path) -> None:
    """Also while nothing is said: `chat-history --follow | head -n 1` ends."""
    command = run("chat-history", str(chat), "--follow", "--last", "1")
    command.line()
    assert command.process.stdout
    command.process.stdout.close()
    assert command.process.wait(DEADLINE) == 0


def test_follow_until_a_time(chat: Path) -> None:
    """Once it has come, nothing more is waited for."""
    soon = datetime.fromtimestamp(time.time() + 0.5).isoformat()
    assert history(chat, "--follow", "--until", soon) == (0, LINES, "")
    assert history(chat, "--follow", "--until", soon, "--grep", "nothing")[:2] == (1, [])
