"""The bounds of a server, all in one place, each with the origin of its value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

# GNU `timeout`, supervisors, and shells that signal a process group send a signal twice within microseconds. A person
# that means it twice needs longer.
SECOND_SIGNAL_SECONDS = 0.5


def _limit(default: float | None, help_text: str, least: float = 0) -> Any:
    return field(default=default, metadata={"help": help_text, "least": least})


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a server, for `Server(limits=...)`. `chat-server` has an option for each, made from this class.

    Args:
        *_bytes: sizes in bytes.
        *_seconds: durations in seconds.
        Others: counts. None, where it is the default, means no bound. `chat-server --help` describes each field.

    Raises:
        ValueError: a value isn't above zero, or `unframed_seconds` is below 0.2.
    """

    # As Apache bounds a request line (LimitRequestLine, 8190): far above what a person types.
    max_line_bytes: int = _limit(8192, "Longest line from a member, without its line end.")
    # A hundred times the longest line: more is no mistake in one line, so the member is told and disconnected.
    max_overlong_bytes: int = _limit(
        1024 * 1024, "Bytes of one overlong line to skip before its member is disconnected."
    )
    overlong_seconds: float = _limit(10.0, "Time to skip one overlong line before its member is disconnected.")
    # Half of what nginx grants a request's header (client_header_timeout, 60 s); terminals send whole lines.
    line_seconds: float = _limit(30.0, "Time for a line from its first byte to its end.")
    # Less than 0.2 s, after which Linux sends a lost packet again at the earliest, would part many lines.
    unframed_seconds: float | None = _limit(
        None,
        "Quiet time after which text without a line end counts as a line, until a peer's first line end; never by "
        "default.",
        least=0.2,
    )
    # The soft limit that Redis sets for subscribers (client-output-buffer-limit pubsub, 8 MB).
    # The kernel holds half a MiB more for each member, and the peer's own kernel what it likes.
    max_pending_bytes: int = _limit(
        8 * 1024 * 1024, "Bytes that may be pending for a member before it is disconnected."
    )
    # What 32 members may have pending, if nothing of it is shared: a small machine survives it.
    max_private_bytes: int = _limit(
        256 * 1024 * 1024,
        "Bytes of answers and private lines held for all members together; beyond it those that hold the most are "
        "disconnected.",
    )
    # Three times what NATS grants a write (write_deadline, 10 s): a laptop may doze off for a moment.
    stall_seconds: float = _limit(
        30.0, "Time without progress, while bytes are pending, before a member is disconnected."
    )
    # As Redis (maxclients, 10000). The descriptor limit may make it less.
    max_clients: int = _limit(10_000, "Members at one time; further connections are refused.")
    clients_per_address: int | None = _limit(None, "Members at one time from one address; no bound by default.")
    messages_per_second: float | None = _limit(
        None, "Rate at which a member's lines are read, in lines per second; no bound by default."
    )
    # A busy classroom's hour; at the longest lines up to 32 MB (Python takes up to 4 bytes a character).
    history_size: int = _limit(1000, "Messages kept in memory, for replays.")
    # Longer than a backup or a sync of a slow disk takes as a rule, shorter than people wait for an answer.
    history_seconds: float = _limit(
        2.0, "Time that the history's file may delay messages, before the chat goes on without it."
    )
    # Several times the handshake over a satellite; a peer that needs more, or is silent, occupies a place.
    tls_handshake_seconds: float = _limit(5.0, "Time for the TLS handshake.")
    # A password manager, or a word from memory; half a minute would let strangers hold the room's places.
    login_seconds: float = _limit(10.0, "Time for the password.")
    # A few round trips of a bad mobile link: one for our last lines, one for the peer's own end.
    drain_seconds: float = _limit(2.0, "Time for an ended connection to read its last lines.")
    # After its cable is pulled, a peer sends nothing, not even an end; the kernel asks (SO_KEEPALIVE) within a minute.
    silent_seconds: float = _limit(60.0, "Longest silence before a peer that the network can't reach is disconnected.")
    # A tunnel or a lift takes as long. Where the kernel tells nothing (TCP_INFO, TCP_USER_TIMEOUT), some 15 minutes.
    unacknowledged_seconds: float = _limit(
        30.0, "Time for a peer's kernel to answer what was sent before the peer is disconnected."
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and limit.default is None:
                continue
            if not value or not value > 0:
                raise ValueError(f"{limit.name} must be above zero, not {value!r}")
            if value < (least := limit.metadata["least"]):
                raise ValueError(f"{limit.name} must be at least {least:g}, not {value!r}")
