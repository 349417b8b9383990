"""How long to wait before an attempt to come back, and which attempt is the last."""

from __future__ import annotations

import ssl

from chatkit import ConnectionClosed, PasswordRefused, ProtocolError
from chatkit.client.backoff import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, Backoff, is_final


def test_which_attempts_are_the_last() -> None:
    """A full room or a dead network may be another one later; a password or a wrong protocol won't."""
    assert not is_final(OSError("unreachable"))
    assert not is_final(TimeoutError())
    assert not is_final(ConnectionClosed("the room is full", clean=True))
    assert is_final(PasswordRefused("wrong password"))
    assert is_final(ProtocolError("nonsense"))
    assert is_final(ssl.SSLCertVerificationError("not trusted"))
    assert not is_final(ssl.SSLError("cut"))


def test_back_off() -> None:
    """Full jitter below a bound that doubles up to its most, and begins anew only after a connection that stood."""
    asked, now = list[tuple[float, float]](), [0.0]

    def uniform(least: float, most: float) -> float:
        asked.append((least, most))
        return most / 2

    backoff = Backoff(uniform, lambda: now[0])
    assert [backoff.delay() for _ in range(10)][:3] == [FIRST_SECONDS / 2, FIRST_SECONDS, FIRST_SECONDS * 2]
    assert asked[0] == (0, FIRST_SECONDS)
    assert asked[-1] == (0, LONGEST_SECONDS)
    for stood, most in ((STEADY_SECONDS - 1, LONGEST_SECONDS), (STEADY_SECONDS, FIRST_SECONDS)):
        backoff.connected()
        now[0] += stood
        backoff.disconnected()
        backoff.delay()
        assert asked[-1] == (0, most)
