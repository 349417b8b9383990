"""A disk that fails, is full, or may not be written, under a real server; and how much of it a history takes."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from chatkit.history.sqlite.store import SqliteHistory
from tests.helpers.commands import BIN, Run, Running, err_line, start_server, stop
from tests.helpers.history_files import MESSAGES, fill, indexing
from tests.helpers.marks import mount_works, needs
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve
from tests.helpers.witness import BACK, LOST, REFUSING, Talk, Talker, Witness, beside, rows, tampering, wait_until

pytestmark = pytest.mark.once

MOST_LOG_BYTES = 24 * 1024 * 1024
PRUNED, INDEXED = "SELECT min(id) FROM messages", "SELECT indexed FROM state"

tracing = needs(shutil.which("strace"), "strace")


def lacking(line: str) -> int:
    """The number that the operator is told when the history is kept again."""
    found = re.fullmatch("chat-server: " + BACK.format("([0-9]+)"), line)
    assert found, line
    return int(found[1])


@tracing
@pytest.mark.parametrize(
    ("sync", "injection", "reason"),
    [
        ("normal", "pwrite64:error=ENOSPC", "the disk is full"),
        ("normal", "pwrite64:error=EIO", "the disk has failed"),
        ("normal", "pwrite64:error=EROFS", "the disk has failed"),
        ("full", "fdatasync:error=EIO", "the disk has failed"),
    ],
)
def test_a_disk_that_fails(run: Run, talk: Talk, tmp_path: Path, sync: str, injection: str, reason: str) -> None:
    """Members notice nothing. The operator is told once, and again with the number lacking; the rest is in the file."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path), "--history-sync", sync)
    talker = talk(port)
    said = dict(zip(talker.say("before", "before, too"), ("before", "before, too"), strict=True))
    with tampering(server.process.pid, injection):
        talker.say("one", "two", "three")
        assert err_line(server).startswith(f"chat-server: {LOST}{reason}")
    assert lacking(err_line(server)) == 3
    (after,) = talker.say("after")
    talker.close()
    assert stop(server) == ""
    assert after == 6
    assert dict(rows(path)) == said | {after: "after"}


@tracing
def test_a_disk_that_fails_where_it_is_required(run: Run, talk: Talk, tmp_path: Path) -> None:
    """Each line is refused until the disk works again; a kill after that brings none of them back."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path), "--history-required", "--history-sync", "full")
    talker = talk(port)
    talker.say("before")
    with tampering(server.process.pid, "fdatasync:error=EIO"):
        talker.peer.send(b"lost\nlost\n")
        assert {talker.peer.line(), talker.peer.line()} == {b"*** not sent: the room's history can't be kept now"}
        while (line := err_line(server)).startswith("chat-server: maintenance of the history failed"):
            pass  # its commit of the search index came first
        assert line.startswith(f"chat-server: {REFUSING}")
    assert "writing to the history again" in err_line(server)
    talker.say("after")
    server.process.kill()
    server.process.communicate()
    assert [text for _, text in rows(path)] == ["before", "after"] == [text for _, text in talker.witness.seen]


@tracing
def test_ids_of_lacking_messages_are_not_given_again(run: Run, talk: Talk, tmp_path: Path) -> None:
    """After a kill while nothing can be kept, the next server's ids are above all ids that were seen."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    talker.say("before")
    with tampering(server.process.pid, "pwrite64:error=ENOSPC"):
        last = talker.say("one", "two", "three")[-1]
        server.process.kill()
        server.process.communicate()
    server, port = start_server(run, "--history", str(path))
    assert talk(port).say("after")[0] > last


@tracing
def test_a_checkpoint_that_fails(run: Run, talk: Talk, tmp_path: Path) -> None:
    """The operator is told once however long it lasts, and messages are kept all the same: they are safe in the log."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path))
    talker = talk(port)
    with tampering(server.process.pid, "fdatasync:error=EIO", "fsync:error=EIO"):
        talker.peer.send(b"".join(b"%d %s\n" % (number, b"x" * 7000) for number in range(800)))
        assert "the disk has failed" in err_line(server)
        until = time.monotonic() + 2.5  # more than two retries
        while time.monotonic() < until:
            talker.say(f"at {time.monotonic()}")
    talker.say("after")
    talker.close()
    assert "history" not in stop(server)
    assert rows(path) == talker.witness.seen


@contextmanager
def on_a_small_disk(run: Run, folder: Path, prepare: str, *options: str) -> Iterator[tuple[Running, Path]]:
    """Yield a chat-server with its history on a disk of 1 MB, and the path of that disk from here.

    prepare: a shell command that runs before the server.
    """
    folder.mkdir()
    command = f'mount -t tmpfs -o size=1m tmpfs "{folder}" && cd "{folder}" && {prepare} && exec "$@"'
    server = [str(BIN / "chat-server"), "--port", "0", "--history", "chat.db", *options]
    running = run(shutil.which("unshare") or "unshare", "-rm", "sh", "-c", command, "sh", *server)
    yield running, Path(f"/proc/{running.process.pid}/root{folder}")


def fill_up(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


small_disks = needs(mount_works(), "mount namespaces")


@small_disks
def test_a_disk_that_is_full(run: Run, talk: Talk, tmp_path: Path) -> None:
    """The chat goes on; when there is room again messages are kept again, and the file is whole."""
    with on_a_small_disk(run, tmp_path / "disk", "true") as (server, disk):
        talker = talk(server.line().rpartition(":")[2])
        (first,) = talker.say("before")
        fill_up(disk)
        texts = [f"{number} {'x' * 1000}" for number in range(60)]
        talker.say(*texts)
        assert err_line(server).startswith(f"chat-server: {LOST}the disk is full")
        (disk / "filler").unlink()
        missing = lacking(err_line(server))
        (last,) = talker.say("after")
        for name in ("chat.db", "chat.db-wal"):
            shutil.copy(disk / name, tmp_path)  # SQLite looks for the file behind that path, which is another
        kept = rows(tmp_path / "chat.db")
        assert (kept[0], kept[-1]) == ((first, "before"), (last, "after"))
        assert len(kept) == len(talker.witness.seen) - missing
        assert set(kept) <= set(talker.witness.seen)
        talker.close()
        assert stop(server) == ""


@small_disks
def test_a_full_disk_at_the_start(run: Run, tmp_path: Path) -> None:
    """No history can be begun: one line says so, and the server doesn't start without."""
    prepare = "(yes | head -c 2000000 > filler; true) 2>/dev/null"
    with on_a_small_disk(run, tmp_path / "disk", prepare) as (server, _):
        status, out, err = server.ends()
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "Traceback" not in err


# Run a command in a namespace where nothing but the folder $1 can be written.
READ_ONLY = """
    mount --bind "$1" "$1"
    for each in / /tmp /var/tmp /dev/shm; do mount -o remount,bind,ro $each; done 2>/dev/null
    (: > /tmp/probe) 2>/dev/null || { shift; exec "$@"; }
"""


def read_only(folder: Path, *command: str) -> list[str]:
    """Return a command that runs where nothing but a folder can be written."""
    program = [str(BIN / command[0]) if "/" not in command[0] else command[0], *command[1:]]
    return [shutil.which("unshare") or "unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(folder), *program]


def read_only_works() -> bool:
    if not mount_works():
        return False
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(read_only(Path(folder), "/bin/true"), capture_output=True).returncode == 0


@needs(read_only_works(), "mount namespaces")
@indexing
def test_no_folder_for_temporary_files(run: Run, talk: Talk, tmp_path: Path) -> None:
    """In a container with a read-only root every message is kept, replayed, indexed, found and pruned all the same."""
    path = tmp_path / "chat.db"
    fill(path, MESSAGES, f"deployed {'x' * 3000}")
    server = run(*read_only(tmp_path, "chat-server", "--port", "0", "--history", str(path)))
    port = server.line().rpartition(":")[2]
    talker = talk(port)
    (last,) = talker.say("asked")
    with Witness(port, 0) as asker:
        asker.wait_for("message", "asked")
    assert [number for number, _ in asker.seen] == [*range(1, last + 1)]
    wait_for(path, INDEXED, talker)
    talker.close()
    assert stop(server) == ""
    status, out, err = run(*read_only(tmp_path, "chat-history", str(path), "--grep", "deployed")).ends()
    assert (status, out.count("deployed"), err) == (0, MESSAGES, "")
    server = run(*read_only(tmp_path, "chat-server", "--port", "0", "--history", str(path), "--history-keep", "10"))
    talker = talk(server.line().rpartition(":")[2])
    wait_for(path, PRUNED, talker)
    talker.close()
    assert stop(server) == ""


def wait_for(path: Path, query: str, talker: Talker) -> None:
    """Let the talker say something again and again until maintenance is done with the first messages."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        wait_until(lambda: reader.execute(query).fetchone()[0] >= MESSAGES, talker)


def test_a_file_that_may_not_be_written(run: Run, tmp_path: Path) -> None:
    """One line says so; the file is as it was, and nothing is left beside."""
    path = tmp_path / "chat.db"
    fill(path)
    path.chmod(0o400)
    before = beside(path)
    without_power = ["--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [str(BIN / "chat-server"), "--port", "0", "--history", str(path)]
    prefix = [shutil.which("setpriv") or "setpriv", *without_power] if without_power else []
    status, out, err = run(*prefix, *command).ends()
    assert (status, out, err) == (1, "", f"chat-server: {path}: Permission denied\n")
    assert beside(path) == before


def test_nobody_else_may_read_it(run: Run, talk: Talk, tmp_path: Path) -> None:
    """The file and everything beside it are for their owner alone, under any umask."""
    path = tmp_path / "chat.db"
    server = run("chat-server", "--port", "0", "--history", str(path), umask=0)
    talker = talk(server.line().rpartition(":")[2])
    talker.say("secret")
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["chat.db", "chat.db-wal", "chat.db-shm", "chat.db-lock"], "0o600")
    talker.close()
    assert stop(server) == ""


def log_bytes(path: Path) -> int:
    """Of the log beside it now."""
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


@pytest.mark.parametrize("options", [[], ["--history-keep", "1000"]])
def test_a_flood_leaves_a_small_log(run: Run, talk: Talk, tmp_path: Path, options: list[str]) -> None:
    """However much is said, the log beside the file stays small; with --history-keep the file does, too."""
    path = tmp_path / "chat.db"
    server, port = start_server(run, "--history", str(path), *options)
    traffic = run(sys.executable, "-m", "tests.helpers.traffic", port, "2", str(1 << 28), cwd=Path(__file__).parents[2])
    most = 0
    while traffic.process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            traffic.process.wait(0.02)
        most = max(most, log_bytes(path), path.stat().st_size if options else 0)
    sent = int(traffic.ends()[1])
    assert 0 < most < MOST_LOG_BYTES
    talk(port).say("after")
    assert "history" not in stop(server)
    kept = len(rows(path))
    assert 1000 <= kept < 10_000 if options else kept == sent + len(["end", "after"])


@pytest.mark.parametrize(("keep", "done"), [(10, PRUNED), pytest.param(None, INDEXED, marks=indexing)])
def test_maintenance_leaves_a_small_log(serve: Serve, talk: Talk, tmp_path: Path, keep: int | None, done: str) -> None:
    """Pruning, or indexing, a long history isn't one long log."""
    path = tmp_path / "chat.db"
    fill(path, 200_000)
    talker = talk(serve(history=SqliteHistory(path, keep=keep)).port)
    talker.say("begin")
    most, until = 0, time.monotonic() + 2 * DEADLINE
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
        while reader.execute(done).fetchone()[0] < 199_000:
            assert time.monotonic() < until
            talker.witness.look(0.05)
            most = max(most, log_bytes(path))
    assert 0 < most < MOST_LOG_BYTES
