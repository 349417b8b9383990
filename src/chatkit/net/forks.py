"""Forked children: each has a copy of every descriptor of its parent, and none of its threads.

A copy is only closed. To end a connection, to change an epoll selector, to wake a thread or to release a lock would act
on the parent, since both share the open file behind the descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_closers: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def close_in_child(owner: T, close: Callable[[T], None]) -> None:
    """Call close(owner) in each child that this process forks, while there is such an owner.

    A living child would keep the descriptors: a port that nobody serves, a lock that nobody needs.

    Args:
        close: closes the owner's copies, without waiting for a lock: the thread that holds it isn't in the child.
    """
    _closers[owner] = close


def _close_all() -> None:
    for owner, close in list(_closers.items()):
        with suppress(OSError):  # a kqueue, which a child doesn't inherit
            close(owner)
    _closers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)
