"""Telnet's commands in a stream, as clients send them and as nobody does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatkit.protocol.telnet import MAX_ANSWERS, TelnetFilter

IAC, SB, SE = b"\xff", b"\xff\xfa", b"\xff\xf0"
DO, DONT, WILL, WONT = b"\xff\xfd", b"\xff\xfe", b"\xff\xfb", b"\xff\xfc"
ECHO, SGA, MARK, TYPE, SIZE, SPEED, ENVIRONMENT = b"\1", b"\3", b"\6", b"\x18", b"\x1f", b"\x20", b"\x27"

# As PuTTY 0.78 begins, and as telnet of Debian 12 sends Ctrl-C: IP, DO TIMING-MARK.
PUTTY = WILL + SIZE + WILL + SPEED + WILL + TYPE + WILL + ENVIRONMENT + DO + ECHO + WILL + SGA + DO + SGA
CTRL_C = IAC + b"\xf4" + DO + MARK


def filtered(*chunks: bytes, at_start: bool = False) -> tuple[bytes, bytes]:
    """Return the data of a whole stream, and the answers."""
    telnet, data, answers = TelnetFilter(at_start=at_start), b"", b""
    for chunk in chunks:
        data += telnet.receive_data(chunk)
        answers += telnet.take_answers()
    return data + telnet.receive_eof(), answers


@pytest.mark.parametrize(
    ("stream", "data", "answers"),
    [
        (
            PUTTY,
            b"",
            DONT + SIZE + DONT + SPEED + DONT + TYPE + DONT + ENVIRONMENT + WONT + ECHO + DONT + SGA + WONT + SGA,
        ),
        (b"he" + CTRL_C + b"llo\n", b"hello\n", WILL + MARK),
        (DONT + ECHO + WONT + TYPE + b"hi\n", b"hi\n", b""),
        (IAC + b"\xf1" + IAC + b"\xec" + IAC + b"\xf2" + b"hi\n", b"hi\n", b""),
        (SB + SIZE + b"\0\x50\0\x18" + SE + b"hi\n", b"hi\n", b""),
        (SB + TYPE + IAC + IAC + b"x" + SE + b"hi\n", b"hi\n", b""),
        (SB + SIZE + b"\n" + SE + b"hi\n", SB + SIZE + b"\nhi\n", b""),
    ],
    ids=["PuTTY", "Ctrl-C", "refusals", "commands", "size", "parameters", "a line end"],
)
def test_commands_in_any_chunks(stream: bytes, data: bytes, answers: bytes) -> None:
    """Nothing of them is data, each request has one answer, and it makes no difference how the stream is cut."""
    for cut in range(len(stream)):
        assert filtered(stream[:cut], stream[cut:]) == (data, answers)
    assert filtered(*[stream[at : at + 1] for at in range(len(stream))]) == (data, answers)


@pytest.mark.parametrize(
    "data",
    [
        b"caf\xff",
        IAC + IAC + WILL[1:] + ECHO,
        b"gar\xffbage\n",
        WILL + b"\n",
        SB + b"x" * 1000,
        IAC + b"\n",
    ],
    ids=["at the end", "IAC IAC", "no command", "no option", "endless", "nothing"],
)
def test_all_else_is_data(data: bytes) -> None:
    """So it makes its line invalid, and neither a line end nor a part of a line is lost."""
    for cut in range(len(data)):
        assert filtered(data[:cut], data[cut:]) == (data, b"")


@given(
    st.lists(st.sampled_from([IAC, b"\xfa", b"\xf0", b"\xfb", b"\xfd", b"\xf4", b"\1", b"\n", b"a" * 200]), max_size=12)
)
def test_chunks_make_no_difference(pieces: list[bytes]) -> None:
    """Each piece alone, or all of them together; and every line end stays."""
    together = filtered(b"".join(pieces))
    assert filtered(*pieces) == together
    assert together[0].count(b"\n") == pieces.count(b"\n")


def test_a_stream_in_utf_16_is_data() -> None:
    """Its mark looks like a refusal. Later, that is one."""
    data = "hi\nthere\n".encode("utf-16")
    assert data.startswith(DONT)
    for cut in range(1, len(data)):
        assert filtered(data[:cut], data[cut:], at_start=True) == (data, b"")
    assert filtered(b"x\n", DONT + ECHO + b"y\n", at_start=True) == (b"x\ny\n", b"")


def test_answers_have_an_end() -> None:
    """A peer that asks on is ignored; its requests are no data still."""
    assert filtered(*[WILL + ECHO + CTRL_C] * MAX_ANSWERS) == (b"", (DONT + ECHO + WILL + MARK) * (MAX_ANSWERS // 2))
