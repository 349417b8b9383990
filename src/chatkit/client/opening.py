"""The opening of a connection: the lines in which a client asks for its name and for events."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from chatkit.events import Event, Notice, Welcome
from chatkit.protocol.lines import check_password
from chatkit.protocol.names import check_name
from chatkit.protocol.replies import (
    ACCEPTED,
    NO_PASSWORD_NEEDED,
    PASSWORD_COMMAND,
    RESUME_COMMAND,
    RESUME_EARLY,
    RESUME_UNKNOWN,
    RESUMED,
    now_named,
    unknown_command,
)

SYNC = "/sync"
EPOCH, TOKEN = re.compile("[0-9a-f]{16}"), re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The requests of an opening: arguments of `Client`, and two more.

    Attributes:
        is_returning: set by a client that comes back. A taken name is no error, and `Synced` ends the replay.
        token: of the last `Welcome`, to take the place of the connection before; "" for none.
    """

    password: str | None = field(default=None, repr=False)
    name: str | None = None
    events: bool = False
    after: int | None = None
    echo: bool = False
    epoch: str | None = None
    is_returning: bool = False
    token: str = field(default="", repr=False)

    def check(self, max_line_bytes: int) -> None:
        """Check the arguments of `Client`.

        Raises:
            ValueError: the name breaks the rule, no line can hold the password, or `after`, `epoch` or `echo` can't be
                asked for.
        """
        if self.password is not None:
            check_password(self.password, max_line_bytes)
        if self.after is not None and (not self.events or self.after < 0):
            raise ValueError("after is an id, from 0, and needs events=True")
        is_new = not self.is_returning  # else they were checked before, or the room gave them
        if is_new and self.name is not None:
            check_name(self.name)
        if is_new and self.epoch is not None and (self.after is None or not EPOCH.fullmatch(self.epoch)):
            raise ValueError("epoch is that of a Welcome, and needs after")
        if self.echo and not self.events:
            raise ValueError("echo needs events=True")

    def lines(self) -> list[str]:
        """Return the lines to send first."""
        lines = [] if self.password is None else [f"{PASSWORD_COMMAND}{self.password}"]
        lines += [f"{RESUME_COMMAND}{self.token}"] if self.token else []
        lines += [f"/nick {self.name}"] if self.name else []
        if self.events:
            place = [str(word) for word in (self.after, self.epoch) if word is not None]
            lines += [" ".join(["/json", *place, *(["echo"] if self.echo else [])])]
        return [*lines, SYNC] if self.is_returning else lines

    def answers(self) -> list[tuple[Event | type[Welcome], ...]]:
        """Return the possible answers to each line, in order."""
        answers: list[tuple[Event | type[Welcome], ...]] = []
        if self.password is not None:
            answers += [(Notice(ACCEPTED), Notice(NO_PASSWORD_NEEDED))]
        if self.token:  # if it isn't taken, the client comes back as one without a token
            refusals = (RESUME_UNKNOWN.text, RESUME_EARLY.text, unknown_command("resume"))
            answers += [(RESUMED, *map(Notice, refusals))]
        if self.name:
            answers += [(Notice(now_named(self.name)),)]
        if self.events:
            answers += [(Welcome,)]
        return answers
