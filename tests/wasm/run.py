"""Run the tests without sockets and threads on CPython 3.14: python tests/wasm/run.py FOLDER [TEST ...].

The npm package pyodide has it as WebAssembly, and node runs it. FOLDER gets that package and pytest. Without node no
test is run, but in CI that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PYODIDE = "pyodide@314"  # its numbers are those of Python
PACKAGES = ["hypothesis", "jsonschema<4.18", "pytest"]  # a newer jsonschema needs a compiled package
# A wheel for any platform and Python.
PURE = "--only-binary=:all: --platform any --implementation py --abi none --python-version 3.14".split()

TESTS = ["tests/protocol", "tests/room", "tests/client/test_protocol.py", "--ignore=tests/room/test_committer.py"]
# The fixtures of the project need processes and threads.
OPTIONS = "--noconftest -p no:cacheprovider -o faulthandler_timeout=0 -q".split()


def main(folder: Path, tests: list[str]) -> int:
    """Install, run, and return the exit status."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        print("skipped: this needs node and npm")
        return 1 if "CI" in os.environ else 0
    modules, packages = folder / "node_modules" / "pyodide", folder / "packages"
    if not modules.exists():
        subprocess.run(
            [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), PYODIDE], check=True
        )
    if not packages.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), *PURE, *PACKAGES]
        subprocess.run(pip, check=True)
    return subprocess.run(
        [node, Path(__file__).with_name("run.mjs"), modules, ROOT, packages, *OPTIONS, *tests]
    ).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2:] or TESTS))
