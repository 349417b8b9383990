"""Marks of tests: needs of the machine, and variants."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest


def needs(found: object, what: str) -> pytest.MarkDecorator:
    """Marks a test that is skipped where a user lacks something, but never in CI."""
    return pytest.mark.skipif(not found and "CI" not in os.environ, reason=f"needs {what}")


def mount_works() -> bool:
    """Tell whether a command can have mounts of its own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True).returncode == 0


with_threads = pytest.mark.skipif(sys.platform == "emscripten", reason="WebAssembly has no threads")
over_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
