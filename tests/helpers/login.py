"""What a room with a password asks, and what peers answer."""

from __future__ import annotations

from collections.abc import Callable

from tests.helpers.servers import Started

ASKED = b"*** this room asks for its password: type /password and the word"
IN, WRONG, OVER = b"*** you are in", b"*** wrong password", b"*** too many wrong passwords"
RIGHT, GUESS = b"/password sesame\n", b"/password open\n"
Guarded = Callable[..., Started]
