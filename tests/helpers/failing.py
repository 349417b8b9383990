"""Failures of every step of a call: the first, the second, and so on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import chatkit

SOURCE = str(Path(chatkit.__file__).parent)

# A step that gives something back: it doesn't fail for lack of something.
RELEASING = {"close", "release", "unlink", "unregister", "__exit__"}


class Steps:
    """The calls that the library makes in this thread: of its own functions, and of functions in C.

    Attributes:
        caller: count only the calls that a function with this qualified name makes; "" for all.
        fail_at: the number of the call that raises.
        error: the exception that it raises.
        number: the number of calls so far.
        last: the last one.
    """

    def __init__(self, fail_at: int, error: BaseException, caller: str = "") -> None:
        self.caller = caller
        self.fail_at = fail_at
        self.error = error
        self.number = 0
        self.last = ""

    @property
    def has_failed(self) -> bool:
        return self.number >= self.fail_at

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count, and fail, inside of `with`."""
        before = sys.getprofile()
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "c_call") or not frame.f_code.co_filename.startswith(SOURCE):
            return
        if event == "call" and frame.f_lineno != frame.f_code.co_firstlineno:  # a generator that goes on
            return
        made_by = frame if event == "c_call" else frame.f_back
        if self.caller and (made_by is None or made_by.f_code.co_qualname != self.caller):
            return
        name = getattr(argument, "__name__", "") if event == "c_call" else frame.f_code.co_qualname
        if name in RELEASING:
            return
        self.number += 1
        if self.number == self.fail_at:
            self.last = f"{name} in {frame.f_code.co_filename.removeprefix(SOURCE)}:{frame.f_lineno}"
            sys.setprofile(None)
            raise self.error


def failure_of(call: Callable[[], object]) -> BaseException | None:
    """Call, and return the exception that it raises, without what it holds."""
    try:
        call()
    except Exception as error:
        return error.with_traceback(None)
    return None
