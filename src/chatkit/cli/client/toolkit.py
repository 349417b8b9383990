"""prompt_toolkit's classes for input, output, history and completion, with the manners of a chat. Loaded late."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from prompt_toolkit import history as toolkit_history
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output

from chatkit.cli.client.input_history import InputHistory, secret_start
from chatkit.cli.client.local import last_word

# Variables of terminals that break lines anew when they become narrower: tmux, those by VTE, KDE's, kitty, Alacritty,
# Windows Terminal; the last one is set by those of macOS, VS Code and WezTerm. xterm and Linux' console move no line.
REFLOWING = "TMUX VTE_VERSION KONSOLE_VERSION KITTY_WINDOW_ID ALACRITTY_WINDOW_ID WT_SESSION TERM_PROGRAM".split()


class Keyboard(Vt100Input):
    """Standard input. `TerminalModes` sets its modes."""

    def raw_mode(self) -> AbstractContextManager[None]:
        """Set nothing."""
        return nullcontext()

    def cooked_mode(self) -> AbstractContextManager[None]:
        """Set nothing: keys that are typed while lines are printed must not be shown by the terminal."""
        return nullcontext()


class Display(Vt100_Output):
    """Standard output. Nothing is asked of the terminal: its answers would be typed into the chat.

    Attributes:
        reflows: whether the terminal breaks lines anew when it becomes narrower.
    """

    def __init__(self, color: bool) -> None:
        depth = None if color else ColorDepth.DEPTH_1_BIT
        term = os.environ.get("TERM", "")
        super().__init__(sys.stdout, _terminal_size, term=term, default_color_depth=depth, enable_cpr=False)
        self.reflows = any(map(os.environ.get, REFLOWING))
        self._is_held = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write all that comes inside `with` at its end, at once."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            self.flush()

    def flush(self) -> None:
        """Write, unless it is held."""
        if not self._is_held:
            super().flush()

    def write_lines(self, text: str) -> None:
        """Write lines of the chat, with everything in them shown that this locale can't."""
        encoding = sys.stdout.encoding
        self.write_raw(text.encode(encoding, "backslashreplace").decode(encoding))

    def mark_pastes(self, marks: bool) -> None:
        """Have the terminal mark where a paste begins and ends, or not."""
        self.write_raw("\x1b[?2004h" if marks else "\x1b[?2004l")
        self.flush()

    def enable_bracketed_paste(self) -> None:
        """Change nothing: prompt_toolkit ends the marks for each line that it prints. A paste may begin just then."""

    def disable_bracketed_paste(self) -> None:
        """Change nothing, too."""


def _terminal_size() -> Size:
    try:
        size = os.get_terminal_size(1)
    except OSError:  # it is gone
        return Size(rows=24, columns=80)
    return Size(rows=size.lines or 24, columns=size.columns or 80)


class History(toolkit_history.History):
    """The lines for Up, Down and Ctrl-R. The editor alone says which lines these are."""

    def __init__(self, file: InputHistory) -> None:
        super().__init__()
        self._file = file

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines of the file, the latest first."""
        return reversed(self._file.load())

    def append_string(self, string: str) -> None:
        """Ignore prompt_toolkit's own call."""

    def remember(self, line: str) -> None:
        """Add a line, unless it is blank, the last one again, or a secret."""
        if line.strip() and secret_start(line) is None and self._loaded_strings[:1] != [line]:
            super().append_string(line)

    def store_string(self, string: str) -> None:
        """Add a line to the file."""
        self._file.add(string)


class NameCompleter(Completer):
    """The menu of completions, for Tab."""

    def __init__(self, complete: Callable[[str], list[str]]) -> None:
        self._complete = complete

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Return the words that the last word before the cursor may become."""
        before = document.text_before_cursor
        return [Completion(word, -len(last_word(before))) for word in self._complete(before)]


class HideSecrets(Processor):
    """Stars in place of a password."""

    def __init__(self, hides_all: Callable[[], bool]) -> None:
        self._hides_all = hides_all

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """Replace each character of the secret."""
        fragments = transformation_input.fragments
        start = 0 if self._hides_all() else secret_start(transformation_input.document.text)
        if start is None:
            return Transformation(fragments)
        shown = explode_text_fragments(fragments)
        hidden = [(style, "*") if text.strip() else (style, text) for style, text, *_ in shown[start:]]
        return Transformation([*shown[:start], *hidden])
