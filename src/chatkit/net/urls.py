"""URLs of rooms: `chat://HOST:PORT`, and with TLS `chats://HOST:PORT#FINGERPRINT`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chatkit.net.sockets import host_and_port

# A host without colons; an IPv6 address in brackets; one without them, which leaves no place for a port.
_PLACE = re.compile(
    r"([^][\s:/@?#]+|\[[^][\s/@?#]+\])(?::([0-9]{1,5}))?|([0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,}(?:%[^][\s:/@?#]+)?)"
)


@dataclass(frozen=True)
class RoomUrl:
    """A room's URL.

    Attributes:
        host: a name or an address, without brackets.
        port: None if the URL names none.
        tls: whether the room speaks TLS; None if the address doesn't say.
        fingerprint: of the one certificate to trust, None to check it in the usual way.
    """

    host: str
    port: int | None = None
    tls: bool | None = None
    fingerprint: str | None = None

    def __str__(self) -> str:
        place = host_and_port((self.host, self.port or 0)).removesuffix(":0")
        scheme = "" if self.tls is None else "chats://" if self.tls else "chat://"
        return f"{scheme}{place}{f'#{self.fingerprint}' if self.fingerprint else ''}"


def parse_url(text: str) -> RoomUrl:
    """Return the URL that a text is: a whole one, or just `HOST` or `HOST:PORT`.

    Raises:
        ValueError: it is none.
    """
    scheme, separator, rest = text.rpartition("://")
    place, has_fingerprint, fingerprint = rest.partition("#")
    match = _PLACE.fullmatch(place.removesuffix("/") if separator else place)
    is_known = scheme.lower() in ("chat", "chats") if separator else True
    port = int(match[2]) if match and match[2] else None
    if not match or not is_known or not (port is None or 1 <= port <= 65535):
        forms = "HOST, HOST:PORT, chat://HOST:PORT or chats://HOST:PORT#SHA256"
        raise ValueError(f"{text!r} is no address; write it as {forms}")
    tls = scheme.lower() == "chats" if separator else None
    if has_fingerprint and not (tls and fingerprint):
        raise ValueError(f"{text!r} is no address: a fingerprint follows the # of chats://")
    return RoomUrl((match[1] or match[3]).strip("[]"), port, tls, fingerprint or None)
