"""The locks of a history: one server alone acts on its files, under whichever names they have.

| lock          | on                                | keeps out a server that starts ...                      |
|---------------|-----------------------------------|---------------------------------------------------------|
| `NameLock`    | `chat.db-lock`, beside the file   | on the same name, also while there is no file           |
| `ContentLock` | the file itself, where that works | on another name of the file: it was renamed, or linked  |

A file that has two names at once is refused: each would have a log of its own.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

from chatkit.history.base import HistoryError
from chatkit.history.sqlite.locking import lock_now
from chatkit.net.forks import close_in_child

try:
    import fcntl
except ImportError:  # Windows: a file that is open has its name, and no other server can open it under another one
    fcntl = None  # type: ignore[assignment]

# The lock of a descriptor on a part of its file, which only Linux has: fcntl(2), "Open file description locks". On BSD,
# macOS and NFS flock would lock SQLite out. A POSIX lock ends when any other descriptor of the file is closed.
SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
# The place of that lock, far behind the end of any file, and behind the bytes that SQLite locks.
PLACE = 1 << 40

MOUNTS = "/proc/self/mountinfo"


class TakenHistory(HistoryError):
    """A file that another server has locked."""


def taken_error(path: Path) -> TakenHistory:
    """Return the error for a file that is in use."""
    return TakenHistory(f"another server keeps its history in {path}; end that server, or choose another file")


class NameLock:
    """The lock of a history's name. While `is_held`, no other server acts on the files of this name.

    The lock is one of the kernel, so it ends with the process. It locks the lock file, not its name: once that
    is removed, another server can lock a new one. So no file is renamed, removed or written before a look at `is_held`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = f"{path}-lock"
        self._descriptor: int | None = None
        self._inode: int | None = None  # no other file gets it while the descriptor is open

    @property
    def is_held(self) -> bool:
        """Whether the locked file still has its name."""
        return self._inode is not None and inode_of(self._file) == self._inode

    def acquire(self) -> None:
        """Lock the file; if the lock file was removed, a new one.

        Raises:
            TakenHistory: another server has locked it.
            HistoryError: it can't be locked here.
        """
        close_in_child(self, NameLock._close)
        while not self._try():
            pass

    def _try(self) -> bool:
        """Lock the lock file. Return False if its last owner has just removed it: then it locks nothing."""
        with ExitStack() as stack:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
            stack.callback(os.close, descriptor)
            try:
                lock_now(descriptor)
            except BlockingIOError:
                raise taken_error(self._path) from None
            except OSError as error:
                raise _unlockable(self._file, error) from None
            inode = os.fstat(descriptor).st_ino
            if inode_of(self._file) != inode:
                return False
            self._close()
            self._descriptor, self._inode = descriptor, inode
            stack.pop_all()
            return True

    def check(self) -> None:
        """Raise TakenHistory unless the lock is held."""
        if not self.is_held:
            raise TakenHistory(f"the lock of {self._path} is lost")

    def release(self) -> None:
        """Let other servers have the name."""
        with suppress(OSError):
            if self.is_held:
                os.unlink(self._file)
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor, self._inode = self._descriptor, None, None
        if descriptor is not None:
            os.close(descriptor)


class ContentLock:
    """The lock of a history's file, under any name. It holds the file open.

    To close any descriptor of a file ends the locks that SQLite has on it in this process: so `release` it after
    SQLite's connections, and read the file through `descriptor` instead of opening it.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file. There must be one."""
        assert self._descriptor is not None
        return self._descriptor

    def acquire(self, path: Path) -> None:
        """Open and lock the file that has this name now, in place of the one before.

        Raises:
            TakenHistory: another server has locked it.
            HistoryError: it can't be locked here.
            OSError: it can't be opened for reading and writing.
        """
        close_in_child(self, ContentLock.release)
        if self._descriptor is not None and os.fstat(self._descriptor).st_ino == inode_of(path):
            return
        with ExitStack() as stack:
            descriptor = os.open(path, os.O_RDWR)
            stack.callback(os.close, descriptor)
            if not _lock_place(descriptor, path):
                raise taken_error(path)
            self.release()
            self._descriptor = descriptor
            stack.pop_all()

    def release(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _lock_place(descriptor: int, path: Path) -> bool:
    """Lock PLACE, where there is such a lock. Return False if another descriptor has locked it."""
    if SET_LOCK is None:
        return True
    # struct flock: l_type, l_whence, l_start, l_len, l_pid
    lock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, PLACE, 1, 0)
    try:
        fcntl.fcntl(descriptor, SET_LOCK, lock)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno != errno.EINVAL:  # a kernel that is no Linux, but looks like one, lacks it
            raise _unlockable(path, error) from None
    return True


def _unlockable(path: str | Path, error: OSError) -> HistoryError:
    reason = os.strerror(error.errno or 0)
    return HistoryError(f"{path} can't be locked: {reason}; choose a folder on another file system")


def check_place(path: Path) -> None:
    """Check a history's place.

    Raises:
        HistoryError: the name is taken by anything but an ordinary file with its log beside it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise HistoryError(f"{path} isn't an ordinary file; choose another file")
    if found.st_nlink > 1:
        raise HistoryError(f"{path} has a second name (hard link): each would have a log of its own; remove one")
    if _is_mount_point(path):
        raise HistoryError(f"{path} is mounted alone, without the files beside it; mount its folder instead")


def _is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted at a path, where the system says so (proc(5), mountinfo)."""
    escaped = os.fsencode(path).replace(b"\\", rb"\134")
    for character in b" \t\n":
        escaped = escaped.replace(bytes([character]), b"\\%03o" % character)
    try:
        with open(MOUNTS, "rb") as mounts:
            return any(line.split(b" ", 5)[4] == escaped for line in mounts)
    except OSError:
        return False


def inode_of(path: str | Path) -> int | None:
    """Return which file has this name now; None if there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
