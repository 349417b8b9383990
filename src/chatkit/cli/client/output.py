"""The output of `chat-client`: the chat, JSON Lines, or errors only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

from chatkit import (
    ChatError,
    Client,
    Disconnected,
    Error,
    Event,
    Gap,
    Joined,
    Left,
    Message,
    Notice,
    Reconnected,
    Renamed,
    Welcome,
)
from chatkit.cli.client.cursor import Cursor
from chatkit.cli.client.screen import Painter
from chatkit.cli.common import CHAT_CLIENT, complain, reason, write_out
from chatkit.protocol.replies import REPLAY_BEGINS, REPLAY_ENDS, now_named
from chatkit.protocol.sanitize import visible

# A batch of lines is printed, and the cursor saved, after so many events that come without a pause.
BATCH_EVENTS = 1000


class OutputLost(Exception):
    """The output accepts no more.

    Attributes:
        problem: why, in words; None if the reader closed its end, as in `chat-client | head`.
    """

    def __init__(self, error: OSError, failed: str = "cannot show the chat") -> None:
        self.problem = None if isinstance(error, BrokenPipeError) else f"{failed}: {reason(error)}"


def print_line(line: str) -> None:
    """Print one line.

    Raises:
        OutputLost: standard output accepts no more.
    """
    try:
        write_out(f"{line}\n")
    except OSError as error:
        raise OutputLost(error) from None


class Lines(Protocol):
    """Where lines of the chat are shown. The methods raise OutputLost."""

    def write(self, line: str) -> None:
        """Show a line, at the latest with the next `flush`."""

    def flush(self) -> None:
        """Show the lines that wait."""


class LineBatch:
    """`Lines` on standard output: a batch is one write, as a write costs far more than a line."""

    def __init__(self) -> None:
        self._lines = list[str]()

    def write(self, line: str) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        if lines := self._lines:
            self._lines = []
            print_line("\n".join(lines))


class Output:
    """The base of all outputs: it shows nothing. The methods raise OutputLost.

    Lines may wait for `pause`: `receive` calls it when no event waits, and after BATCH_EVENTS of them.

    Attributes:
        has_refusal: whether the room refused a line, or may not have received it.
        is_confirmed: whether the room is known to have received every line.
    """

    has_refusal = False
    is_confirmed = True
    _received = 0

    def begin(self) -> None:
        """Greet."""

    def receive(self, client: Client, seconds: float) -> Event:
        """Return the client's next event, as `Client.receive`."""
        self._received += 1
        if not self._received % BATCH_EVENTS:
            self.pause()
        try:
            return client.receive(0)
        except TimeoutError:
            self.pause()
        except (ChatError, OSError):  # the conversation is over
            self.pause()
            raise
        return client.receive(seconds)

    def pause(self) -> None:
        """Print what was shown."""

    def show(self, event: Event) -> None:
        """Show an event."""

    def end(self) -> None:
        """Say that the client has left."""

    def close(self) -> None:
        """Keep what is to be kept, however the conversation has ended."""


class TextOutput(Output):
    """The chat, for people."""

    def __init__(self, painter: Painter, lines: Lines, instead: Callable[[Event], list[Event]] | None) -> None:
        """Prepare the output.

        Args:
            painter: makes an event's line.
            lines: shows it.
            instead: returns the events to show in place of one; None for itself.
        """
        self._painter = painter
        self._lines = lines
        self._instead = instead

    def begin(self) -> None:
        """Greet."""
        self._lines.write("Connected to chat server. Type 'exit' to leave.")
        self.pause()

    def pause(self) -> None:
        """Print what was shown."""
        self._lines.flush()

    def show(self, event: Event) -> None:
        """Print an event as one line."""
        if self._instead is None:
            self._show(event)
            return
        for each in self._instead(event):
            self._show(each)

    def _show(self, event: Event) -> None:
        self._lines.write(self._painter.paint(event))

    def end(self) -> None:
        """Say that the client has left."""
        self._lines.write("Disconnected from server.")
        self.pause()


class ReconnectOutput(TextOutput):
    """The chat as members with plain text see it, made of the events of a client that reconnects."""

    _name = ""
    _newest = 0  # at the welcome: messages up to it came before this member
    _in_replay = False

    def __init__(
        self,
        painter: Painter,
        lines: Lines,
        instead: Callable[[Event], list[Event]] | None,
        *,
        explains_queue: bool,
    ) -> None:
        """Prepare the output.

        Args:
            explains_queue: whether to say at the first loss that typed lines are kept.
        """
        super().__init__(painter, lines, instead)
        self._explains_queue = explains_queue

    def show(self, event: Event) -> None:
        """Print an event as one line, unless members with plain text don't see it."""
        is_earlier = isinstance(event, Gap) or (isinstance(event, Message) and (event.id or 0) <= self._newest)
        self._mark_replay(is_earlier and self._newest > 0)
        super().show(event)
        if isinstance(event, Message) and event.id == self._newest:
            self._mark_replay(False)

    def _mark_replay(self, is_earlier: bool) -> None:
        """Print the line that comes before or after the messages that this member is replayed as a newcomer."""
        if is_earlier != self._in_replay:
            self._in_replay = is_earlier
            super()._show(REPLAY_BEGINS if is_earlier else REPLAY_ENDS)

    def _show(self, event: Event) -> None:
        if isinstance(event, Renamed) and event.old == self._name:
            self._name = event.name
            super()._show(Notice(now_named(event.name)))
            return
        if isinstance(event, Disconnected) and self._explains_queue:
            self._explains_queue = False
            super()._show(Notice(f"{event.text}; lines that you type now are sent after the return"))
            return
        if isinstance(event, Welcome | Reconnected):
            self._name, self._newest = event.name, event.newest if isinstance(event, Welcome) else 0
        if not isinstance(event, Welcome | Joined | Left | Renamed):
            super()._show(event)


@cache
def _encoder() -> Callable[[Event], str]:
    """Return the encoder of events as JSON in ASCII, loaded with the first event: people need none."""
    import json

    from chatkit.protocol.formats import encode_json

    def encode(event: Event) -> str:
        fields = json.loads(encode_json(event))
        fields.pop("resume", None)  # a secret of this connection: output ends up in logs
        return json.dumps(fields, separators=(",", ":"))

    return encode


class JsonOutput(Output):
    """JSON Lines, for programs; in ASCII, which every terminal and locale can show."""

    def __init__(self) -> None:
        self._lines = LineBatch()

    def pause(self) -> None:
        """Print what was shown."""
        self._lines.flush()

    def show(self, event: Event) -> None:
        """Print an event as one JSON object."""
        self._lines.write(visible(_encoder()(event)))


class CursorOutput(JsonOutput):
    """JSON Lines, with a cursor that follows them: it is saved after each batch, once that is printed."""

    def __init__(self, cursor: Cursor) -> None:
        super().__init__()
        self._cursor = cursor
        self._has_failed = False

    def pause(self) -> None:
        """Print what was shown, and save the cursor."""
        self._has_failed = True  # unless this succeeds: what isn't printed isn't passed
        super().pause()
        try:
            if not self._cursor.is_saved:
                self._cursor.save()
        except OSError as error:
            raise OutputLost(error, f"cannot keep {self._cursor.path}") from None
        self._has_failed = False

    def show(self, event: Event) -> None:
        super().show(event)
        self._cursor.advance(event)

    def close(self) -> None:
        if self._has_failed:  # and said so
            return
        try:
            self.pause()
        except OutputLost as error:
            self.has_refusal = True
            complain(CHAT_CLIENT, error.problem or "nobody reads the chat")


class QuietOutput(Output):
    """Errors only, on stderr."""

    is_confirmed = False

    def __init__(self, probe: str) -> None:
        """Prepare the output.

        Args:
            probe: the last line that is sent, an unknown command. The room's error about it confirms all lines before.
        """
        self._probe = probe

    def show(self, event: Event) -> None:
        """Print an error, unless it is about the probe."""
        if not isinstance(event, Error):
            return
        if self._probe in event.text:
            self.is_confirmed = True
        else:
            self.has_refusal = True
            complain(CHAT_CLIENT, event.text)
