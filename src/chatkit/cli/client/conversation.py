"""One conversation of `chat-client`, from the greeting to the exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from chatkit import ChatError, Client, ConnectionClosed, Event, Message, Notice, Private, Unconfirmed
from chatkit.cli.client.input import InputThread
from chatkit.cli.client.output import Output, OutputLost
from chatkit.cli.client.trust import describe_tls_error, tls_error
from chatkit.cli.common import CHAT_CLIENT, abandon, complain
from chatkit.cli.signals import leave_on_signals
from chatkit.net.sockets import SIGNAL_SECONDS
from chatkit.protocol.replies import CUT_OFF, NOT_ADMITTED

LEFT, CANNOT_SHOW, NOT_SENT, NOT_CONFIRMED, LOST = 0, 1, 1, 1, 3


class Unanswered(Exception):
    """The end of the wait for a server that doesn't end the conversation."""


class Conversation:
    """The events of a client, shown until the conversation ends.

    Args:
        count: leave after so many messages; None for any number.
    """

    def __init__(self, client: Client, input_thread: InputThread, output: Output, count: int | None) -> None:
        self._client = client
        self._input = input_thread
        self._output = output
        self._left = count
        self._last = ""  # notice

    def run(self) -> int:
        """Return the exit status."""
        problem, status = "", LEFT
        try:
            self._show_events()
            self._end()
        except Unanswered:
            seconds = self._input.settings.exit_seconds
            problem, status = f"left, but the server didn't confirm it within {seconds:g} seconds", NOT_CONFIRMED
        except ChatError as error:
            problem, status = f"disconnected: {error}", LOST
        except tls_error() as error:  # a restarted server has another certificate
            problem, status = f"disconnected: {describe_tls_error(error)}", LOST
        except KeyboardInterrupt:
            if queued := self._input.count_queued():
                complain(CHAT_CLIENT, f"{queued} lines of input were not sent")
            raise
        except OutputLost as error:
            abandon(sys.stdout)
            if error.problem:
                complain(CHAT_CLIENT, error.problem)
            return CANNOT_SHOW if error.problem else LEFT
        finally:
            self._output.close()
            self._client.close(grace=0.2)
        unsent = "" if self._last.startswith(NOT_ADMITTED) else self._input.describe_unsent()
        if words := [part for part in (problem, unsent) if part]:
            complain(CHAT_CLIENT, "; ".join(words))
        return status or (NOT_SENT if unsent or self._is_incomplete else LEFT)

    @property
    def _is_incomplete(self) -> bool:
        """Tell whether the room may lack something of the input, or the output its end."""
        settings = self._input.settings
        is_script = bool(settings.final_line) or settings.waits_for_return
        return self._output.has_refusal or self._input.has_failed or (self._input.has_refused_line and is_script)

    def _show_events(self) -> None:
        try:
            leave_on_signals(self._input.leave)
            self._output.begin()
            self._input.start()
            for event in self._events():
                self._last = event.text if isinstance(event, Notice) else ""
                self._output.has_refusal |= isinstance(event, Unconfirmed)
                if not self._input.receive(event) and self._left != 0:
                    self._output.show(event)
                    self._count(event)
        finally:
            self._input.stop()

    def _events(self) -> Iterator[Event]:
        """Yield the events until the conversation ends.

        Raises:
            Unanswered: this side has left, and the server has had its time.
        """
        while (left := self._input.gives_up_at - time.monotonic()) > 0:
            try:
                yield self._output.receive(self._client, min(left, SIGNAL_SECONDS))  # the input may leave meanwhile
            except TimeoutError:
                pass
            except ConnectionClosed as closed:
                if closed.clean:
                    return
                raise
        self._output.pause()
        raise Unanswered

    def _count(self, event: Event) -> None:
        """Leave after the last one of the messages that are wanted."""
        if self._left and isinstance(event, Message | Private):
            self._left -= 1
            if not self._left:
                self._input.leave()

    def _end(self) -> None:
        """Say that the client has left.

        Raises:
            ConnectionClosed: the end isn't ours, or the room may not have every line.
        """
        queued = self._input.count_queued()
        is_forced = self._last.startswith((*NOT_ADMITTED, CUT_OFF))
        if not self._input.has_left or not self._output.is_confirmed or is_forced or queued:
            reason = "left while disconnected" if queued else "the server ended the conversation"
            raise ConnectionClosed(reason, clean=True)
        self._output.end()
