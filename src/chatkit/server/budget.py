"""The memory of a whole server that no two members share: answers, private lines, copies of small pieces."""

from __future__ import annotations

from chatkit.limits import Limits


class Budget:
    """The bound of the private bytes of all members together.

    Plan: each worker counts its own share, in its own thread; the sum is taken when it is asked for.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._shares: list[Share] = []

    def share(self) -> Share:
        """Return a share for one more worker."""
        share = Share(self)
        self._shares.append(share)
        return share

    @property
    def is_exceeded(self) -> bool:
        """Whether the members hold more than `max_private_bytes` together."""
        return sum([share.private_bytes for share in self._shares]) > self.limits.max_private_bytes


class Share:
    """The private bytes that one worker's connections hold, pending or behind a replay; and the limits of these."""

    __slots__ = ("budget", "limits", "private_bytes")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.limits = budget.limits
        self.private_bytes = 0
