"""The file of an SQLite history: found or made, checked, locked, and put aside when it is damaged."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from chatkit.history.base import HistoryError
from chatkit.history.sqlite.queries import (
    APPLICATION_ID,
    MAX_READ_ROWS,
    VERSION,
    configure_writer,
    create,
    identify,
    migrate,
    newest_id,
    select,
)

# A moment of another program's (a backup, somebody's shell) doesn't count as trouble.
BUSY_SECONDS = 1.0

# Of the first page (https://www.sqlite.org/fileformat.html#the_database_header).
HEADER_BYTES, MAGIC = 100, b"SQLite format 3\0"
# What stands beside a database and belongs to it.
BESIDE = ("", "-wal", "-shm", "-journal")

FOREIGN = "isn't a history of chatkit; choose another file"

_REASONS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_BUSY": "another program has locked the file",
    "SQLITE_LOCKED": "another program has locked the file",
    "SQLITE_READONLY": "the file can't be written",
    "SQLITE_CANTOPEN": "the file can't be opened",
    "SQLITE_IOERR": "the disk has failed",
    "SQLITE_PERM": "the file can't be read",
}


class Damaged(HistoryError):
    """The file is a history, but its content isn't whole."""


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as HistoryError."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise Damaged(f"{path} is damaged ({error})") from None
        words = next((words for start, words in _REASONS.items() if name.startswith(start)), str(error))
        raise HistoryError(f"{words} ({path}, {name or error})") from None
    except OSError as error:
        raise HistoryError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from None


def lock(path: Path) -> int:
    """Keep every other server off this file, until `unlock` of what this gives. HistoryError: one has it already."""
    while True:
        descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise HistoryError(f"another server keeps its history in {path}") from None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # whoever had it has just removed it


def unlock(path: Path, descriptor: int) -> None:
    """Others may have the file now."""
    with suppress(OSError):
        os.unlink(f"{path}-lock")
    os.close(descriptor)


def connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    """A connection that commits each statement by itself. mode: rw or ro."""
    return sqlite3.connect(
        f"file:{quote(os.fspath(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=16,  # one for a thousand rows takes 200 KB
    )


def open_writer(path: Path, *, sync: str, log_pages: int) -> sqlite3.Connection:
    """Open a history for writing: make it if there is none, migrate it if an older chatkit wrote it.

    HistoryError: it isn't a history of ours. Damaged: it was one.
    """
    make(path)
    check(path)
    writer = connect(path)
    try:
        application_id, version = identify(writer)  # a crash may have left these in the log
        check_version(path, application_id, version)
        newest = newest_id(writer)
        select(writer, max(0, newest - MAX_READ_ROWS), newest, 1 << 30)  # at least its end can be read
        configure_writer(writer, sync=sync, log_pages=log_pages)
        if version < VERSION:
            migrate(writer)
    except BaseException:
        writer.close()
        raise
    return writer


def make(path: Path) -> None:
    """A new, empty history, if there is no file, or an empty one. Readable for its owner alone."""
    if path.exists() and not path.is_file():
        raise HistoryError(f"{path} isn't an ordinary file")  # it must not be renamed over: think of /dev/null
    if length(path):
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return
    if length(Path(f"{path}-wal")):
        raise Damaged(f"{path} is damaged (nothing but its log is left)")
    path = path.resolve()  # a link stays one
    unfinished = Path(f"{path}-new")  # killed in the middle of this, the next start finds nothing
    with suppress(FileNotFoundError):
        os.unlink(unfinished)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(unfinished)
    try:
        create(connection, secrets.token_hex(8))
        connection.close()
        os.rename(unfinished, path)
    except BaseException:
        connection.close()
        os.unlink(unfinished)
        raise


def check(path: Path) -> None:
    """HistoryError: the file isn't a history of ours. Damaged: it was one."""
    header = _header(path)
    if not header.strip(b"\0"):
        raise Damaged(f"{path} is damaged (it begins with zeros)")
    if not header.startswith(MAGIC):
        raise HistoryError(f"{path} {FOREIGN}")
    check_version(path, int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big"))
    page_bytes, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
    is_whole = path.stat().st_size >= pages * (65536 if page_bytes == 1 else page_bytes)
    if not is_whole and not length(Path(f"{path}-wal")):  # else the log may have the rest
        raise Damaged(f"{path} is damaged (its end is missing)")


def check_version(path: str | Path, application_id: int, version: int) -> None:
    """Raise HistoryError unless these are a history's, of a version that this chatkit knows."""
    if application_id != APPLICATION_ID or version < 1:
        raise HistoryError(f"{path} {FOREIGN}")
    if version > VERSION:
        raise HistoryError(
            f"{path} was written by a newer chatkit (schema {version}, this one reads {VERSION}); upgrade chatkit"
        )


def put_aside(path: Path) -> Path:
    """Rename a damaged file, with what belongs to it; its new name."""
    stem = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    aside = Path(stem)
    number = 1
    while any(os.path.exists(f"{aside}{suffix}") for suffix in BESIDE):
        number += 1
        aside = Path(f"{stem}-{number}")
    for suffix in BESIDE:
        with suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
    return aside


def inode(path: Path) -> int | None:
    """Which file has this name now."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _header(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(HEADER_BYTES)


def length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
