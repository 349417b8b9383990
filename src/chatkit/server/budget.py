"""The memory of a whole server that no two members share: answers, private lines, copies of small pieces."""

from __future__ import annotations


class Budget:
    """The bound of the private bytes of all members together.

    Plan: each worker counts its own share, in its own thread; the sum is taken when it is asked for.
    """

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes = max_bytes
        self._shares: list[Share] = []

    def share(self) -> Share:
        """Return a share for one more worker."""
        share = Share(self)
        self._shares.append(share)
        return share

    @property
    def is_exceeded(self) -> bool:
        """Whether the members hold more than `max_bytes` together."""
        return sum([share.private_bytes for share in self._shares]) > self.max_bytes


class Share:
    """The private bytes that one worker's connections hold, pending or behind a replay."""

    __slots__ = ("budget", "private_bytes")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.private_bytes = 0
