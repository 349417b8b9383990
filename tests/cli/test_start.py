"""The modules that chat-client loads: the fewer, the sooner it is there. tests/speed/ measures the time."""

from __future__ import annotations

import subprocess
import sys
from fnmatch import fnmatch

from tests.helpers.peers import DEADLINE
from tests.helpers.servers import Serve

# Each of these takes longer to load than a plain conversation to begin.
NEVER = (
    "asyncio",
    "hashlib",
    "importlib.metadata",
    "json",
    "logging",
    "pathlib",
    "random",
    "secrets",
    "sqlite3",
    "ssl",
)
NEVER_OWN = ("chatkit.server*", "chatkit.room*", "chatkit.history*", "chatkit.tls", "chatkit.protocol.formats")
# Those of a conversation by a pipe: raise it for a module that every conversation needs, and for no other.
MAX_OWN, MAX_BESIDE_CLICK = 40, 20


def loaded_after(code: str, *arguments: str) -> set[str]:
    """Return the names of the modules that a program has loaded at its end."""
    tell = "import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules))\n"
    command = [sys.executable, "-c", tell + code, *arguments]
    done = subprocess.run(command, input="hi\n", capture_output=True, text=True, check=True, timeout=DEADLINE)
    return set(done.stdout.rpartition("\n ")[2].split())


def test_a_conversation_loads_little(serve: Serve) -> None:
    """Neither the server nor what TLS, JSON, a history or asyncio need; and no more of the rest than today."""
    started = serve(replay=1)
    started.peer().send(b"said before\n")
    started.events.wait_for("message")
    click = loaded_after("import click")
    loaded = loaded_after("from chatkit.cli.client.main import main; main()", "--port", str(started.port)) - click
    assert started.events.wait_for("message").endswith(": hi")
    assert "chatkit.client.client" in loaded
    assert not loaded & set(NEVER)
    assert not [name for name in loaded for pattern in NEVER_OWN if fnmatch(name, pattern)]
    own = {name for name in loaded if name.partition(".")[0] == "chatkit"}
    assert len(own) <= MAX_OWN, sorted(own)
    assert len(loaded - own) <= MAX_BESIDE_CLICK, sorted(loaded - own)
