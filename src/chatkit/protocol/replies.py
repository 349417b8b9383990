"""The sentences of the server that a client or a command recognises, in one place.

Other sentences are written where they are sent: no program depends on their words.
"""

from __future__ import annotations

from chatkit.events import Error, Notice

# A room with a password, before a connection becomes a member.
PASSWORD_COMMAND = "/password "
ASKS_PASSWORD = "this room asks for its password: type /password and the word"
ACCEPTED = "you are in"
NO_PASSWORD_NEEDED = "no password is needed"
WRONG_PASSWORD = "wrong password"
TOO_MANY_PASSWORDS = "too many wrong passwords"
TOO_MUCH_BEFORE_PASSWORD = "too much before the password"

# The last line to a connection that doesn't become a member.
ROOM_FULL = "the room is full"
ADDRESS_FULL = "too many members from your address"
NO_DESCRIPTOR = "the server has no descriptor left for you"
SPEAKS_TLS = "this port speaks TLS (chat-client --tls)"
SPEAKS_TEXT = "this port speaks plain text, not TLS"
REFUSED = "refused: "  # by a hook, and the reason
NOT_ADMITTED = (
    *(ROOM_FULL, ADDRESS_FULL, NO_DESCRIPTOR, SPEAKS_TLS, SPEAKS_TEXT, REFUSED),
    *(ASKS_PASSWORD, WRONG_PASSWORD, TOO_MANY_PASSWORDS, TOO_MUCH_BEFORE_PASSWORD),
)

# The last line to a member that exceeded a limit: this, and a reason.
CUT_OFF = "you were cut off"
# The code of the last error to a member that the operator removed: its client must not reconnect.
REMOVED = "removed"

# Before and after the earlier messages that a new member receives.
REPLAY_BEGINS, REPLAY_ENDS = Notice("before you came:"), Notice("from here on it is live")

# The last row of the answer to `/help`: usage, description.
HELP_ENDS = ("exit", "leave")

# To a member that comes back by the token of its `welcome`, and to its old connection.
RESUME_COMMAND = "/resume "
RESUMED = Notice("you are back in your place")
RESUME_UNKNOWN = Error("there is no place for this token", "unknown_token")
RESUME_EARLY = Error("it is too early for a token, after a wrong one", "too_early")
TAKEN_OVER = Error("another connection of yours has taken your place", "resumed")

NOT_SENT = "not sent: "  # and the reason
NAME_REFUSED = "name refused: "  # by a hook, and the reason
NOT_KEPT = Error(f"{NOT_SENT}the room's history can't be kept now", "not_kept")
HANDLER_FAILED = Error("an error in the room's handler ended this conversation", "handler_failed")


def now_named(name: str) -> str:
    """Return the sentence that confirms a new name."""
    return f"you are now {name}"


def unknown_command(word: str) -> str:
    """Return the sentence for a command that doesn't exist."""
    return f"unknown command /{word} (try /help)"
