"""Memory and time of a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def cpu_seconds(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
