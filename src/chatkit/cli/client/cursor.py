"""The place in the room's order from which `chat-client` goes on the next time."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click

from chatkit import Event, Gap, Message, Reconnected, Synced, Welcome
from chatkit.cli.common import CHAT_CLIENT, fail, reason
from chatkit.client.protocol import last_common_id

if TYPE_CHECKING:
    from pathlib import Path

# As the room reads it: see /json in docs/protocol.md.
_PLACE = re.compile(r"([0-9]{1,18})(?:@([0-9a-f]{16}))?")

Place = tuple[int | None, str | None]
NO_PLACE: Place = (None, None)


def parse_place(text: str) -> Place:
    """Return (id, epoch) of `ID` or `ID@EPOCH`.

    Raises:
        ValueError: it has another form.
    """
    if not (match := _PLACE.fullmatch(text)):
        raise ValueError("must be ID or ID@EPOCH, from a message and the welcome before it")
    return int(match[1]), match[2]


def checked_place(context: click.Context, parameter: click.Parameter, text: str | None) -> Place:
    """Read the option --after."""
    try:
        return NO_PLACE if text is None else parse_place(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class Cursor:
    """The place of the last event that was shown, in a file.

    The file is replaced, not written to: whenever the process ends, there is a whole one, the old or the new.

    Attributes:
        path: the file.
        is_saved: whether the file has this place.
    """

    def __init__(self, path: Path, place: Place) -> None:
        """Read the file. If there is none, begin at `place`."""
        self.path = path
        self.is_saved = True
        self._after, self._epoch = place
        self._newest = 0  # at the welcome: the place of a newcomer until its first message
        try:
            self._after, self._epoch = parse_place(path.read_text("ascii").removesuffix("\n"))
        except FileNotFoundError:
            pass
        except OSError as error:
            fail(CHAT_CLIENT, f"cannot read {path}: {reason(error)}", about=["cursor"])
        except ValueError:
            fail(CHAT_CLIENT, f"{path} isn't a cursor", "remove it to begin anew", about=["cursor"])

    @property
    def place(self) -> Place:
        """Return (id, epoch), the arguments `after` and `epoch` of `Client`."""
        return self._after, self._epoch

    def advance(self, event: Event) -> None:
        """Go beyond an event that was shown."""
        match event:
            case Welcome(newest=newest, epoch=epoch):
                if self._after is not None:
                    self._after = min(self._after, last_common_id(event, self._epoch) or 0)
                self._epoch, self._newest = epoch, newest
            case Reconnected(new_epoch=is_anew, epoch=epoch):
                self._after, self._epoch = 0 if is_anew else self._after, epoch
            case Message(id=newest) | Synced(newest=newest):
                self._after = max(self._after or 0, newest or 0)
            case Gap(missing=missing) if self._after is not None:
                self._after += missing
            case _:
                return
        self.is_saved = False

    def save(self) -> None:
        """Replace the file by one that is readable for its owner alone, if there is something new.

        Raises:
            OSError: it can't be written.
        """
        if self.is_saved:
            return
        path = self.path.resolve()  # a link stays one
        unfinished = path.with_name(f"{path.name}-new")
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{self._newest if self._after is None else self._after}@{self._epoch}\n")
        os.replace(unfinished, path)
        self.is_saved = True
