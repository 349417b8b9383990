"""The commands of members, in one table for dispatch, for `/help` and for docs/protocol.md.

A command is called with the turn, the member that sent it, and the text after its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatkit.errors import NameTaken
from chatkit.events import Action, Error, Notice
from chatkit.protocol.lines import Line, parse_command
from chatkit.protocol.replies import HELP_ENDS, NO_PASSWORD_NEEDED, unknown_command
from chatkit.room.members import Member
from chatkit.room.turn import Turn

# More than a screen is of no use, and a short question must not have an endless answer.
MAX_NAMES_SHOWN = 100
MAX_WORD_SHOWN = 32

_TOKEN = re.compile("[0-9a-f]{32}")
_SPACE = re.compile(r"\s")
_JSON = re.compile(r"(?:([0-9]{1,18})(?: ([0-9a-f]{16}))?)?(?:(?:^| )(echo))?")


class _Misused(Exception):
    """A missing or malformed argument of a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """One entry of the table.

    Attributes:
        usage: its name and arguments, as `/help` shows them.
        does: its description in `/help`.
        run: the function that runs it.
        long: whether its answer may be long, so that the answers per turn are limited.
        opens: whether a member may send it before its join is announced.
    """

    usage: str
    does: str
    run: Callable[[Turn, Member, str], None]
    long: bool = False
    opens: bool = False


def run(turn: Turn, member: Member, line: str) -> None:
    """Run the command in `line`, which begins with a slash; if it can't be run, tell the member why.

    Raises:
        HookFailed: the handler raised an exception.
    """
    word, argument = parse_command(line) or ("", "")
    if word.startswith("/"):
        turn.say(member, line[1:])
    elif command := COMMANDS.get(word):
        _run(command, turn, member, argument)
    else:
        shown = word if len(word) <= MAX_WORD_SHOWN else word[:MAX_WORD_SHOWN] + "…"
        turn.tell(member, Error(unknown_command(shown), "unknown_command"))


def count_opening(lines: Sequence[Line]) -> int:
    """Return how many of the first lines are such as a client sends before anything else: its name."""
    for number, line in enumerate(lines):
        word, _ = (isinstance(line, str) and parse_command(line)) or ("", "")
        if word not in COMMANDS or not COMMANDS[word].opens:
            return number
    return len(lines)


def _run(command: Command, turn: Turn, member: Member, argument: str) -> None:
    if command.long and not turn.may_answer(member):
        turn.tell(member, Error("one question at a time", "too_many"))
        return
    try:
        command.run(turn, member, argument)
    except _Misused:
        turn.tell(member, Error(f"usage: {command.usage}", "bad_usage"))


def _help(turn: Turn, member: Member, argument: str) -> None:
    for usage, does in HELP:
        turn.tell(member, Notice(f"{usage:<{_WIDTH}}  {does}"))


def _who(turn: Turn, member: Member, argument: str) -> None:
    if member.json:
        turn.list_members(member)
        return
    number = len(turn.roster)
    names = ", ".join(other.name for other in turn.roster.first(MAX_NAMES_SHOWN))
    more = f" and {number - MAX_NAMES_SHOWN} more" if number > MAX_NAMES_SHOWN else ""
    turn.tell(member, Notice(f"{number} here: {names}{more}"))


def _nick(turn: Turn, member: Member, argument: str) -> None:
    try:
        turn.rename(member, _require(argument.strip()))
    except NameTaken as error:
        turn.tell(member, Error(str(error), "name_taken"))
    except ValueError as error:
        turn.tell(member, Error(str(error), "bad_name"))


def _me(turn: Turn, member: Member, argument: str) -> None:
    turn.say(member, _require(argument), Action)


def _msg(turn: Turn, member: Member, argument: str) -> None:
    name, *text = _SPACE.split(_require(argument).lstrip(), maxsplit=1)
    if other := turn.roster.find(name):
        turn.whisper(member, other, _require("".join(text)))
    else:
        turn.tell(member, Error("nobody here has that name (try /who)", "no_such_member"))


def _say(turn: Turn, member: Member, argument: str) -> None:
    turn.say(member, _require(argument))


def _json(turn: Turn, member: Member, argument: str) -> None:
    if not (match := _JSON.fullmatch(argument.strip())):
        raise _Misused
    after, epoch, echo = match.groups()
    if member.json:
        turn.tell(member, Error("you already receive JSON", "already_json"))
    else:
        turn.subscribe(member, int(after) if after else None, epoch, echo=bool(echo))


def _resume(turn: Turn, member: Member, argument: str) -> None:
    if not _TOKEN.fullmatch(argument.strip()):
        raise _Misused
    if member.json:
        turn.tell(member, Error("a place is resumed before /json", "already_json"))
    else:
        turn.resume(member, argument.strip())


def _sync(turn: Turn, member: Member, argument: str) -> None:
    turn.sync(member)


def _password(turn: Turn, member: Member, argument: str) -> None:
    turn.tell(member, Notice(NO_PASSWORD_NEEDED))


def _require(argument: str) -> str:
    """Return the argument if it isn't blank, else raise `_Misused`."""
    if not argument.strip():
        raise _Misused
    return argument


COMMANDS = {
    "help": Command("/help", "list the commands", _help, long=True),
    "who": Command("/who", "list the members", _who, long=True),
    "nick": Command("/nick NAME", "take a name", _nick, opens=True),
    "me": Command("/me TEXT", "describe an action", _me),
    "msg": Command("/msg NAME TEXT", "send a private message to one member", _msg),
    "say": Command("/say TEXT", "say any line, also `exit` or `/who`", _say),
    "password": Command("/password WORD", "give the password, if the room asks for one", _password, opens=True),
    "json": Command(
        "/json [AFTER [EPOCH]] [echo]",
        "for programs: receive JSON Lines; with AFTER, first the messages after that id; with echo, also your own",
        _json,
    ),
    "resume": Command("/resume TOKEN", "for programs: take the place of a connection that hangs", _resume, opens=True),
    "sync": Command("/sync", "for programs: ask for an answer that acknowledges all earlier lines", _sync),
}

# `exit` and `//` are no commands of the table: a line is looked up there only after these.
HELP = [(command.usage, command.does) for command in COMMANDS.values()]
HELP += [("//TEXT", "say /TEXT"), HELP_ENDS]
_WIDTH = max(len(usage) for usage, _ in HELP)
