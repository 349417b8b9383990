"""The commands of the client itself, in one table for dispatch, for Tab and for `/help`. No I/O.

They exist on a terminal with the line editor alone: elsewhere each line goes to the room as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from chatkit.cli.client.roster import Roster, is_who_answer
from chatkit.events import Event, Message, Notice, Private, Renamed, Welcome
from chatkit.protocol.lines import EXIT, parse_command
from chatkit.protocol.names import name_key
from chatkit.protocol.replies import HELP_ENDS
from chatkit.protocol.sanitize import clean

# The room's commands for people, for Tab.
ROOM_COMMANDS = ("/help", "/who", "/nick", "/me", "/msg", "/say", "/password")

WHO = "/who"
# The room's answer to `/help` ends with this line.
_HELP_END = re.compile(r"{} +(?={}$)".format(*map(re.escape, HELP_ENDS)))


@dataclass(frozen=True, slots=True)
class Effect:
    """The result of a line that was typed.

    Attributes:
        send: lines for the room.
        show: notices for this member.
        receipt: (name, text) of a private line.
        clears: whether to clear the screen.
    """

    send: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    receipt: tuple[str, str] | None = None
    clears: bool = False


@dataclass(frozen=True, slots=True)
class LocalCommand:
    """One entry of the table.

    Attributes:
        usage: its name and arguments, as `/help` shows them.
        does: its description in `/help`.
        run: the function that runs it, with the text after its name.
    """

    usage: str
    does: str
    run: Callable[[LocalCommands, str], Effect]


@dataclass(slots=True)
class LocalCommands:
    """The commands, and the events as far as these change them.

    Attributes:
        roster: the names in the room.
        awaits_help: whether the room's answer to `/help` is to come, with the local commands below it.
        awaits_names: whether the next answer to `/who` is for the roster alone.
    """

    roster: Roster
    awaits_help: bool = False
    awaits_names: bool = False
    _ignored: dict[str, str] = field(default_factory=dict)  # by key
    _correspondent: str | None = None

    def run(self, line: str) -> Effect:
        """Return the effect of a line that was typed."""
        word, argument = parse_command(clean(line)) or ("", "")
        if command := LOCAL_COMMANDS.get(word):
            return command.run(self, argument.strip())
        if word == "help":
            self.awaits_help = True
        if word == "msg" and len(parts := argument.split(maxsplit=1)) == 2:
            return Effect(send=(line,), receipt=(parts[0], parts[1]))
        return Effect(send=(line,))

    def receive(self, event: Event) -> list[Event]:
        """Return the events to show in place of an event."""
        self.roster.receive(event)
        if isinstance(event, Welcome):
            return [event, Notice(self.introduction)]
        if isinstance(event, Renamed) and name_key(event.old) in self._ignored:
            del self._ignored[name_key(event.old)]
            self._ignored[name_key(event.name)] = event.name
        if self._ignored and isinstance(event, Message | Private) and name_key(event.sender) in self._ignored:
            return []
        if isinstance(event, Private):
            self._correspondent = event.sender
        if isinstance(event, Notice):
            return self._receive_notice(event)
        return [event]

    @property
    def introduction(self) -> str:
        """Return the notice at the start: the name of this member, and that there is help."""
        return f"you are {self.roster.own}; /help lists the commands"

    def help_lines(self, width: int = 0) -> list[str]:
        """Return the rows of `/help` for the local commands, which aren't awaited any more."""
        self.awaits_help = False
        commands = dict.fromkeys(LOCAL_COMMANDS.values())
        width = max(width, *(len(command.usage) + 2 for command in commands))
        return [f"{command.usage:<{width}}{command.does}" for command in commands]

    def complete(self, before: str) -> list[str]:
        """Return the words that the last word before the cursor may become, without repetitions, best first."""
        word = last_word(before)
        if word == before and word.startswith("/"):
            known = [*ROOM_COMMANDS, *(f"/{name}" for name in LOCAL_COMMANDS)]
            return sorted(name for name in known if name.startswith(word))
        if not before:
            return []
        names = [*self._ignored.copy().values()] if before.startswith("/unignore ") else self.roster.others
        return [name for name in names if name.casefold().startswith(word.casefold())]

    def _receive_notice(self, event: Notice) -> list[Event]:
        if self.awaits_names and is_who_answer(event.text):
            self.awaits_names = False
            return []
        if self.awaits_help and (end := _HELP_END.match(event.text)):
            return [event, *map(Notice, self.help_lines(end.end()))]
        return [event]

    def _ignore(self, name: str) -> Effect:
        if not name:
            shown = ", ".join(self._ignored.values()) or "nobody"
            return Effect(show=(f"you ignore {shown}",))
        self._ignored[name_key(name)] = name
        return Effect(show=(f"you no longer see lines of {name} (/unignore {name})",))

    def _unignore(self, name: str) -> Effect:
        if self._ignored.pop(name_key(name), ""):
            return Effect(show=(f"you see lines of {name} again",))
        return Effect(show=(f"you don't ignore {name}" if name else "usage: /unignore NAME",))

    def _reply(self, text: str) -> Effect:
        if not text:
            return Effect(show=("usage: /reply TEXT",))
        if self._correspondent is None:
            return Effect(show=("nobody has sent you a private line yet",))
        return Effect(send=(f"/msg {self._correspondent} {text}",), receipt=(self._correspondent, text))

    def _clear(self, argument: str) -> Effect:
        return Effect(clears=True)

    def _quit(self, argument: str) -> Effect:
        return Effect(send=(EXIT,))


LOCAL_COMMANDS = {
    "reply": LocalCommand("/reply TEXT", "answer the last private line that you received", LocalCommands._reply),
    "ignore": LocalCommand("/ignore NAME", "hide the lines of a member, here alone", LocalCommands._ignore),
    "unignore": LocalCommand("/unignore NAME", "show them again", LocalCommands._unignore),
    "clear": LocalCommand("/clear", "clear the screen", LocalCommands._clear),
    "quit": LocalCommand("/quit", "leave (also /exit)", LocalCommands._quit),
}
LOCAL_COMMANDS["exit"] = LOCAL_COMMANDS["quit"]


def last_word(text: str) -> str:
    """Return the word in front of the cursor, or "" after a space."""
    return re.split(r"\s", text)[-1]
