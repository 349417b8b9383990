"""URLs of rooms."""

from __future__ import annotations

import pytest

from chatkit.net.urls import RoomUrl, parse_url

PIN = "1a" * 32


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("chat.example", RoomUrl("chat.example")),
        ("chat.example:4000", RoomUrl("chat.example", 4000)),
        ("127.0.0.1:4000", RoomUrl("127.0.0.1", 4000)),
        ("[::1]:4000", RoomUrl("::1", 4000)),
        ("[fe80::1%eth0]", RoomUrl("fe80::1%eth0")),
        ("::1", RoomUrl("::1")),
        ("fe80::1%eth0", RoomUrl("fe80::1%eth0")),
        ("chat://chat.example", RoomUrl("chat.example", tls=False)),
        ("chat://chat.example:4000/", RoomUrl("chat.example", 4000, tls=False)),
        ("CHATS://chat.example:4000", RoomUrl("chat.example", 4000, tls=True)),
        (f"chats://[::1]:4000#{PIN}", RoomUrl("::1", 4000, True, PIN)),
        (f"chats://chat.example/#{PIN}", RoomUrl("chat.example", None, True, PIN)),
    ],
)
def test_addresses(text: str, url: RoomUrl) -> None:
    """Each form; a URL is read as it was written."""
    assert parse_url(text) == url
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":4000", "chat://", "chat://:1", "a b", "a:0", "a:65536", "a:x", "a:", "a:1:2x["),
        *("[::1", "[]:1", "::1]"),
        *("http://a", "chat:/a", "chat://a/b", "chat://u@a", "chat://a?b", "chat://chat://a", "a/", "a@b"),
        *("chat://a#1a", "a#1a", "chats://a#", "chats://#1a", "[::1]4000", "chat://x:4000:"),
    ],
)
def test_anything_else(text: str) -> None:
    """It is refused."""
    with pytest.raises(ValueError, match="is no address"):
        parse_url(text)
