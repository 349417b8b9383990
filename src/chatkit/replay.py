"""Members that are told what was said before: page by page, as fast as they read, and only then what is live."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chatkit.batch import Switch
from chatkit.connection import Connection
from chatkit.keeper import Keeper
from chatkit.limits import Limits
from chatkit.record import Record
from chatkit.standin import StandIn

# A member that reads gets so much at a time; all that are told something share the second figure, so that
# ten thousand members that ask, and don't read, don't fill the memory.
MAX_PAGE_BYTES = 64 * 1024
ALL_PAGES_BYTES = 16 * 1024 * 1024


class Replays:
    """The replays of one worker; used by its thread alone.

    post(call): has the worker call it; safe from any thread.
    """

    def __init__(
        self, record: Record, limits: Limits, keeper: Keeper, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._record = record
        self._limits = limits
        self._keeper = keeper
        self._post = post

    @property
    def is_ready(self) -> bool:
        """Whether one can go on now."""
        replaying = self._keeper.replaying
        return bool(replaying) and any(
            not replay.awaits and not reader.pending_bytes for reader, replay in replaying.items()
        )

    def admit(self, switch: Switch) -> bool:
        """From here on a member that joined gets what is said, and is read; whether it is one of ours."""
        connection = self._keeper.newcomers.pop(switch.member, None)
        if not connection or connection.ending:
            return False
        self._begin(connection, switch)
        self._keeper.watch(connection)
        return True

    def switch(self, switch: Switch) -> None:
        """From here on a member, if it is one of ours, gets what is said in another encoding."""
        if connection := self._keeper.find(switch.member):
            self._begin(connection, switch)

    def _begin(self, connection: Connection, switch: Switch) -> None:
        """First what was said before."""
        keeper, member = self._keeper, switch.member
        keeper.readers.pop(member, None)
        if unfinished := keeper.replaying.pop(connection, None):
            self._write(connection, unfinished.held)
        if switch.first:
            keeper.write(connection, switch.first)
        members = keeper.programs if switch.json else keeper.readers
        if switch.after < switch.upto:
            members[member] = keeper.replaying[connection] = StandIn(connection, switch)
        else:
            members[member] = connection

    def look_after(self) -> None:
        """Go on with those that have read what they were told."""
        for connection, replay in list(self._keeper.replaying.items()):
            if connection.is_broken:
                self._finish(connection, replay)
            elif replay.held_bytes > self._limits.max_pending_bytes and not self._keeper.is_over(connection):
                most = self._limits.max_pending_bytes
                self._keeper.cut_off(connection, f"more than {most} bytes were waiting behind what was said before")
            elif not replay.awaits and not connection.pending_bytes:
                self._ask(connection, replay) if replay.after < replay.upto else self._finish(connection, replay)

    def _ask(self, connection: Connection, replay: StandIn) -> None:
        replay.awaits = True
        share = ALL_PAGES_BYTES // len(self._keeper.replaying)
        max_bytes = min(MAX_PAGE_BYTES, 1 << share.bit_length() - 1)  # of few sizes, so that pages can be shared
        arrived = partial(self._arrived, connection, replay)
        self._record.read(replay.after, replay.upto, max_bytes, as_json=replay.json, then=arrived)

    def _arrived(self, connection: Connection, replay: StandIn, lines: bytes, upto: int) -> None:
        self._post(partial(self._tell, connection, replay, lines, upto))

    def _tell(self, connection: Connection, replay: StandIn, lines: bytes, upto: int) -> None:
        if self._keeper.replaying.get(connection) is replay:
            replay.awaits = False
            replay.after = upto
            if lines:
                self._keeper.write(connection, lines)

    def _finish(self, connection: Connection, replay: StandIn) -> None:
        """It has been told everything: what is live meanwhile, and from now on, is next."""
        keeper = self._keeper
        del keeper.replaying[connection]
        for members in (keeper.readers, keeper.programs):
            if replay.member in members:
                members[replay.member] = connection
        if replay.last:
            keeper.write(connection, replay.last)
        self._write(connection, replay.held)
        if replay.leaving:
            keeper.end(connection)

    def _write(self, connection: Connection, held: list[bytes | memoryview]) -> None:
        if not connection.write_pieces(held):
            self._keeper.fall_behind(connection)
