"""The room: lines in, one order for everyone, batches out. Knows no sockets.

Worker threads call `join` and `receive`. What the room then has for the members goes, as one `Batch`,
to each worker's outlet, inside the room's only lock: so every worker sees the same batches in the same order.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count
from typing import Any

from chatkit.batch import Arrival, Batch, Member
from chatkit.errors import JoinRefused
from chatkit.events import Message, Notice
from chatkit.limits import Limits
from chatkit.protocol import BadLine, Foreign, clean, encode_text

logger = logging.getLogger("chatkit")


Outlet = Callable[[Batch], None]
Hook = Callable[..., Any]

_HOOK_FAILED = "an error in the room's handler ended this conversation"


def _no_hook(argument: object, *arguments: object) -> object:
    """What a handler without this hook does: it lets everything pass."""
    return argument


class Room:
    """Members, names, order.

    handler: an object with any of `on_join(member)`, `on_message(message)`, `on_leave(member, reason)`.
        They are called one at a time, in the room's order, inside its lock: keep them quick.
        `on_message` returns the message, a changed one, or None to refuse it.
        What a hook raises is logged and ends that member's conversation, nothing else.
    """

    def __init__(self, handler: object = None, limits: Limits = Limits()) -> None:
        self.newest_id = 0
        self.max_clients = limits.max_clients
        self.refused: dict[str, int] = {}
        self._limits = limits
        self._lock = threading.Lock()
        self._outlets: list[Outlet] = []
        self._members: dict[str, Member] = {}
        self._from_address: Counter[str] = Counter()
        self._on_join: Hook = getattr(handler, "on_join", _no_hook)
        self._on_message: Hook = getattr(handler, "on_message", _no_hook)
        self._on_leave: Hook = getattr(handler, "on_leave", _no_hook)

    @property
    def members(self) -> list[Member]:
        """The members of this moment; safe to call from anywhere."""
        return list(self._members.values())

    def add_outlet(self, outlet: Outlet) -> None:
        """From now on `outlet(batch)` is called for each batch; it must not block."""
        self._outlets.append(outlet)

    def join(self, address: tuple[str, int], admitted: Callable[[Member], None]) -> None:
        """Make the peer at `address` a member and tell the caller through `admitted(member)`.

        `admitted` is called in the room's order: the batches after that call are for the new member, none before.
        JoinRefused: the room is full, or the handler failed.
        """
        with self._lock:
            if len(self._members) >= self.max_clients:
                raise self._refusal("full", "the room is full")
            if self._from_address[address[0]] >= (self._limits.clients_per_address or math.inf):
                raise self._refusal("address", "too many members from your address")
            member = Member(self._free_name(str(address[1])), address)
            self._members[member.name] = member
            try:
                self._on_join(member)
            except Exception:
                self._hook_failed()
                del self._members[member.name]
                raise self._refusal("handler", _HOOK_FAILED) from None
            self._from_address[address[0]] += 1
            admitted(member)

    def receive(self, arrivals: Iterable[Arrival]) -> None:
        """Put what arrived in the room's order and hand it out, as one batch."""
        with self._lock:
            batch, texts, size, now = Batch(), [], 0, time.time()
            for arrival in arrivals:
                if said := self._hear(arrival, batch, now):
                    text = "".join(said).encode()
                    batch.own.setdefault(arrival.member, []).append((size, size + len(text)))
                    batch.messages += len(said)
                    texts.append(text)
                    size += len(text)
            batch.text = b"".join(texts)
            self._commit(batch)

    def say(self, line: bytes) -> None:
        """An encoded line from the room itself, to every member."""
        with self._lock:
            self._commit(Batch(line))

    def remove(self, member: Member, line: bytes, reason: str) -> None:
        """End a member's conversation; `line`, encoded, is the last it gets."""
        with self._lock:
            batch = Batch(private=[(member, line)])
            self._leave(member, reason, batch)
            self._commit(batch)

    def _hear(self, arrival: Arrival, batch: Batch, now: float) -> list[str]:
        """The lines for everyone in what one member sent; what is for itself alone goes into `batch`."""
        member, said, end = arrival.member, list[str](), arrival.end
        if not member.present:
            return said
        for line in arrival.lines:
            if isinstance(line, BadLine):
                batch.private.append((member, encode_text(Notice(f"not sent: {line.reason}"))))
            elif isinstance(line, Foreign):
                batch.private.append((member, line.reply))
                end = f"spoke {line.protocol}"
                break
            elif line.strip() == "exit":
                end = "exit"
                break
            elif line:
                try:
                    message = self._moderated(Message(member.name, line, self.newest_id + 1, now))
                except Exception:
                    end = self._hook_failed()
                    batch.private.append((member, encode_text(Notice(_HOOK_FAILED))))
                    break
                if message:
                    self.newest_id += 1
                    said.append(f"{message}\n")
        if end:
            self._leave(member, end, batch)
        return said

    def _moderated(self, message: Message) -> Message | None:
        """What the handler makes of a message."""
        result = self._on_message(message)
        if result is None or result is message:
            return message if result else None
        if not isinstance(result, Message):
            raise TypeError(f"on_message returned {result!r}, not a Message or None")
        text = clean(result.text)
        text.encode()  # a lone surrogate can't go on the wire: the handler's error
        return replace(message, text=text) if text else None

    def _leave(self, member: Member, reason: str, batch: Batch) -> None:
        if not member.present:
            return
        member.present = False
        del self._members[member.name]
        self._from_address[member.address[0]] -= 1
        if not self._from_address[member.address[0]]:
            del self._from_address[member.address[0]]
        batch.left.append((member, reason))
        try:
            self._on_leave(member, reason)
        except Exception:
            self._hook_failed()

    def _commit(self, batch: Batch) -> None:
        """Here a history will keep the batch, and hand it out once it is safe."""
        if batch.text or batch.private or batch.left:
            for outlet in self._outlets:
                outlet(batch)

    def _hook_failed(self) -> str:
        """A hook raised: the log has the traceback, the member leaves for this reason."""
        logger.exception("the handler failed")
        return "handler error"

    def _free_name(self, wanted: str) -> str:
        """`wanted`, or `wanted-2` and so on: two hosts can use one port."""
        if wanted not in self._members:
            return wanted
        return next(name for n in count(2) if (name := f"{wanted}-{n}") not in self._members)

    def _refusal(self, code: str, reason: str) -> JoinRefused:
        self.refused[code] = self.refused.get(code, 0) + 1
        return JoinRefused(code, reason)
