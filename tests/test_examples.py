"""The examples and the code in the documents do what they say."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatkit import Client, Server
from chatkit.testing import ChatRoom
from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Started

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# These have code of another kind, and tests of their own (tests/test_project.py).
ELSEWHERE = ("api.md", "protocol.md")


def blocks() -> list[Any]:
    """Return each block of Python in docs/."""
    found = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name not in ELSEWHERE:
            for number, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)):
                found.append(pytest.param(code, id=f"{path.name} {number}"))
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path: Path) -> None:
    """Under 45 lines each."""
    assert len(path.read_text().splitlines()) < 45


def example(name: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_echo_bot(serve: Callable[..., Started]) -> None:
    """It answers, and ends with the room."""
    started = serve()
    with example("echo_bot.py", str(started.port)) as bot:
        started.events.wait_for("join")
        peer = started.peer()
        peer.send(b"not this\n!echo hello\n")
        assert peer.line().endswith(f": {peer.name} says hello".encode())
        peer.close()
        started.server.shutdown()
        assert bot.communicate(timeout=DEADLINE) == ("", "")
        assert bot.returncode == 0


def test_log_room(serve: Callable[..., Started], tmp_path: Path) -> None:
    """Every line is in the file, with a time."""
    started = serve()
    with example("log_room.py", str(tmp_path / "log"), str(started.port)) as log:
        started.events.wait_for("join")
        started.peer().send(b"one\ntwo\n")
        assert [started.events.wait_for("message") for _ in range(2)]
        started.server.shutdown()
        assert log.communicate(timeout=DEADLINE) == ("", "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert [re.sub(r"^[-0-9]{10} [:0-9]{8} [0-9]+: ", "", line) for line in lines] == ["one", "two"]


def test_room_in_a_program() -> None:
    """It greets, lowers shouting, and counts at Ctrl-C."""
    with example("room_in_a_program.py", "0") as program:
        assert program.stdout
        port = int(program.stdout.readline().split()[-1])
        with Client(port=port) as ann:
            assert ann.receive(DEADLINE).text == f"welcome, {ann.address[1]}"
            with Client(port=port) as bob:
                bob.send("HELLO")
                assert ann.receive(DEADLINE).text == f"welcome, {bob.address[1]}"
                assert ann.receive(DEADLINE).text == "hello"
        program.send_signal(2)
        assert program.communicate(timeout=DEADLINE) == ("1 messages\n", "")


def test_time_bot(chat_room: ChatRoom) -> None:
    """It has a name, and tells the time to each asker alone."""
    ann, bob = chat_room.join(2)
    with example("time_bot.py", str(chat_room.server.port)) as bot:
        while "clock" not in [member.name for member in chat_room.server.members]:
            ann.sync()
        ann.send("!time")
        assert re.fullmatch(r"clock \(private\): it is [0-9]{2}:[0-9]{2}", str(ann.receive()))
        bob.expect("!time", sender=ann)
        bob.expect_nothing()
        chat_room.server.shutdown()
        assert bot.communicate(timeout=DEADLINE) == ("", "")
        assert bot.returncode == 0


def test_moderation() -> None:
    """Bad words reach nobody; their sender is told, and the third time removed."""
    moderation = runpy.run_path(str(ROOT / "examples/moderation.py"))["Moderation"]()
    with Server(port=0, handler=moderation) as moderation.server, ChatRoom(moderation.server) as room:
        ann, bob = room.join(2)
        ann.send("Darn it")
        ann.expect("not sent: mind your words")
        ann.send("/nick ada")
        ann.expect("you are now ada")
        ann.send(f"/msg {bob.name} what the heck")
        ann.expect("not sent: mind your words")
        ann.send("fine")
        bob.expect("fine", sender="ada")
        ann.send("/me says darn")
        ann.expect("not sent: mind your words")
        ann.expect("three times is enough")
        assert list(ann) == []
        bob.expect_nothing()


def test_bridge() -> None:
    """Messages of one room are told in the other, both ways; the bridge ends with one of the rooms."""
    with Server(port=0) as here, Server(port=0) as there, ChatRoom(here) as one, ChatRoom(there) as other:
        (ann,), (bob,) = one.join(), other.join()
        with example("bridge.py", str(here.port), str(there.port)) as bridge:
            while [member.name for server in (here, there) for member in server.members].count("bridge") < 2:
                ann.sync()
            ann.send("Hi!")
            bob.expect(f"{ann.name}: Hi!", sender="bridge")
            bob.send("/me waves")
            assert str(ann.receive()) == f"* bridge ({bob.name}) waves"
            there.shutdown()
            assert bridge.communicate(timeout=DEADLINE) == ("", "")
            assert bridge.returncode == 0


def test_the_example_of_a_test_passes() -> None:
    """With nothing but pytest and the installed plugin."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "examples/test_my_bot.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.count("2 passed")) == (0, 1), done.stdout


@pytest.mark.parametrize("code", blocks())
def test_the_code_in_the_documents_runs(code: str, tmp_path: Path) -> None:
    """As it stands there; a test runs as a test."""
    (tmp_path / "test_block.py").write_text(code)
    command = [sys.executable, "-W", "error", *(["-m", "pytest", "-q"] if "def test_" in code else [])]
    done = subprocess.run([*command, "test_block.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done


def test_the_documents_have_code() -> None:
    """Each page that shows the library at work has some."""
    found = {block.id.partition(" ")[0] for block in blocks()}
    assert found >= {"history.md", "library.md", "reconnecting.md", "tutorial.md"}


def test_the_session_in_the_tutorial(serve: Callable[..., Started]) -> None:
    """Both members see exactly the lines of the table."""
    ann, bob = serve().peers(2)

    def real(shown: str) -> list[bytes]:
        line = shown.strip().strip("`").replace("51044", ann.name).replace("51045", bob.name)
        return [line.encode()] if line else []

    text = (ROOT / "docs/tutorial.md").read_text()
    table = text.partition("| 51044 types | 51044 sees | 51045 sees |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [[real(cell) for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert len(rows) > 5
    for (typed,), at_ann, at_bob in rows:
        ann.send(typed + b"\n")
        assert ann.lines(len(at_ann)) == at_ann
        assert bob.lines(len(at_bob)) == at_bob
    ann.send(b"exit\n")
    assert ann.rest() == b""
    bob.send(b"exit\n")
    assert bob.rest() == b""
