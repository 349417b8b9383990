"""Every bound of the server, in one place, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _limit(default: float | None, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's bounds. `chat-server` has one option for each, made from this class; None is no bound.

    ValueError: a value isn't above zero.
    """

    # As Apache bounds a request line (LimitRequestLine, 8190): far above what a person types.
    max_line_bytes: int = _limit(8192, "Longest line a member may send, without its line end.")
    # A hundred times the longest line: whoever sends that has lost its way, and is told so.
    max_overlong_bytes: int = _limit(1024 * 1024, "How much of a line that is too long is passed over.")
    overlong_seconds: float = _limit(10.0, "How long a line that is too long is passed over.")
    # Half of what nginx grants a request's header (client_header_timeout, 60 s); terminals send whole lines.
    line_seconds: float = _limit(30.0, "How long a line may take from its first byte to its end.")
    # The soft limit that Redis sets for subscribers (client-output-buffer-limit pubsub, 8 MB).
    # The kernel holds some 4 MB more for each member before anything is pending here.
    max_pending_bytes: int = _limit(8 * 1024 * 1024, "Bytes that may wait for a member before it is cut off.")
    # Three times what NATS grants a write (write_deadline, 10 s): a laptop may doze off for a moment.
    stall_seconds: float = _limit(30.0, "A member that takes no byte for so long, while some wait, is cut off.")
    # As Redis (maxclients, 10000). The descriptor limit may make it less.
    max_clients: int = _limit(10_000, "Members at one time; the next one is told that the room is full.")
    clients_per_address: int | None = _limit(None, "Members at one time from one address.")
    messages_per_second: float | None = _limit(None, "Lines of one member per second; what is more waits.")
    # A busy classroom's hour; at the longest lines up to 32 MB (Python takes up to 4 bytes a character).
    history_size: int = _limit(1000, "Messages that are kept in memory, for who asks for what it missed.")
    # Longer than a backup or a sync of a slow disk takes as a rule, shorter than people wait for an answer.
    history_seconds: float = _limit(
        2.0, "How long the history's file may hold up the chat, which then goes on without it."
    )
    # So long takes a handshake over a satellite, several times; who needs more, or says nothing, holds a place.
    tls_handshake_seconds: float = _limit(5.0, "How long the TLS handshake may take.")
    # A password manager, or a word from memory; half a minute would let strangers hold the room's places.
    login_seconds: float = _limit(10.0, "How long the password may take.")
    # A few round trips of a bad mobile link: one for our last lines, one for the peer's own end.
    drain_seconds: float = _limit(2.0, "How long an ended connection may take to read its last lines.")
    # A peer whose cable is pulled says nothing, not even goodbye; the kernel asks (SO_KEEPALIVE), here within a minute.
    silent_seconds: float = _limit(60.0, "A peer that the network can't reach is gone after so long at the most.")
    # Where the kernel knows TCP_USER_TIMEOUT (RFC 5482); else its own patience, some 15 minutes.
    unacknowledged_seconds: float = _limit(30.0, "A peer that acknowledges nothing that was sent for so long is gone.")

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and limit.default is None:
                continue
            if not value or not value > 0:
                raise ValueError(f"{limit.name} must be above zero, not {value!r}")
