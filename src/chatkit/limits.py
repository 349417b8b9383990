"""Every bound of the server, in one place, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _limit(default: float, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's bounds. `chat-server` has one option for each, made from this class.

    ValueError: a value isn't above zero.
    """

    # As Apache bounds a request line (LimitRequestLine, 8190): far above what a person types.
    max_line_bytes: int = _limit(8192, "Longest line a member may send, without its line end.")
    # The soft limit that Redis sets for subscribers (client-output-buffer-limit pubsub, 8 MB).
    # The kernel holds some 4 MB more for each member before anything is pending here.
    max_pending_bytes: int = _limit(8 * 1024 * 1024, "Bytes that may wait for a member before it is cut off.")
    # As Redis (maxclients, 10000); more needs a higher descriptor limit on most systems.
    max_clients: int = _limit(10_000, "Members at one time; the next one is told that the room is full.")
    # Three times what NATS grants a write (write_deadline, 10 s): a laptop may doze off for a moment.
    stall_seconds: float = _limit(30.0, "A member that takes no byte for so long, while some wait, is cut off.")
    # A few round trips of a bad mobile link: one for our last lines, one for the peer's own end.
    drain_seconds: float = _limit(2.0, "How long an ended connection may take to read its last lines.")

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise ValueError(f"{limit.name} must be above zero, not {getattr(self, limit.name)!r}")
