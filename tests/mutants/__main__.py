"""Apply mutants, each to a copy of the source, and tell whether their tests notice.

The exit status is 0 if every mutant turned a test red, 1 if not, or if an entry is broken.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent.parent

# Tests that wait for ever have noticed, too; without a mutant, those of an entry take a few seconds.
MAX_SECONDS = 30.0
# The deadline of each wait in a test: mutants meet it often, and the tests that are chosen for them need far less.
DEADLINE_SECONDS = 4
AT_A_TIME = 2

# The exit status of pytest if a test failed; other ones mean that it ran none (docs.pytest.org, exit codes).
PASSED, FAILED, NO_RUN = 0, 1, (2, 3, 4, 5)


def git(*arguments: str) -> str | None:
    """Return the output of git, or None if it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def changed_since(base: str) -> set[str]:
    """Return the paths that have changed since a commit; none if there is no such commit."""
    if (names := git("diff", "--name-only", base)) is None:
        print(f"there is no {base} here: no file counts as changed")
    return set((names or "").splitlines())


def choose(mutants: Sequence[Mutant], changed: set[str], most: int | None, seed: str) -> list[Mutant]:
    """Return at most `most` mutants: first those of changed source, then those of changed tests, then any others."""

    def rank(mutant: Mutant) -> int:
        tests = {f"tests/{test.partition('::')[0]}" for test in mutant.tests}
        return 0 if f"src/chatkit/{mutant.file}" in changed else 1 if tests & changed else 2

    shuffled = random.Random(seed).sample(mutants, len(mutants))
    return sorted(shuffled, key=rank)[:most]


def run_tests(tests: Sequence[str], source: Path) -> tuple[int | None, str]:
    """Run tests on the source in this folder. Returns (exit status, output); no status if they took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *[f"tests/{test}" for test in tests]],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(source), "CHATKIT_TEST_DEADLINE": str(DEADLINE_SECONDS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=MAX_SECONDS)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def try_out(mutant: Mutant) -> bool:
    """Apply a mutant to a copy, run its tests, print a line. Returns whether they notice it."""
    begun = time.monotonic()
    with TemporaryDirectory(prefix="chatkit-mutant-") as folder:
        source = Path(folder, "src")
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        path = source / "chatkit" / mutant.file
        path.write_text(mutant.applied_to(path.read_text()))
        status, output = run_tests(mutant.tests, source)
    lines = output.splitlines() or [""]
    reason = next((line for line in lines if line.startswith(("FAILED tests", "ERROR tests"))), lines[-1])
    word = "GREEN" if status == PASSED else "BROKEN" if status in NO_RUN else "red"
    reason = f"nothing within {MAX_SECONDS:g} s" if status is None else reason
    print(f"{word:6} {mutant.name:24} {time.monotonic() - begun:3.0f} s  {reason[:140]}", flush=True)
    return word == "red"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="the mutants to try; by default all")
    parser.add_argument("--changed", metavar="BASE", help="first those of files that changed since this commit")
    parser.add_argument("--most", type=int, metavar="N", help="try at most so many")
    parser.add_argument("--seconds", type=float, metavar="S", help="begin none after so long")
    parser.add_argument("--seed", metavar="S", help="for the choice; by default the hash of the commit")
    options = parser.parse_args()
    if unknown := set(options.names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no mutant is named {', '.join(sorted(unknown))}")
    mutants = [mutant for mutant in MUTANTS if mutant.name in options.names or not options.names]
    if options.most or options.changed:
        changed = changed_since(options.changed) if options.changed else set()
        mutants = choose(mutants, changed, options.most, options.seed or git("rev-parse", "HEAD") or "")
    until = time.monotonic() + options.seconds if options.seconds else None

    def in_time(mutant: Mutant) -> bool | None:
        return None if until and time.monotonic() > until else try_out(mutant)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = list(pool.map(in_time, mutants))
    print(f"{results.count(True)} red, {results.count(False)} not, {results.count(None)} not tried for lack of time")
    return int(False in results)


if __name__ == "__main__":
    sys.exit(main())
