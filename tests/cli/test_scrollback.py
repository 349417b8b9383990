"""The lines of the chat on their way to a terminal, without a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chatkit.cli.client.output import OutputLost
from chatkit.cli.client.scrollback import MAX_BATCH_CHARACTERS, MAX_WAITING_CHARACTERS, Scrollback
from tests.helpers.peers import DEADLINE

LINE = "x" * 999


@contextmanager
def writing(scrollback: Scrollback, number: int) -> Iterator[threading.Thread]:
    """Meanwhile a thread writes so many lines of a thousand characters."""

    def write() -> None:
        try:
            for _ in range(number):
                scrollback.write(LINE)
        except OutputLost as error:
            lost.append(error)

    lost = list[OutputLost]()
    thread = threading.Thread(target=write)
    thread.start()
    yield thread
    thread.join(DEADLINE)
    assert not thread.is_alive()


def full(scrollback: Scrollback, awake: threading.Event) -> None:
    """Fill it, up to the line that would be too much."""
    scrollback.attach(awake.set)
    for _ in range(MAX_WAITING_CHARACTERS // (len(LINE) + 1) + 1):
        scrollback.write(LINE, waits=False)
    assert awake.is_set()


def test_lines_are_printed_at_once_or_wait_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    """The editor is woken for the first of them alone."""
    scrollback, woken = Scrollback(), list[str]()
    scrollback.write("one")
    assert capsys.readouterr().out == "one\n"
    scrollback.attach(lambda: woken.append("woken"))
    for line in ("two", "three"):
        scrollback.write(line)
    assert (capsys.readouterr().out, woken) == ("", ["woken"])
    assert (scrollback.take(), scrollback.take()) == ("two\nthree\n", "")
    scrollback.write("four")
    scrollback.detach()
    scrollback.write("five")
    assert (capsys.readouterr().out, woken) == ("four\nfive\n", ["woken"] * 2)


def test_a_batch_has_a_bound() -> None:
    """So the editor looks at keys between two of them."""
    scrollback = Scrollback()
    full(scrollback, threading.Event())
    batches = list(iter(scrollback.take, ""))
    assert max(map(len, batches)) < MAX_BATCH_CHARACTERS + 1000
    assert len("".join(batches)) > MAX_WAITING_CHARACTERS


@pytest.mark.parametrize("how", ["take", "detach", "fail"])
def test_a_terminal_that_shows_nothing_makes_writers_wait(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Until lines are shown, or the end: so memory has a bound."""
    scrollback = Scrollback()
    full(scrollback, threading.Event())
    with writing(scrollback, 2) as thread:
        thread.join(0.05)
        assert thread.is_alive()
        if how == "take":
            scrollback.take()
        elif how == "detach":
            scrollback.detach()
        else:
            scrollback.fail(OSError())
    with pytest.raises(OutputLost) if how == "fail" else writing(scrollback, 0):
        scrollback.write("more", waits=False)
