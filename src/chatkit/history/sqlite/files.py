"""The file of an SQLite history: make, check and migrate it, put a damaged one aside, put its errors in words."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from chatkit.history.base import HistoryError
from chatkit.history.sqlite import queries
from chatkit.history.sqlite.locks import ContentLock, NameLock, check_place, inode_of

logger = logging.getLogger("chatkit")

# A backup, or a command in somebody's shell, locks the file for a moment: that isn't trouble yet.
BUSY_SECONDS = 1.0

# The most pages of 4 KiB in the log beside the file, unless a reader holds it. `Maintenance` does the checkpoints, in
# pauses; this bound is for its own steps, which may write more than the chat does.
LOG_PAGES = 4000

# The header of the first page: https://www.sqlite.org/fileformat.html#the_database_header
HEADER_BYTES, MAGIC = 100, b"SQLite format 3\0"
# The files that make up a database: its path with each of these behind it.
SUFFIXES = ("", "-wal", "-shm", "-journal")
# By suffix, which file it is; None if there is none.
Inodes = dict[str, int | None]

NEEDED_DESCRIPTORS = 8  # of two connections: the file, its log and its index, the folder
OTHERS = 0o077  # the bits of a file's mode for all but its owner

FOREIGN = "isn't a history of chatkit; choose another file"

_REASONS = {
    "SQLITE_FULL": "the disk is full; free some space",
    "SQLITE_BUSY": "another program has locked the file; end its transaction",
    "SQLITE_LOCKED": "another program has locked the file; end its transaction",
    "SQLITE_READONLY": "the file can't be written; check its permissions and its folder's",
    "SQLITE_CANTOPEN": "the file can't be opened; check its permissions and its folder's",
    "SQLITE_IOERR": "the disk has failed; look into the system's log",
    "SQLITE_PERM": "the file can't be read; check its permissions",
}


class DamagedHistory(HistoryError):
    """A file that is a history of chatkit, but isn't whole."""


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and the system as HistoryError, in words."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise DamagedHistory(f"{path} is damaged ({error})") from None
        raise HistoryError(f"{_reason(name) or error} ({path}, {name or error})") from None
    except OSError as error:
        raise HistoryError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from None


def _reason(name: str) -> str | None:
    """Return the reason for an error of SQLite, in words."""
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_IOERR")) and (lacking := _lack_of_descriptors()):
        return lacking
    return next((words for start, words in _REASONS.items() if name.startswith(start)), None)


def _lack_of_descriptors() -> str | None:
    """Return why this process can't open as many files as SQLite needs; None if it can. SQLite itself doesn't say."""
    try:
        with ExitStack() as stack:
            for _ in range(NEEDED_DESCRIPTORS):
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return os.strerror(error.errno or 0)
    return None


def connect(path: str | Path, *, mode: str, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """Return a connection that commits each statement by itself, and needs no folder for temporary files.

    Args:
        mode: rw, ro, or `ro&immutable=1` to take no lock and make no log beside the file.
        busy_seconds: how long to wait for a lock.
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=16,  # one for a thousand rows takes 200 KB
    )
    try:
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def open_writer(path: Path, lock: NameLock, content: ContentLock, *, sync: str) -> sqlite3.Connection:
    """Open a history for writing: make it if there is none, migrate it if an older chatkit wrote it.

    A damaged file isn't migrated: it can be put aside as it is.
    """
    create_if_missing(path, lock)
    content.acquire(path)
    check_header(path, content.descriptor)
    make_private(path, content.descriptor)
    writer = connect(path, mode="rw")
    try:
        application_id, version = queries.identify(writer)  # after a crash the log may know better than the header
        check_version(path, application_id, version)
        queries.read_end(writer)
        queries.configure_writer(writer, sync=sync, log_pages=LOG_PAGES)
        if version < queries.VERSION:
            queries.migrate(writer)
    except BaseException:
        writer.close()
        raise
    return writer


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a history for reading, and hold SQLite's lock on it.

    While this connection is open, another one that ends doesn't remove the log; and this one, read-only, never does.
    """
    reader = connect(path, mode="ro")
    try:
        queries.identify(reader)
    except BaseException:
        reader.close()
        raise
    return reader


def create_if_missing(path: Path, lock: NameLock) -> None:
    """Make a new history, readable for its owner alone, if there is no file or an empty one.

    It is made under another name and renamed at the end: killed halfway, it leaves nothing that the next start would
    take for a history.
    """
    check_place(path)  # renaming over it would replace it: think of /dev/null
    if size_of(path):
        return
    if size_of(f"{path}-wal"):
        raise DamagedHistory(f"{path} is damaged (nothing but its log is left)")
    path = path.resolve()  # a link stays one
    unfinished = Path(f"{path}-new")
    lock.check()
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = connect(unfinished, mode="rw")
    try:
        queries.create(connection, os.urandom(8).hex())
        connection.close()
        lock.check()
        os.replace(unfinished, path)
    except BaseException:
        connection.close()
        if lock.is_held:
            unfinished.unlink(missing_ok=True)
        raise


def check_header(path: Path, descriptor: int) -> None:
    """Raise HistoryError if the file isn't a history of chatkit, DamagedHistory if it was one."""
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if not header.strip(b"\0"):
        raise DamagedHistory(f"{path} is damaged (it begins with zeros)")
    if not header.startswith(MAGIC):
        raise HistoryError(f"{path} {FOREIGN}")
    check_version(path, int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))
    page_bytes, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    is_whole = os.fstat(descriptor).st_size >= pages * (65536 if page_bytes == 1 else page_bytes)
    if not is_whole and not size_of(f"{path}-wal"):  # else the log may have the rest
        raise DamagedHistory(f"{path} is damaged (its end is missing)")


def make_private(path: Path, descriptor: int) -> None:
    """Make a file, and those beside it, readable for their owner alone. Log a line if they weren't."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if not mode & OTHERS or not hasattr(os, "chown"):  # where files have no owners (Windows), the mode says nothing
        return
    try:
        os.fchmod(descriptor, mode & ~OTHERS)
        for beside in (f"{path}{suffix}" for suffix in SUFFIXES[1:]):  # SQLite makes them like the file, changes none
            with suppress(FileNotFoundError):
                os.chmod(beside, mode & ~OTHERS)
        logger.warning("%s could be read by others; now its owner alone can", path)
    except PermissionError:
        logger.warning("%s can be read by others, and belongs to another user: chmod 600 it", path)


def check_version(path: str | Path, application_id: int, version: int) -> None:
    """Raise HistoryError unless the file is a history, of a version that this chatkit knows."""
    if application_id != queries.APPLICATION_ID or version < 1:
        raise HistoryError(f"{path} {FOREIGN}")
    if version > queries.VERSION:
        known = f"schema {version}, this one reads {queries.VERSION}"
        raise HistoryError(f"{path} was written by a newer chatkit ({known}); upgrade chatkit")


def put_aside(path: Path, inodes: Inodes, lock: NameLock) -> Path:
    """Rename a damaged file together with its log. Return its new name, which no file had."""
    stem = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    aside = Path(stem)
    number = 1
    while any(os.path.exists(f"{aside}{suffix}") for suffix in SUFFIXES):
        number += 1
        aside = Path(f"{stem}-{number}")
    for suffix in SUFFIXES:
        if _is_ours(path, suffix, inodes, lock):
            os.replace(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def remove_log(path: Path, inodes: Inodes, lock: NameLock) -> None:
    """Clear away the log of a file that was renamed: a new file of this name must not take it for its own.

    A log that still has messages is renamed, never deleted.
    """
    for suffix in SUFFIXES[1:]:
        beside = Path(f"{path}{suffix}")
        if not _is_ours(path, suffix, inodes, lock):
            continue
        if suffix == "-wal" and size_of(beside):
            os.replace(beside, f"{path}.removed-{time.time_ns()}-wal")
        else:
            beside.unlink()


def _is_ours(path: Path, suffix: str, inodes: Inodes, lock: NameLock) -> bool:
    """Tell whether a name still belongs to the file that had it when `inodes` was made. Raises without the lock."""
    lock.check()
    return inodes.get(suffix) is not None and inode_of(f"{path}{suffix}") == inodes[suffix]


def inodes_of(path: Path) -> Inodes:
    """Return which files make up the database now. Their inodes are theirs alone while they are open."""
    return {suffix: inode_of(f"{path}{suffix}") for suffix in SUFFIXES}


def size_of(path: str | Path) -> int:
    """Return the file's size in bytes, 0 if there is no file."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
