"""The server's address as arguments of a client."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatkit import ChatError
from chatkit.client.endpoint import locate
from chatkit.tls import PinnedContext, WrongCertificate
from tests.helpers.both import Connect
from tests.helpers.marks import over_tls
from tests.helpers.papers import Papers
from tests.helpers.peers import trusting
from tests.helpers.servers import Serve

PIN = "1a" * 32


@over_tls
def test_a_url_in_place_of_host_and_port(
    serve: Serve, certificate: Path, papers: Papers, connect: Connect, tls: bool
) -> None:
    """It has all that a guest needs, also the trust in one certificate; another one is refused."""
    started = serve()
    address = f"127.0.0.1:{started.port}"
    url = f"chats://{address}#{Papers.fingerprint(certificate)}" if tls else f"chat://{address}"
    connect(12345, host=url)
    assert started.events.wait_for("join")
    if tls:
        with pytest.raises(WrongCertificate):
            connect(12345, host=f"chats://{address}#{papers.fingerprint(papers.good)}")


def test_arguments_that_a_url_has_not() -> None:
    """They are as they are without one; TLS is never left out."""
    context = trusting()
    assert locate("a", 1, False) == ("a", 1, False)
    assert locate("chat://a", 1, False) == ("a", 1, False)
    assert locate("chats://[::1]:2", 1, False) == ("::1", 2, True)
    assert locate("chats://a", 1, context) == ("a", 1, context)
    _, _, pinned = locate(f"chats://a#{PIN}", 1, True)
    assert isinstance(pinned, PinnedContext)
    assert pinned.fingerprint == PIN


@pytest.mark.parametrize(
    ("url", "tls", "reason"),
    [
        ("chat://a", True, "tls needs chats://"),
        ("http://a", False, "is no address"),
        ("chats://a#1a", False, "64 hexadecimal digits"),
        (f"chats://a#{PIN}", trusting(), "a context and a fingerprint exclude each other"),
    ],
)
def test_arguments_that_contradict_each_other(url: str, tls: object, reason: str, connect: Connect) -> None:
    """They are refused, before anything is sent."""
    with pytest.raises(ValueError, match=reason) as caught:
        connect(12345, host=url, tls=tls)
    assert not isinstance(caught.value, ChatError)
