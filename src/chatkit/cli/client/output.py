"""What `chat-client` shows: the chat, JSON JsonOutput, or only what went wrong."""

from __future__ import annotations

import json
import sys

from chatkit import Disconnected, Error, Event, Joined, Left, Reconnected, Renamed, Welcome
from chatkit.cli.common import CHAT_CLIENT, complain, reason
from chatkit.protocol.formats import encode_json
from chatkit.protocol.replies import now_named
from chatkit.protocol.sanitize import visible


class OutputLost(Exception):
    """Standard output takes no more. reason: None when who read it has seen enough (`chat-client | head`)."""

    def __init__(self, error: OSError) -> None:
        self.reason = None if isinstance(error, BrokenPipeError) else reason(error)


class TextOutput:
    """The chat, for people.

    refused: whether the room didn't do something, or perhaps not. taken: whether it is known to have heard everything.
    OutputLost: standard output is gone.
    """

    refused = False
    taken = True

    def begin(self) -> None:
        self._print("Connected to chat server. Type 'exit' to leave.")

    def show(self, event: Event) -> None:
        self._print(visible(str(event)))

    def end(self) -> None:
        self._print("Disconnected from server.")

    def _print(self, line: str) -> None:
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except OSError as error:
            raise OutputLost(error) from None


class ReconnectOutput(TextOutput):
    """The chat as members with plain text see it, of what a client that reconnects receives.

    advises: whether to say, the first time, what becomes of lines that are typed while the connection is lost.
    """

    _name = ""

    def __init__(self, advises: bool) -> None:
        self._advises = advises

    def show(self, event: Event) -> None:
        if isinstance(event, Renamed) and event.old == self._name:
            self._name = event.name
            self._print(f"*** {now_named(visible(event.name))}")
            return
        if isinstance(event, Disconnected) and self._advises:
            self._advises = False
            self._print(f"{visible(str(event))}; what you type now is sent then")
            return
        if isinstance(event, Welcome | Reconnected):
            self._name = event.name
        if not isinstance(event, Welcome | Joined | Left | Renamed):
            super().show(event)


class JsonOutput(TextOutput):
    """JSON JsonOutput, for programs; in ASCII, so that no terminal and no locale comes to harm."""

    def begin(self) -> None:
        pass

    def show(self, event: Event) -> None:
        self._print(json.dumps(json.loads(encode_json(event)), separators=(",", ":")))

    def end(self) -> None:
        pass


class QuietOutput(JsonOutput):
    """Only what the room didn't do. sign: what was sent last; when that is answered, the room has heard all before."""

    taken = False

    def __init__(self, sign: str) -> None:
        self._sign = sign

    def show(self, event: Event) -> None:
        if not isinstance(event, Error):
            return
        if self._sign in event.text:
            self.taken = True
        else:
            self.refused = True
            complain(CHAT_CLIENT, visible(event.text))
