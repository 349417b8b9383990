"""The lock of a file that ends with its process, on every system."""

from __future__ import annotations

import errno
import os

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    # Other programs can't read a locked byte there: so it is one that nobody reads, behind what SQLite locks itself.
    LOCKED_BYTE = 0x7FFF0000

    def lock_now(descriptor: int) -> None:
        """Lock an open file, or raise BlockingIOError if another process, or another opening of it, has locked it."""
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            raise BlockingIOError(error.errno, os.strerror(error.errno)) from None

else:

    def lock_now(descriptor: int) -> None:
        """Lock an open file, or raise BlockingIOError if another process, or another opening of it, has locked it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
