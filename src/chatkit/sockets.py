"""What server and client both need of sockets and selectors."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatkit.tls_socket import TlsSocket
import struct
from contextlib import suppress

# Selectors refuse to wait for more than some weeks; who waits so long may look up once an hour.
LONGEST_WAIT_SECONDS = 3600.0


def reset_on_close(sock: socket.socket | TlsSocket) -> None:
    """From now on closing `sock` sends a reset, so that half a line never looks like a whole one and a clean end."""
    with suppress(OSError):  # some systems refuse options of a socket whose peer is gone
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
