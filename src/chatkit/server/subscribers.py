"""Members that are told what was said before: page by page, as fast as they read, and only then what is live."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from chatkit.limits import Limits
from chatkit.room.batch import Switch
from chatkit.room.publisher import Record, Wanted
from chatkit.server.connection import Connection
from chatkit.server.connections import Keeper
from chatkit.server.replay import StandIn

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
            not replay.awaits and not replay.connection.pending_bytes for replay in replaying.values()
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
        keeper.programs.pop(member, None)
        if unfinished := keeper.replaying.pop(member, None):
            self._release(unfinished)
        if switch.first:
            keeper.write(connection, switch.first)
        replay = StandIn(connection, switch)
        if unfinished and unfinished.owes_live:
            replay.take_over(unfinished)
        if replay.after < replay.upto:
            keeper.replaying[member] = replay
        else:
            (keeper.programs if switch.json else keeper.readers)[member] = connection

    def look_after(self) -> None:
        """Go on with those that have read what they were told."""
        most = self._limits.max_pending_bytes
        for replay in list(self._keeper.replaying.values()):
            if self._holds_much(replay) and self._record.keeps_all_after(replay.upto):
                replay.leave_to_history()
            if replay.connection.is_broken:
                self._finish(replay)
            elif replay.held_bytes > most and not replay.leaving:
                reason = f"more than {most} bytes were waiting behind what was said before"
                self._keeper.cut_off(replay.connection, reason)
            elif not replay.awaits and not replay.connection.pending_bytes:
                self._ask(replay) if replay.after < replay.upto else self._finish(replay)

    def _holds_much(self, replay: StandIn) -> bool:
        """Half of what may be pending, so that at the end of the replay there is room for what follows."""
        most = self._limits.max_pending_bytes
        # Leaving messages to the history copies all that is private: not again for the next few of them.
        return replay.held_bytes > most // 2 and replay.message_bytes > most // 8 and not replay.leaving

    def _ask(self, replay: StandIn) -> None:
        replay.awaits = True
        share = ALL_PAGES_BYTES // len(self._keeper.replaying)
        max_bytes = min(MAX_PAGE_BYTES, 1 << share.bit_length() - 1)  # of few sizes, so that pages can be shared
        wanted = Wanted(replay.after, replay.upto, max_bytes, replay.json, replay.besides)
        self._record.read(wanted, partial(self._arrived, replay))

    def _arrived(self, replay: StandIn, lines: bytes, upto: int) -> None:
        self._post(partial(self._tell, replay, lines, upto))

    def _tell(self, replay: StandIn, lines: bytes, upto: int) -> None:
        if self._keeper.replaying.get(replay.member) is replay:
            replay.awaits = False
            replay.after = upto
            if lines:
                self._keeper.write(replay.connection, lines)

    def _finish(self, replay: StandIn) -> None:
        """It has been told everything: what is live meanwhile, and from now on, is next."""
        keeper = self._keeper
        del keeper.replaying[replay.member]
        if replay.last:
            keeper.write(replay.connection, replay.last)
        self._release(replay)
        if replay.leaving:
            keeper.end(replay.connection)
        else:
            (keeper.programs if replay.json else keeper.readers)[replay.member] = replay.connection

    def _release(self, replay: StandIn) -> None:
        self._keeper.bytes += sum(map(len, replay.held))
        if not replay.connection.write_pieces(replay.held):
            self._keeper.fall_behind(replay.connection)
