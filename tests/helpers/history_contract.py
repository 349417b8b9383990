"""Promises of every kind of history: a class of tests for each to inherit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatkit import Action, Message
from chatkit.history.base import History
from chatkit.protocol.sanitize import clean

TIME = 1_763_800_000.25
ALL = 10**9

texts = st.text(min_size=1).map(clean).filter(bool)
spoken = st.lists(st.tuples(st.sampled_from([Message, Action]), st.sampled_from(["ada", "51044", "zoë"]), texts))


def said(*ids: int, text: str = "x") -> list[Message]:
    return [Message("ada", text, number, TIME) for number in ids]


class HistoryContract(ABC):
    """For every kind."""

    @abstractmethod
    def make(self, folder: Path) -> History:
        """A new one, or if it outlives the process, the one that is in this folder."""

    @pytest.fixture
    def history(self, tmp_path: Path) -> Iterator[History]:
        history = self.make(tmp_path)
        history.open()
        yield history
        history.close()

    def test_a_new_one_is_empty(self, history: History) -> None:
        """Ids begin at 1, and nothing is missing."""
        assert (history.newest_id, history.unused, history.read(0, ALL, ALL)) == (0, [], [])
        assert len(history.epoch) == 16
        assert int(history.epoch, 16) >= 0

    @given(batches=st.lists(spoken, max_size=4))
    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
        deadline=None,
        max_examples=30,
    )
    def test_appended_messages_are_read(
        self, history: History, batches: list[list[tuple[type[Message], str, str]]]
    ) -> None:
        """Kind, sender, text, id and time, in order."""
        begin = history.newest_id
        everything = list[Message]()
        for batch in batches:
            first = history.newest_id + 1
            messages = [kind(sender, text, first + n, TIME + n) for n, (kind, sender, text) in enumerate(batch)]
            history.append(messages)
            everything += messages
        found = history.read(begin, ALL, ALL)
        assert found == everything
        assert [type(message) for message in found] == [type(message) for message in everything]
        assert history.newest_id == begin + len(everything)

    @pytest.mark.parametrize(
        ("after", "upto", "ids"), [(0, 5, [1, 2, 3, 4, 5]), (2, 4, [3, 4]), (5, 9, []), (4, 4, [])]
    )
    def test_read_between_two_ids(self, history: History, after: int, upto: int, ids: list[int]) -> None:
        """Above the one, up to the other."""
        history.append(said(1, 2, 3, 4, 5))
        assert [message.id for message in history.read(after, upto, ALL)] == ids

    def test_read_in_pieces(self, history: History) -> None:
        """About so many bytes, but at least one message: so whoever goes on after it gets to the end."""
        history.append(said(*range(1, 51), text="x" * 400))
        assert [message.id for message in history.read(0, ALL, 1)] == [1]
        after, pieces = 0, 0
        while piece := history.read(after, ALL, 2000):
            assert sum(len(message.text) for message in piece) <= 2400
            assert piece[0].id == after + 1
            after, pieces = piece[-1].id or 0, pieces + 1
        assert after == 50
        assert pieces <= 15

    def test_ids_that_no_message_has(self, history: History) -> None:
        """`unused` ids aren't missing, and don't count where so many messages are wanted."""
        history.append(said(1, 2, 3))
        history.skip(4, 6)
        history.append(said(7, 8))
        assert (history.newest_id, history.unused) == (8, [(4, 6)])
        assert [message.id for message in history.read(2, ALL, ALL)] == [3, 7, 8]
        assert [history.missing(*ids) for ids in ((1, 8), (4, 6), (3, 6), (8, 7))] == [5, 0, 1, 0]
        assert [history.cursor_before_last(8, number) for number in (0, 1, 2, 3, 5, 9)] == [8, 7, 6, 2, 0, 0]

    def test_looking_after_it_changes_nothing(self, history: History) -> None:
        """And comes to an end."""
        history.append(said(*range(1, 2001)))
        for _ in range(1000):
            if history.maintain(idle=True) > 0:
                break
        else:
            pytest.fail("there is always more to do")
        assert [message.id for message in history.read(1500, ALL, ALL)] == list(range(1501, 2001))


class DurableContract(HistoryContract):
    """For those that outlive the process."""

    def test_it_survives(self, history: History, tmp_path: Path) -> None:
        """Closed and opened it goes on where it was: messages and ids. Its epoch is a new one, which knows the old."""
        history.append(said(1, 2))
        history.skip(3, 3)
        history.append(said(4))
        history.close()
        again = self.make(tmp_path)
        again.open()
        assert [message.id for message in again.read(0, ALL, ALL)] == [1, 2, 4]
        assert (again.newest_id, again.unused) == (4, [(3, 3)])
        assert again.epoch != history.epoch
        assert again.earlier_epochs[history.epoch] == 4
        again.append(said(5))
        assert [message.id for message in again.read(3, ALL, ALL)] == [4, 5]
        again.close()

    def test_the_last_refused_messages_stay_away(self, history: History, tmp_path: Path) -> None:
        """Also if it was kept too late, and the end came before anything else was kept."""
        history.append(said(1))
        history.append(said(2))
        history.skip(2, 2)
        history.close()
        again = self.make(tmp_path)
        again.open()
        assert [message.id for message in again.read(0, ALL, ALL)] == [1]
        assert (again.newest_id, again.missing(1, 2)) == (2, 1)
        again.close()

    def test_messages_it_lacks_at_an_orderly_end_are_missing(self, history: History, tmp_path: Path) -> None:
        """The room had given ids up to 5, and it didn't take all of these messages."""
        history.append(said(1, 2))
        history.newest_id = 5
        history.close()
        again = self.make(tmp_path)
        again.open()
        assert (again.newest_id, again.missing(3, 5)) == (5, 3)
        again.close()
