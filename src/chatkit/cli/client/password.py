"""The question for a room's password, on a terminal, before the conversation."""

from __future__ import annotations

import os

from chatkit import PasswordRefused
from chatkit.cli.common import CHAT_CLIENT, complain, fail
from chatkit.protocol.lines import check_password
from chatkit.protocol.replies import ASKS_PASSWORD

MAX_ATTEMPTS = 3


class PasswordPrompt:
    """The password of a room, asked of the user when the room asks for it.

    Nobody is connected meanwhile, so there is all the time in the world to type it.

    Args:
        max_line_bytes: the longest line to send.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._attempts = 0

    @property
    def can_ask(self) -> bool:
        """Tell whether there is somebody to ask, and another attempt to make."""
        return os.isatty(0) and self._attempts < MAX_ATTEMPTS

    def ask(self, refusal: PasswordRefused) -> str:
        """Return the password that the user types, which is not shown."""
        from getpass import getpass

        self._attempts += 1
        if str(refusal) != ASKS_PASSWORD:
            complain(CHAT_CLIENT, str(refusal))
        try:
            os.read(0, 0)  # in the background this stops the process, as each read does
            return check_password(getpass(), self._max_line_bytes)
        except (OSError, EOFError, ValueError) as error:
            fail(CHAT_CLIENT, str(error) or "no password")
