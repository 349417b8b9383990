"""The line at the bottom of the terminal, edited by prompt_toolkit. Loaded only when it is needed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from typing import Any, Protocol

from prompt_toolkit.application import in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, has_focus, is_searching
from prompt_toolkit.formatted_text import ANSI, AnyFormattedText
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.search import accept_search
from prompt_toolkit.shortcuts import PromptSession

from chatkit.cli.client.input_history import InputHistory
from chatkit.cli.client.local import last_word
from chatkit.cli.client.modes import TerminalModes
from chatkit.cli.client.scrollback import MAX_BATCH_CHARACTERS, Scrollback
from chatkit.cli.client.toolkit import Display, HideSecrets, History, Keyboard, NameCompleter

# Between two batches of lines: to redraw costs a millisecond or two, and an eye sees no more.
PAUSE_SECONDS = 1 / 30
# A paste of more lines asks first.
MAX_PASTED_LINES = 5


class Desk(Protocol):
    """The owner of an editor. The editor's thread calls it."""

    def prompt(self) -> str:
        """Return the prompt, which may hold escape sequences of this program."""

    def submit(self, line: str) -> bool:
        """Take a line. Return False to leave it in the editor."""

    def submit_password(self, password: str) -> None:
        """Take the answer to `Editor.ask_password`."""

    def complete(self, before: str) -> list[str]:
        """Return the words that the last word before the cursor may become."""

    def interrupt(self) -> None:
        """Ctrl-C was typed."""


class Editor:
    """The editor of one line. `run` returns at the end of input.

    Plan: one prompt_toolkit application runs all the time, since between two of them the terminal would echo. A line
    that is entered doesn't end it. The terminal's modes are those of `TerminalModes`; prompt_toolkit sets none. Lines
    of the chat are printed in batches, each of them by one write together with the redrawn prompt.

    Threads: `stop`, `resize`, `resume`, `ask_password` and `complete_again` may be called by any thread while it runs.
    """

    def __init__(
        self, desk: Desk, scrollback: Scrollback, modes: TerminalModes, history: InputHistory, *, color: bool
    ) -> None:
        self._desk = desk
        self._scrollback = scrollback
        self._modes = modes
        self._pasted: list[str] | None = None  # waits for the answer
        self._has_answered = False
        self._asks_password = False
        self._aside = Document()  # what was typed before a question
        self._loop: asyncio.AbstractEventLoop | None = None
        self._has_lines, self._is_urgent = asyncio.Event(), asyncio.Event()
        self._display = Display(color)
        self._history = History(history)
        self._session: PromptSession[None] = PromptSession(
            self._message,
            completer=NameCompleter(desk.complete),
            complete_while_typing=False,
            erase_when_done=True,
            history=self._history,
            include_default_pygments_style=False,
            input=Keyboard(sys.stdin),
            input_processors=[HideSecrets(lambda: self._asks_password)],
            key_bindings=self._bindings(),
            output=self._display,
        )
        self._buffer = self._session.default_buffer
        self._buffer.accept_handler = self._accept
        self._app = self._session.app
        self._app.terminal_size_polling_interval = None  # `resize` tells

    def run(self, begun: Callable[[], bool]) -> None:
        """Edit lines until the end of input, or until `stop`.

        Args:
            begun: called when the editor takes over. Returns False to end at once.

        Raises:
            EOFError: the terminal is gone.
        """

        def begin() -> None:
            self._loop = asyncio.get_running_loop()
            self._loop.set_exception_handler(self._failed)
            if begun():
                self._scrollback.attach(self._wake)
                self._display.mark_pastes(True)
                self._app.create_background_task(self._show_lines())
            else:
                self._app.exit()

        self._modes.raw()
        try:
            self._app.run(begin, handle_sigint=False, set_exception_handler=False)
        finally:
            self._loop = None
            self._modes.quiet()
            try:
                self._display.mark_pastes(False)
            finally:
                self._scrollback.detach()

    def stop(self) -> None:
        """End `run`."""
        self._call(self.end)

    def end(self) -> None:
        """End `run`. To be called in the editor's thread: keys that follow count no more."""
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def resize(self) -> None:
        """Draw anew for another size of the terminal."""
        self._call(self._redraw)

    def resume(self) -> None:
        """Go on after a stop by a signal: the shell has used the terminal meanwhile."""

        def resume() -> None:
            if not self._modes.is_raw:
                self._modes.raw()
                self._display.mark_pastes(True)
                self._app.renderer.reset()
                self._app.invalidate()

        self._call(resume)

    def ask_password(self) -> None:
        """Ask for the room's password in place of the next line, without showing it."""

        def ask() -> None:
            self._asks_password = True
            self._put_aside()
            self._app.invalidate()

        self._call(ask)

    def complete_again(self, before: str) -> None:
        """Complete once more, now that there are more names, if nothing was typed since."""
        self._call(lambda: self._complete() if self._buffer.document.text_before_cursor == before else None)

    def call_later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call a function after a time, if the editor still runs then. To be called in the editor's thread."""
        if self._loop:
            self._loop.call_later(seconds, function)

    def clear(self) -> None:
        """Clear the screen. To be called in the editor's thread."""
        self._app.renderer.clear()

    def _call(self, function: Callable[[], object]) -> None:
        """Call a function in the editor's thread, if it runs."""
        with suppress(RuntimeError):  # it has ended meanwhile
            if loop := self._loop:
                loop.call_soon_threadsafe(function)

    # Drawing

    def _message(self) -> AnyFormattedText:
        """Return the prompt: there is one only while something is being typed, or asked."""
        if self._pasted is not None:
            return f"Send {len(self._pasted)} lines? [y/N] "
        if self._asks_password:
            return "Password: "
        return ANSI(self._desk.prompt()) if self._buffer.text else ""

    def _wake(self) -> None:
        self._call(self._has_lines.set)

    async def _show_lines(self) -> None:
        """Print lines of the chat, batch by batch."""
        while True:
            await self._has_lines.wait()
            self._has_lines.clear()
            while text := self._scrollback.take():
                await self._print(text)
                await asyncio.sleep(0)  # for keys
                if len(text) < MAX_BATCH_CHARACTERS:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PAUSE_SECONDS):
                            await self._is_urgent.wait()
                self._is_urgent.clear()

    async def _print(self, text: str) -> None:
        """Print lines above the prompt, with one write."""
        try:
            with self._display.held():
                async with in_terminal():
                    self._display.write_lines(text)
        except OSError as error:
            self._scrollback.fail(error)
            self.end()

    def _redraw(self) -> None:
        """Erase the prompt where the terminal has moved it, and draw it for the new width."""
        screen, columns = self._app.renderer.last_rendered_screen, self._display.get_size().columns
        if screen and self._display.reflows:
            cursor = screen.get_cursor_position(self._app.layout.current_window)
            rows_per_row = -(-screen.width // columns)
            self._display.cursor_up(cursor.y * (rows_per_row - 1) + cursor.x // columns)
        self._app.renderer.erase(leave_alternate_screen=False)
        self._app.invalidate()

    # Keys

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        is_editing = has_focus(DEFAULT_BUFFER)
        is_empty = Condition(lambda: not self._buffer.text)
        is_asking = Condition(lambda: self._pasted is not None)
        bindings.add("c-c", filter=is_editing)(lambda event: self._interrupt())
        bindings.add("c-d", filter=is_editing & is_empty)(lambda event: self.end())
        bindings.add("c-z")(lambda event: self._app.create_background_task(self._suspend()))
        bindings.add("tab", filter=is_editing)(lambda event: self._complete())
        bindings.add("enter", filter=is_searching)(lambda event: self._accept_found())
        bindings.add(Keys.BracketedPaste, filter=is_editing)(self._paste)
        bindings.add(Keys.Any, filter=is_asking, eager=True)(self._answer)
        return bindings

    def _accept(self, buffer: Buffer) -> bool:
        """Hand over the line. Return whether it stays in the editor."""
        line = buffer.text
        has_answered, self._has_answered = self._has_answered, False
        self._is_urgent.set()
        if self._asks_password:
            self._asks_password = False
            self._desk.submit_password(line)
            self._take_back()
            return True
        if has_answered and not line:  # `y`, Enter
            return False
        self._history.remember(line)
        return not self._desk.submit(line)

    def _accept_found(self) -> None:
        """Hand over the line that a search has found."""
        accept_search()
        self._buffer.validate_and_handle()

    def _paste(self, event: KeyPressEvent) -> None:
        """Insert one line; send several."""
        data = event.data.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
        if "\n" not in data or self._asks_password:
            self._buffer.insert_text(data.partition("\n")[0])
            return
        document = self._buffer.document
        lines = f"{document.text_before_cursor}{data}{document.text_after_cursor}".split("\n")
        self._put_aside()
        self._pasted = lines
        if len(lines) <= MAX_PASTED_LINES:
            self._send_pasted()

    def _answer(self, event: KeyPressEvent) -> None:
        """Take one key as the answer to `Send 50 lines? [y/N]`."""
        self._has_answered = True
        if event.data in ("y", "Y"):
            self._send_pasted()
        else:
            self._pasted = None
            self._take_back()

    def _send_pasted(self) -> None:
        """Send the pasted lines. A room ignores an empty line, so a blank one has a space."""
        lines, self._pasted = self._pasted or [], None
        self._is_urgent.set()
        for line in lines:
            self._desk.submit(line or " ")

    def _put_aside(self) -> None:
        self._aside = self._buffer.document
        self._buffer.reset()

    def _take_back(self) -> None:
        self._buffer.document, self._aside = self._aside, Document()

    def _complete(self) -> None:
        """Complete the word before the cursor as far as it is certain; then show a menu."""
        if self._buffer.complete_state:
            self._buffer.complete_next()
            return
        before = self._buffer.document.text_before_cursor
        word, words = last_word(before), self._desk.complete(before)
        common = takewhile(
            lambda letters: len(set(letters)) == 1, zip(*(each.casefold() for each in words), strict=False)
        )
        if len(words) == 1:
            self._replace(word, f"{words[0]} ")
        elif (size := len(list(common))) > len(word):
            self._replace(word, words[0][:size])
        elif words:
            self._buffer.start_completion()

    def _replace(self, word: str, new: str) -> None:
        self._buffer.delete_before_cursor(len(word))
        self._buffer.insert_text(new)

    async def _suspend(self) -> None:
        """Stop this job, until the shell continues it in the foreground."""
        async with in_terminal():
            self._display.mark_pastes(False)
            try:
                self._modes.suspend()
            except OSError:
                self.end()
            self._modes.raw()
            self._display.mark_pastes(True)

    def _interrupt(self) -> None:
        self.end()
        self._desk.interrupt()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End for an error of a key's function."""
        if self._app.is_running and not self._app.is_done:
            self._app.exit(exception=context.get("exception") or RuntimeError(context["message"]))
