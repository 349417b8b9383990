"""Two hosts in network namespaces, for tests that only root can run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.helpers.commands import BIN, Run, Running
from tests.helpers.marks import needs

IP = shutil.which("ip") or "ip"

# The addresses of `here`; those of `there` end with 2.
ADDRESS, LINK_LOCAL = "10.123.4.1", "fe80::1%cable"


def ip(command: str) -> None:
    subprocess.run([IP, *command.split()], check=True, capture_output=True)


class Host:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, run: Run, command: str, *arguments: str, **options: Any) -> Running:
        """Start a command on this host."""
        path = command if "/" in command else str(BIN / command)
        return run(IP, "netns", "exec", self.name, path, *arguments, **options)

    def python(self, run: Run, program: str, *arguments: str) -> Running:
        """Start a program in Python on this host."""
        return self.run(run, sys.executable, "-c", program, *arguments)

    def helper(self, run: Run, module: str, *arguments: str) -> Running:
        """Start a program of tests/helpers on this host."""
        return self.run(run, sys.executable, "-m", f"tests.helpers.{module}", *arguments)

    def set_cable(self, state: str) -> None:
        """Set its end of the cable `up` or `down`."""
        ip(f"-n {self.name} link set cable {state}")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with a cable between them."""
    here, there = Host(f"chatkit{os.getpid()}a"), Host(f"chatkit{os.getpid()}b")
    with ExitStack() as stack:
        for host in (here, there):
            ip(f"netns add {host.name}")
            stack.callback(ip, f"netns del {host.name}")
        ip(f"link add cable netns {here.name} type veth peer name cable netns {there.name}")
        for number, host in enumerate((here, there), 1):
            ip(f"-n {host.name} addr add 10.123.4.{number}/24 dev cable")
            ip(f"-n {host.name} addr add fe80::{number}/64 dev cable nodad")
            ip(f"-n {host.name} link set lo up")
            host.set_cable("up")
        yield here, there


def can_make_networks() -> bool:
    if not shutil.which("ip") or os.geteuid() != 0:
        return False
    try:
        with two_hosts():
            return True
    except subprocess.CalledProcessError:
        return False


needs_networks = needs(can_make_networks(), "root, ip and network namespaces")
