"""A `Connection` inside TLS: what it does otherwise while the handshake goes on, and at its end."""

from __future__ import annotations

import selectors
import time

from chatkit.net.transport import TlsSocket
from chatkit.protocol.lines import Line
from chatkit.server.connection import Connection


class TlsConnection(Connection):
    """Batches stay shared while they are pending: they are encrypted when this member's socket can take more."""

    __slots__ = ()

    @property
    def _tls(self) -> TlsSocket:
        assert isinstance(self.sock, TlsSocket)
        return self.sock

    @property
    def ready(self) -> bool:  # type: ignore[override]  # a property here, a constant there
        """Whether the handshake is done."""
        return self._tls.ready

    def receive(self, max_bytes: int) -> list[Line]:
        was_ready = self.ready
        lines = super().receive(max_bytes)
        if self._tls.at_eof and not self.end:  # the end came with the last lines; the selector doesn't know
            lines += super().receive(max_bytes)
        if self.ready and not was_ready:
            self.flush()
        return lines

    def flush(self) -> None:
        taken_before = self._tls.taken_bytes
        if self._has_unsent:
            self._flush_socket()
        super().flush()
        if self._tls.taken_bytes > taken_before:  # a part of what is encrypted is progress, too
            self.last_sent = time.monotonic()

    @property
    def interest(self) -> int:
        """What is pending can't be written before the handshake is done; what is encrypted must be."""
        interest = super().interest
        if not self.ready:
            interest &= ~selectors.EVENT_WRITE
        return interest | (selectors.EVENT_WRITE if self._has_unsent else 0)

    @property
    def finished(self) -> bool:
        return super().finished and not self._has_unsent

    @property
    def _has_unsent(self) -> bool:
        """Whether something encrypted can still be sent."""
        return self._tls.unsent and not self.is_broken

    def _flush_socket(self) -> None:
        try:
            self._tls.flush()
        except OSError as error:
            self._failed(error)
