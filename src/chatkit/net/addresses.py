"""Addresses as this project shows them: (host, port), whatever the family."""

from __future__ import annotations

import sys
from typing import Any

Address = tuple[str, int]


def two_tuple(address: Any) -> Address:
    """(host, port) of a socket's address; an IPv4 peer of an IPv6 socket shows its IPv4 address."""
    host, port, *_ = address
    if "." in host:
        host = host.removeprefix("::ffff:")
    return sys.intern(host), port  # one string for all members of one address


def host_and_port(address: Address) -> str:
    """`127.0.0.1:12345`, `[::1]:12345`."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
