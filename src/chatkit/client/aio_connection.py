"""One connection of an `AsyncClient`."""

from __future__ import annotations

import asyncio
import errno
import math
import socket
from collections import deque
from collections.abc import Callable
from typing import cast

from chatkit.client.backlog import Backlog
from chatkit.client.endpoint import Endpoint, new_socket
from chatkit.client.exchange import Exchange
from chatkit.client.protocol import ClientProtocol, closed_error, unanswered_error
from chatkit.errors import ChatError, ProtocolError
from chatkit.events import Event
from chatkit.net.acknowledgements import AckWatch, gone_error
from chatkit.net.sockets import Address, break_off, plain_host, reset_on_close, two_tuple
from chatkit.protocol.lines import is_exit


class StreamProtocol(asyncio.Protocol):
    """The bridge between asyncio's event loop and a `ClientProtocol`.

    Attributes:
        writable: set while the transport accepts more.
        lost: set when the connection is gone.
        has_sent_eof: whether the stream of lines was ended.
        on_change: called after each read, and at the end.
        backlog: counts what is read, and says when to stop.
    """

    def __init__(self, protocol: ClientProtocol) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = asyncio.Event()
        self.has_sent_eof = False
        self.on_change: Callable[[], None] | None = None
        self.backlog = Backlog(protocol.received)
        self._protocol = protocol
        self._transport: asyncio.Transport | None = None
        self._changed = asyncio.Event()
        self._sock: socket.socket | None = None
        self._acks: AckWatch | None = None
        self._look: asyncio.TimerHandle | None = None
        self._exit: asyncio.TimerHandle | None = None
        self._exit_seconds = math.inf

    @property
    def is_connected(self) -> bool:
        """Tell whether there is a transport; also after its end."""
        return self._transport is not None

    @property
    def transport(self) -> asyncio.Transport:
        """Return the transport. There must be one."""
        assert self._transport
        return self._transport

    @property
    def is_closing(self) -> bool:
        """Tell whether the transport is closed, or about to be."""
        return self.lost.is_set() or self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send bytes; look later whether the server acknowledges them."""
        self.transport.write(data)
        self._await_ack()

    def watch(self, sock: socket.socket, endpoint: Endpoint) -> None:
        """Look from now on whether the server acknowledges what is sent, a TLS handshake too."""
        self._sock, self._acks = sock, endpoint.ack_watch(sock)
        self._exit_seconds = endpoint.exit_seconds
        self._await_ack()

    async def wait_for_change(self) -> None:
        """Wait for the next read, or for the end."""
        self._changed.clear()
        await self._changed.wait()

    async def let_loop_find_loss(self) -> None:
        """Run the event loop once in TLS, where asyncio's transport accepts data until it has closed itself."""
        if self.transport.get_extra_info("ssl_object"):
            await asyncio.sleep(0)

    def pause_if_full(self) -> None:
        """Stop reading if too much waits for the caller.

        Before the opening is answered, and while closing, something must be read, and the protocol bounds it.
        """
        if self.backlog.is_full and self._protocol.is_open and not self.is_closing:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Undo `pause_if_full`."""
        if not self.is_closing and not self.transport.is_reading():
            self.transport.resume_reading()

    def leave(self, last: bytes = b"") -> None:
        """Write the last bytes, and end the stream of lines. The server has `exit_seconds` to end the conversation."""
        is_first, self.has_sent_eof = not self.has_sent_eof, True
        if self.is_closing or not is_first:
            return
        can_end = self.transport.can_write_eof()
        # asyncio's TLS can't end one direction alone; the room's command for the end does the same.
        if last := last or (b"" if can_end else b"exit\n"):
            self.write(last)
        if can_end:
            self.transport.write_eof()
        if self._exit_seconds < math.inf:
            self._exit = asyncio.get_running_loop().call_later(self._exit_seconds, self._give_up)

    def abort(self) -> None:
        """Close the transport at once, by a reset if data is unsent: half a line must not look whole."""
        if not self.is_connected:
            return
        if self._sock and self.transport.get_write_buffer_size():
            reset_on_close(self._sock)
        self.transport.abort()
        if not self.transport.is_closing():  # uvloop closed it before, without a word: its connect was cancelled
            self.lost.set()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its verbs alone

    def data_received(self, data: bytes) -> None:
        """Hand data to the protocol."""
        self.backlog.count(len(data))
        self._protocol.receive_data(data)
        if isinstance(self._protocol.ended, ProtocolError):
            self.transport.abort()
        self.pause_if_full()
        self._notify()

    def eof_received(self) -> None:
        """Hand the end of the stream to the protocol."""
        if not self._is_truncated():
            self._protocol.receive_data(b"")
        self._notify()

    def connection_lost(self, error: Exception | None) -> None:
        """End the conversation, if the protocol knows no earlier reason."""
        lost = error if isinstance(error, OSError) else OSError("the connection was lost")
        self._protocol.end(self._protocol.closed_by(lost))
        for timer in (self._look, self._exit):
            if timer:
                timer.cancel()
        self.lost.set()
        self.writable.set()
        self._notify()

    def pause_writing(self) -> None:
        """Make senders wait."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Let senders go on."""
        self.writable.set()

    def _await_ack(self) -> None:
        """Set the time of the next look, unless it is set."""
        if not self._look and self._acks:
            self._acks.sent()
            self._look_later(self._acks)

    def _look_later(self, acks: AckWatch) -> None:
        if acks.look_at < math.inf:
            self._look = asyncio.get_running_loop().call_later(acks.interval, self._look_now, acks)

    def _look_now(self, acks: AckWatch) -> None:
        """Look whether the server is gone. If it is, asyncio finds the socket's end, in a handshake too."""
        self._look = None
        if not acks.is_gone():
            self._look_later(acks)
        elif self._sock:
            self._protocol.end(self._protocol.closed_by(gone_error()))
            break_off(self._sock)
            self.abort()

    def _give_up(self) -> None:
        """End the conversation in place of the server."""
        self._protocol.end(unanswered_error(self._exit_seconds))
        self.abort()

    def _is_truncated(self) -> bool:
        """Tell whether TLS ended without `close_notify`, which asyncio reports as an end of stream, too."""
        if not (tls := self.transport.get_extra_info("ssl_object")):
            return False
        try:
            return bool(tls.read(1))
        except OSError as error:
            return type(error).__name__ != "SSLZeroReturnError"  # by name: a program without TLS needn't load ssl

    def _notify(self) -> None:
        self._changed.set()
        if self.on_change:
            self.on_change()


class AsyncConnection:
    """A stream and the protocol on it, opened once by `connect`."""

    def __init__(self, endpoint: Endpoint, protocol: ClientProtocol) -> None:
        self.stream = StreamProtocol(protocol)
        self._endpoint = endpoint
        self._protocol = protocol

    @property
    def address(self) -> Address:
        """Return (host, port) of this side.

        Raises:
            RuntimeError: not connected.
        """
        return two_tuple(self._connected_stream.transport.get_extra_info("sockname"))

    @property
    def received(self) -> deque[Event]:
        """Return the events that the caller hasn't taken yet."""
        return self._protocol.received

    @property
    def ended(self) -> ChatError | None:
        """Return the reason why no more events follow, or None."""
        return self._protocol.ended

    @property
    def queued(self) -> list[str]:
        """Return no lines: nothing is kept for later."""
        return []

    async def connect(self) -> None:
        """Connect, and wait for the answers to the protocol's opening. Errors as for `AsyncClient.connect`."""
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                await self._create_connection()
                if self._protocol.is_closing:
                    raise closed_error()
                self.stream.write(self._protocol.opening)
                while self._protocol.is_opening:
                    await self.stream.wait_for_change()
        except BaseException:
            self.stream.abort()
            raise

    async def send(self, text: str) -> None:
        """Send one line, as `AsyncClient.send`."""
        await self._write(self._protocol.encode(text), is_last=is_exit(text))

    async def ask(self, exchange: Exchange) -> None:
        """Send the line of an exchange. Its answers go to it. Errors as for `AsyncClient.send`."""
        await self._write(self.frame(exchange, exchange.encoded))

    def frame(self, exchange: Exchange, data: bytes) -> bytes:
        """Begin an exchange. Return the bytes to send for its line, which is encoded as `data`."""
        return self._protocol.frame(exchange, data)

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        stream = self._connected_stream
        await stream.let_loop_find_loss()
        self._raise_if_ended()
        if stream.has_sent_eof:
            raise self._protocol.closed_by(BrokenPipeError(errno.EPIPE, "nothing can be sent after send_eof"))
        (stream.leave if is_last else stream.write)(data)
        if not stream.writable.is_set():
            await stream.writable.wait()
            self._raise_if_ended()

    async def wait_for_change(self) -> None:
        """Wait for events or the end.

        Raises:
            RuntimeError: not connected.
            ConnectionClosed, ProtocolError: the conversation is over.
        """
        stream = self._connected_stream
        self._raise_if_ended()
        stream.resume_reading()
        await stream.wait_for_change()

    def leave(self) -> None:
        """End the stream of lines. The server's lines can still be received."""
        self._connected_stream.leave()

    async def close(self, grace: float | None) -> None:
        """Leave, as `AsyncClient.close`."""
        stream = self.stream
        self._protocol.begin_close()
        if not stream.is_connected:
            return  # a `connect` that is under way finds it closed
        try:
            stream.leave()
            stream.resume_reading()
            async with asyncio.timeout(grace):
                await stream.lost.wait()
        except TimeoutError:
            pass
        finally:
            self._protocol.close()
            stream.abort()
        await stream.lost.wait()

    async def discard(self) -> None:
        """Close a lost connection, and wait until nothing is left of it."""
        self.stream.abort()
        if self.stream.is_connected:
            await self.stream.lost.wait()

    def _raise_if_ended(self) -> None:
        if self._protocol.ended:
            raise self._protocol.ended.with_traceback(None)

    @property
    def _connected_stream(self) -> StreamProtocol:
        if not self.stream.is_connected:
            raise RuntimeError("the client isn't connected")
        return self.stream

    async def _create_connection(self) -> None:
        loop, endpoint, stream = asyncio.get_running_loop(), self._endpoint, self.stream
        sock = await connect(endpoint)
        stream.watch(sock, endpoint)
        if not endpoint.tls:
            await loop.create_connection(lambda: stream, sock=sock)
            return
        from chatkit.tls import client_context

        context = client_context() if isinstance(endpoint.tls, bool) else endpoint.tls
        await loop.create_connection(lambda: stream, sock=sock, ssl=context, server_hostname=endpoint.tls_name)


async def connect(endpoint: Endpoint) -> socket.socket:
    """Return a connected socket. Errors as for `chatkit.client.endpoint.connect`."""
    loop, failure = asyncio.get_running_loop(), OSError("the host has no address")
    host = plain_host(endpoint.host)
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, endpoint.port, type=socket.SOCK_STREAM):
        try:
            with new_socket(family, kind, protocol, endpoint) as sock:
                await loop.sock_connect(sock, address)
            return sock
        except OSError as error:
            failure = error
    raise failure
