"""The input of `chat-client` from the line editor."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from chatkit import ChatError, Client, Event, Notice
from chatkit.cli.client.input import InputSettings
from chatkit.cli.client.input_history import InputHistory, hide_secret
from chatkit.cli.client.line_input import TerminalInput
from chatkit.cli.client.local import WHO, LocalCommands
from chatkit.cli.client.modes import TerminalModes
from chatkit.cli.client.output import OutputLost
from chatkit.cli.client.roster import Roster, is_who_answer
from chatkit.cli.client.screen import Painter
from chatkit.cli.client.scrollback import Scrollback
from chatkit.cli.common import CHAT_CLIENT, complain
from chatkit.protocol.lines import encode_line, is_exit
from chatkit.protocol.replies import PASSWORD_COMMAND

if TYPE_CHECKING:
    from chatkit.cli.client.editor import Editor

# A room that hasn't answered `/help` by then isn't waited for.
HELP_SECONDS = 1.0
# Tab asks a room for its names, which plain text tells only in part, and then not again for so long.
ASK_NAMES_SECONDS = 30.0
STOP_SECONDS = 1.0


class EditorInput(TerminalInput):
    """Lines from an editor, and what belongs to one: local commands, the history, signals, the terminal's modes.

    Threads: the editor runs in a thread of its own, and hands its lines to this one, so that a server that reads
    nothing holds up no key. The main thread starts and stops both, and gets the signals.
    """

    def __init__(
        self, client: Client, settings: InputSettings, painter: Painter, roster: Roster, *, introduces: bool
    ) -> None:
        """Take the terminal over, if this process is in the foreground.

        Args:
            introduces: whether to say at the start who this member is.
        """
        super().__init__(client, settings)
        self._painter = painter
        self._local = LocalCommands(roster)
        self._introduces = introduces
        roster.knows_commands = introduces
        self.scrollback = Scrollback()
        self._typed = queue.SimpleQueue[str | None]()
        self._modes = TerminalModes()
        self._history = InputHistory()
        self._editor: Editor | None = None
        self._editing = threading.Thread(target=self._edit, name="chatkit-editor", daemon=True)
        self._is_over = False
        self._wants_password = False
        self._wants_names = ""  # the text to complete when they are known
        self._asked_names_at = -ASK_NAMES_SECONDS
        self._handlers = dict[int, Any]()
        if self._modes.in_foreground:
            self._take_over()

    # In the main thread

    def start(self) -> None:
        """Start to edit. The terminal shows lines meanwhile."""
        if self._introduces:
            self._note(self._local.introduction)
        for number, handler in {signal.SIGWINCH: self._resized, signal.SIGCONT: self._continued}.items():
            self._handlers[number] = signal.signal(number, handler)
        self._editing.start()
        super().start()

    def stop(self) -> None:
        """End the editor, print what waits, and give the terminal back, without the keys that nobody has read."""
        self._is_over = True
        try:
            if self._editor:
                self._editor.stop()
                self._editing.join(STOP_SECONDS)
        finally:
            self._modes.drop_typed()
            self._modes.end()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._history.trim()

    def show_instead(self, event: Event) -> list[Event]:
        """Return the events to show in place of an event."""
        events = self._local.receive(event)
        if self._wants_names and isinstance(event, Notice) and is_who_answer(event.text) and self._editor:
            self._editor.complete_again(self._wants_names)
            self._wants_names = ""
        return events

    def ask_password(self, problem: str) -> None:
        """Have the editor ask."""
        if problem:
            self.scrollback.write(problem)
        self._wants_password = True
        if self._editor:
            self._editor.ask_password()

    def _resized(self, number: int, frame: object) -> None:
        if self._editor:
            self._editor.resize()

    def _continued(self, number: int, frame: object) -> None:
        self._modes.is_continued.set()
        if self._editor:
            self._editor.resume()
        else:
            self._modes.quiet()

    # In this thread, which sends

    def _read(self) -> bytes:
        line = self._typed.get()
        return b"" if line is None else f"{line}\n".encode(errors="surrogateescape")

    def _refuse(self, error: ChatError | ValueError) -> None:
        self.has_refused_line = True
        self._note(str(error))

    def _count_unread(self) -> int:
        lines = list[str | None]()
        with suppress(queue.Empty):
            while True:
                lines.append(self._typed.get_nowait())
        return sum(line is not None for line in lines)

    # In the thread of the editor

    def _take_over(self) -> None:
        """Show no key from now on. The editor shows those again that were typed before."""
        self._modes.begin()
        if self._modes.has_typed:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def _edit(self) -> None:
        """Edit lines until the end."""
        try:
            if not self._modes.is_begun:
                self._take_over()
            from chatkit.cli.client.editor import Editor  # prompt_toolkit takes longer to load than all of chatkit

            colors = self._painter.has_color
            editor = Editor(self, self.scrollback, self._modes, self._history, color=colors)
            editor.run(lambda: self._begun(editor))
        except (OSError, EOFError, OutputLost):
            pass  # the terminal is gone, or nobody can bring it to the foreground
        except Exception as error:
            complain(CHAT_CLIENT, f"the line editor failed: {error} (--plain does without)")
        finally:
            self._editor = None
            if not self._is_over:
                self._expect_end()
                self._typed.put(None)

    def _begun(self, editor: Editor) -> bool:
        self._editor = editor
        if self._wants_password:
            editor.ask_password()
        return not self._is_over

    def prompt(self) -> str:
        """Return this member's own name, and a mark."""
        return f"{self._painter.paint_name()}> "

    def submit(self, line: str) -> bool:
        """Show a line as it was typed, run or send it. Return False if it can't be sent, so that it can be mended."""
        try:
            encode_line(line, self.settings.max_line_bytes)
        except ValueError as error:
            self._note(str(error))
            return False
        effect = self._local.run(line)
        if effect.clears and self._editor:
            self._editor.clear()
            return True
        self._show(self._painter.paint_typed(hide_secret(line)))
        if effect.receipt:
            self._show(self._painter.paint_receipt(*effect.receipt))
        for notice in effect.show:
            self._note(notice)
        for each in effect.send:
            self._typed.put(each)
        if self._local.awaits_help and self._editor:
            self._editor.call_later(HELP_SECONDS, self._show_help)
        if self._editor and any(map(is_exit, effect.send)):
            self._editor.end()
        return True

    def submit_password(self, password: str) -> None:
        """Send the room's password, without a trace of it here."""
        self._wants_password = False
        self._typed.put(f"{PASSWORD_COMMAND}{password}")

    def complete(self, before: str) -> list[str]:
        """Return the words that the last word before the cursor may become. A room of chatkit is asked for names."""
        is_name = not before.startswith("/") or " " in before
        if is_name and self._local.roster.knows_commands:
            self._ask_names(before)
        return self._local.complete(before)

    def _ask_names(self, before: str) -> None:
        """Ask for the names, unless that was lately. When the answer comes, complete once more."""
        now = time.monotonic()
        if now > self._asked_names_at + ASK_NAMES_SECONDS:
            self._asked_names_at, self._local.awaits_names = now, True
            self._typed.put(WHO)
        self._wants_names = before if self._local.awaits_names else ""

    def interrupt(self) -> None:
        """Interrupt this process, as Ctrl-C does where the kernel reads the keys. The main thread gets the signal."""
        os.kill(os.getpid(), signal.SIGINT)

    def _show_help(self) -> None:
        """Show the local commands below an answer to `/help` that isn't a room's of chatkit, or is none."""
        if self._local.awaits_help:
            for line in self._local.help_lines():
                self._note(line)

    def _note(self, text: str) -> None:
        self._show(self._painter.paint(Notice(text)))

    def _show(self, line: str) -> None:
        """Show a line, without waiting for the editor's thread: this may be it."""
        with suppress(OutputLost):  # the main thread finds out
            self.scrollback.write(line, waits=False)
