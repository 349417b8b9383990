"""Batches: shared bytes, edits for single members, merging."""

from __future__ import annotations

import random
import time

import pytest

from chatkit import Message, Notice
from chatkit.events import Joined, Left
from chatkit.protocol.formats import FORMATS, JSON, TEXT
from chatkit.room.batch import Batch, BatchBuilder, Encoded
from chatkit.room.members import Member


def test_asides_of_many_changes() -> None:
    """All that is no message, without the edits for a member, in order; in time that grows with their number only."""
    ada, number, line = Member("ada", ("", 1)), 20_000, b"*** x\n"
    cuts = [(start, start + len(line), b"") for start in range(0, number * len(line), 2 * len(line))]
    spans = [(start, start + len(line)) for start in range(0, number * len(line), len(line))]
    lines = Encoded(line * number, {ada: [*cuts, (number * len(line), number * len(line), b"private\n")]}, spans)
    lines.ephemeral_data = lines.data
    begun = time.monotonic()
    assert lines.ephemeral_for(ada) == [line] * (number // 2) + [b"private\n"]
    assert time.monotonic() - begun < 2


def test_the_bytes_for_everyone_are_shared() -> None:
    """Also by members for which it waits."""
    batch = Encoded(b"ada: x\n")
    (piece,) = batch.pieces_for(Member("bob", ("", 1)))
    assert piece is batch.data


def test_own_messages_are_in_the_history() -> None:
    """So they are no lines that no history has, also for a member that receives them."""
    ann = Member("1", ("", 1))
    ann.echo = True
    builder = BatchBuilder([JSON])
    builder.say(ann, Message("1", "mine", 1, 0.0))
    builder.tell(ann, JSON, b"told\n")
    lines = (builder.batch() or Batch()).lines(JSON)
    assert lines.pieces_for(ann) == [JSON.encode(Message("1", "mine", 1, 0.0, own=True)), b"told\n"]
    assert lines.ephemeral_for(ann) == [b"told\n"]


def test_merged_batches_read_like_one_after_the_other() -> None:
    """A member's lines of merged batches are its lines of each, in order, in both encodings."""
    ann, bob = Member("1", ("", 1)), Member("2", ("", 2))
    first = Encoded(b"1: a\n2: b\n", {ann: [(0, 5, b"")], bob: [(5, 5, b"*** y\n"), (5, 10, b"")]})
    second = Encoded(b"1: c\n", {ann: [(0, 5, b""), (5, 5, b"*** x\n")]})
    said = [Message("1", "a", 1), Message("2", "b", 2), Message("1", "c", 3)]
    batches = [
        Batch({TEXT: first, JSON: second}, said[:2], [(bob, "exit")]),
        Batch({TEXT: second}, said[2:]),
        Batch({JSON: first}),
    ]
    merged = Batch.merged(batches)
    assert (merged.messages, merged.left) == (said, [(bob, "exit")])
    for member in (ann, bob, Member("3", ("", 3))):
        for format in FORMATS:
            parts = [b"".join(batch.lines(format).pieces_for(member)) for batch in batches]
            assert b"".join(merged.lines(format).pieces_for(member)) == b"".join(parts)


def some_batch(random: random.Random, members: list[Member]) -> Batch:
    """Return a batch of lines, answers and announcements in any order."""
    builder = BatchBuilder(random.choice([(TEXT,), FORMATS]))
    for number in range(random.randrange(1, 6)):
        member = random.choice(members)
        match random.randrange(4):
            case 0:
                builder.tell(member, TEXT, TEXT.encode(Notice(f"told {number}")))
            case 1:
                builder.announce(Joined(member.name), random.choice([FORMATS, (JSON,)]), exclude=member)
            case 2:
                builder.announce(Left(member.name), FORMATS)
            case _:
                builder.say(member, Message(member.name, "é" * number or "x", number + 1, 0.0))
    return builder.batch() or Batch()


@pytest.mark.parametrize("seed", range(200))
def test_merged_batches_are_the_batches(seed: int) -> None:
    """In each format, from any part to any other, each byte is as without merging; so are the lines of no history."""
    rolls = random.Random(seed)
    here = [Member(f"m{number}", ("127.0.0.1", number)) for number in range(5)]
    for member in here[:2]:
        member.echo = True
    batches = [some_batch(rolls, here) for _ in range(8)]
    merged = Batch.merged(batches, in_parts=True)
    for member in (*here, Member("n", ("127.0.0.1", 9))):
        first, last = rolls.randrange(9), rolls.choice([*range(9), None])
        some = batches[first:last]
        for format in FORMATS:
            lines, parts = merged.lines(format), [batch.lines(format) for batch in some]
            pieces = [piece for part in parts for piece in part.pieces_for(member)]
            assert b"".join(lines.pieces_for(member, first, last)) == b"".join(pieces)
            ephemeral = [piece for part in parts for piece in part.ephemeral_for(member)]
            assert b"".join(lines.ephemeral_for(member, first, last)) == b"".join(ephemeral)
        everything = b"".join([piece for batch in batches for piece in batch.lines(TEXT).pieces_for(member)])
        assert b"".join(merged.lines(TEXT).pieces_for(member)) == everything
    assert merged.messages == [message for batch in batches for message in batch.messages]
