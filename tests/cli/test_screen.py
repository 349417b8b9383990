"""Events as styled text, names, local commands and the history of the input: no terminal is needed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from chatkit import Action, Event, Joined, Left, Message, Notice, Private, Renamed, Welcome
from chatkit.cli.client.input_history import MAX_LINES, InputHistory, hide_secret, secret_start
from chatkit.cli.client.local import LOCAL_COMMANDS, ROOM_COMMANDS, LocalCommands
from chatkit.cli.client.roster import Roster
from chatkit.cli.client.screen import Painter
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS
from chatkit.protocol.text import parse_foreign_text
from chatkit.room.commands import COMMANDS, HELP
from tests.helpers.hostile import HOSTILE, forbidden

EVENTS: list[Event] = [
    Message("51044", "Hi!"),
    Action("ada", "waves"),
    Private("ada", "psst"),
    Notice("closing soon"),
    Message("ada", "hi bob, Bob: bobby"),
    Message("bob", "own"),
]


def plain(text: str) -> str:
    """Return text without the escape sequences of colors."""
    for code in (0, 1, 2, *range(30, 38), *range(90, 98)):
        text = text.replace(f"\x1b[{code}m", "")
    return text


@pytest.mark.parametrize("event", [*EVENTS, *(Message("ada", text) for text in HOSTILE.values())], ids=str)
def test_a_painted_line_is_the_line(event: Event) -> None:
    """Without colors it is the line of plain text; with colors the same between escape sequences of our own."""
    roster = Roster("bob")
    line = Painter(roster).paint(event)
    assert forbidden(line) == []
    assert plain(Painter(roster, color=True).paint(event)) == line


def test_a_stranger_cannot_color() -> None:
    """The escape sequences in a line are its own, whatever its sender and text hold."""
    painted = Painter(Roster("bob"), color=True).paint(Message("a\x1b[31m", "b\x1b[0mc\x07"))
    assert forbidden(plain(painted)) == []


def test_styles() -> None:
    """A name has one color in every line; the own name and mentions as whole words are bold; notices are dim."""
    painter = Painter(Roster("bob"), color=True)
    _, acted, private, notice, mention, own = map(painter.paint, EVENTS)
    color = acted.removeprefix("* ").partition("ada")[0]
    assert private.startswith(f"{color}ada\x1b[0m (private)")
    assert mention == f"{color}ada\x1b[0m: hi \x1b[1mbob\x1b[0m, \x1b[1mBob\x1b[0m: bobby"
    assert own == "\x1b[1mbob\x1b[0m: own"
    assert notice == "\x1b[2m*** closing soon\x1b[0m"
    assert len({painter.paint(Message(f"a{number}", "hi")).partition("a")[0] for number in range(50)}) > 5


def test_the_bell() -> None:
    """It rings for mentions and private lines, not for one's own lines, and not for a replay."""
    painter = Painter(Roster("bob"), bell=True)
    lines = [painter.paint(event) for event in (*EVENTS, REPLAY_BEGINS, EVENTS[4], REPLAY_ENDS, EVENTS[4])]
    assert [line.endswith("\a") for line in lines] == [False, False, True, False, True, *[False] * 4, True]


def test_times() -> None:
    """JSON's time if there is one, else the time of arrival; what `strftime` makes can harm no terminal."""
    painter = Painter(Roster("bob"), time_format="%Y\x1b")
    assert painter.paint(Message("ada", "hi", 1, 86400 * 400.0)) == "1971␛ ada: hi"
    assert painter.paint(Message("ada", "hi")) > "2025"
    assert painter.paint_typed("hi").endswith("␛ hi")


def told(roster: Roster, *events: Event) -> list[str]:
    """Return the names of others after these events."""
    for event in events:
        roster.receive(event)
    return roster.others


def test_names() -> None:
    """They come from senders, announcements and the answer to `/who`, and go again."""
    roster = Roster("51044")
    assert told(roster, Message("ada", "hi"), Notice("carl joined"), Joined("eva")) == ["eva", "carl", "ada"]
    assert told(roster, Notice("carl is now Carl"), Notice("eva left")) == ["Carl", "ada"]
    assert told(roster, Renamed("ada", "Ada"), Left("Carl")) == ["Ada"]
    assert not roster.knows_commands
    assert told(roster, Notice("4 here: 51044, Ada, hans and 1 more")) == ["Ada", "hans"]
    assert roster.knows_commands
    assert told(roster, Notice("you are now bob")) == ["51044", "Ada", "hans"]
    assert roster.own == "bob"
    told(roster, Welcome("ann", 0, "1"))
    assert roster.own == "ann"


def test_names_have_a_bound() -> None:
    roster = Roster("51044")
    for number in range(10_010):
        roster.receive(Message(f"a{number}", "hi"))
    assert len(roster.others) == 10_000


def test_tab_knows_the_rooms_commands() -> None:
    """Those for people."""
    assert {name.removeprefix("/") for name in ROOM_COMMANDS} == set(COMMANDS) - {"json", "resume", "sync"}
    assert not set(LOCAL_COMMANDS) & set(COMMANDS)


def test_completion() -> None:
    """Commands at the beginning, names in any case elsewhere; ignored names after `/unignore`."""
    local = LocalCommands(Roster("bob"))
    for name in ("Ada", "adam", "eva"):
        local.receive(Message(name, "hi"))
    assert local.complete("/n") == ["/nick"]
    assert local.complete("/un") == ["/unignore"]
    assert local.complete("hi aD") == ["adam", "Ada"]
    assert local.complete("/msg ") == ["eva", "adam", "Ada"]
    assert local.complete("") == []
    local.run("/ignore Ada")
    assert local.complete("/unignore ") == ["Ada"]


def test_help_is_one_table() -> None:
    """The local commands follow the room's last row, in its columns, however often the room repeats it."""
    local = LocalCommands(Roster("bob"))
    width = max(len(usage) for usage, _ in HELP) + 2
    assert local.run("/help").send == ("/help",)
    rows = [Notice(f"{usage:<{width}}{does}") for usage, does in HELP]
    shown = [str(event) for row in rows for event in local.receive(row)]
    assert shown[: len(rows)] == list(map(str, rows))
    assert [row.split()[1] for row in shown[len(rows) :]] == ["/reply", "/ignore", "/unignore", "/clear", "/quit"]
    assert {row[4 + width - 1] for row in shown} == {" "}
    assert local.receive(rows[-1]) == [rows[-1]]


def test_ignored_members_follow_their_names() -> None:
    """A new name doesn't help."""
    local = LocalCommands(Roster("bob"))
    local.run("/ignore ADA")
    assert local.receive(Message("ada", "hi")) == local.receive(Private("Ada", "hi")) == []
    local.receive(Renamed("ada", "eva"))
    assert local.receive(Message("eva", "hi")) == []
    assert local.run("/ignore").show == ("you ignore eva",)
    assert local.run("/unignore ada").show == ("you don't ignore ada",)
    assert local.run("/unignore eva").show == ("you see lines of eva again",)
    assert local.receive(Message("eva", "hi"))


def test_lines_for_the_room_stay_as_they_are() -> None:
    """Local commands are whole words at the beginning of a line; `//` says them."""
    local = LocalCommands(Roster("bob"))
    for line in ("//quit", " /quit", "/quitter", "/say /quit", "exit", "quit", "", " "):
        assert local.run(line).send == (line,)
    assert local.run("/exit").send == local.run("/quit ").send == ("exit",)
    assert local.run("/msg ada psst").receipt == ("ada", "psst")
    assert local.run("/msg ada").receipt is None


SECRETS = ["/password sesame", " /password  sesame", "/op sesame", "/OP sesame", "/password\tsesame"]


@pytest.mark.parametrize("line", SECRETS)
def test_secrets_leave_no_trace(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are neither kept nor shown."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    history = InputHistory()
    history.add(line)
    assert history.load() == []
    assert hide_secret(line).split() == [line.split()[0], "****"]
    for harmless in ("/passwords", "say /op", "op"):
        assert secret_start(harmless) is None
        assert hide_secret(harmless) == harmless


def test_the_history_of_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand lines that others can't read, of several clients at once; without a folder there is none."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "new"))
    one, other = InputHistory(), InputHistory()
    for number in range(MAX_LINES + 5):
        (one if number % 2 else other).add(f"line {number}")
    assert one.load() == [f"line {number}" for number in range(5, MAX_LINES + 5)]
    one.trim()
    (file,) = (tmp_path / "new" / "chatkit").iterdir()
    assert file.read_text().splitlines() == one.load() == other.load()
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    monkeypatch.setenv("XDG_STATE_HOME", str(file))
    nowhere = InputHistory()
    nowhere.add("line")
    nowhere.trim()
    assert nowhere.load() == []


@pytest.mark.parametrize("line", ["", "Welcome!", "[ada] hi bob"])
def test_a_line_of_another_kind_of_server_stays_as_it_is(line: str) -> None:
    """It is no notice, which would be dim."""
    assert Painter(Roster("bob"), color=True).paint(parse_foreign_text(line)) == line
