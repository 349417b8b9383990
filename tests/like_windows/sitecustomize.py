"""A Python that lacks what Windows lacks: every process with this folder in PYTHONPATH begins with this module.

Taken away: `sendmsg`, `poll`, `epoll`, `fcntl`, `resource`, SIGHUP, O_CLOEXEC and owners of files.
`select` takes 512 sockets, and `selectors` has no other. Given: `msvcrt.locking`, and SIGBREAK (by SIGUSR1). The
operating system stays as it is: for Windows itself there is no substitute.
"""

from __future__ import annotations

import errno
import fcntl
import inspect
import math
import os
import select
import signal
import sys
import types
from typing import Any

SOCKETS = 512  # FD_SETSIZE of Python for Windows
TOO_MANY = "too many file descriptors in select()"


class Missing:
    """An attribute that isn't there, in place of one that can't be deleted."""

    def __get__(self, instance: object, owner: type) -> object:
        raise AttributeError("taken away")


def locking(descriptor: int, mode: int, size: int) -> None:
    """Lock or unlock as `msvcrt.locking` does: for this opening of the file, and with its errors."""
    how = fcntl.LOCK_UN if mode == MSVCRT.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def small_select(readers: Any, writers: Any, others: Any, timeout: float | None = None) -> Any:
    """Select as Windows does: few sockets, of any number; and from the library's own code nothing."""
    frame = inspect.currentframe()
    assert frame
    assert frame.f_back
    if frame.f_back.f_globals["__name__"].startswith("chatkit"):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))  # it selects by `selectors`, and sockets alone
    readers, writers = list(readers), list(writers)
    if max(len(readers), len(writers)) > SOCKETS:
        raise ValueError(TOO_MANY)
    poll = real_poll()
    wanted: dict[int, int] = {}
    for each in readers:
        wanted[number_of(each)] = select.POLLIN
    for each in writers:
        wanted[number_of(each)] = wanted.get(number_of(each), 0) | select.POLLOUT
    for number, events in wanted.items():
        poll.register(number, events)
    ready = dict(poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000))))
    return [
        [each for each in readers if ready.get(number_of(each), 0) & ~select.POLLOUT],
        [each for each in writers if ready.get(number_of(each), 0) & ~select.POLLIN],
        [],
    ]


def number_of(descriptor: Any) -> int:
    return descriptor if isinstance(descriptor, int) else int(descriptor.fileno())


real_poll = select.poll
select.select = staticmethod(small_select)  # which isn't bound to a class
for name in ("poll", "epoll"):
    delattr(select, name)
del signal.SIGHUP
signal.SIGBREAK = signal.SIGUSR1  # type: ignore[attr-defined]
for name in ("O_CLOEXEC", "chown", "fchmod"):
    delattr(os, name)
for name in ("fcntl", "resource"):
    sys.modules[name] = None  # type: ignore[assignment]

# Only now: these look at what there is.
import socket
import subprocess  # noqa: F401  # Python 3.11 tells systems apart by the next module

for name in ("sendmsg", "recvmsg"):
    setattr(socket.socket, name, Missing())
MSVCRT: Any = types.ModuleType("msvcrt")
MSVCRT.LK_UNLCK, MSVCRT.LK_NBLCK, MSVCRT.locking = 0, 2, locking
sys.modules["msvcrt"] = MSVCRT
