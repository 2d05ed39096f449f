"""TLS over a connected socket, without waiting where nothing has to be waited for."""

# Between the socket and OpenSSL stand two buffers in memory, so each operation on the session is synchronous: reading
# and writing can be two tasks, and need no lock. What OpenSSL has to say while it reads, as the answer to a change of
# keys, goes out in front of what is written next, which is when it is due (RFC 8446, section 4.6.3).
#
# One read of the socket is decrypted to its end at once. So nothing that could be given waits inside of TLS, where no
# poll could see it, but for what `pending` tells of.

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import TypeAlias

import trio

from ._wire import RECV_SIZE, PolledStream, SocketWire

RECORD = 16 * 1024
"""The most that one record brings (RFC 8446, section 5.1)."""

MOST_UNSAID = 16 * 1024
"""Bytes of answers to what TLS itself is asked, such as refusals to begin anew; nobody asks more than once or twice."""


class TlsWire(PolledStream):
    """A TLS session over a `SocketWire`. Begin with `do_handshake`; everything else before it raises.

    A peer that just ends the connection, without saying so, breaks it: what it has sent may have been cut.

    Args:
        wire: the connection below.
        context: what it is to be secured with.
        server_hostname: for a client, the name that the peer's certificate must have.
        server_side: whether this is the server's end.
        forgives: the peer may end the connection without saying so, as HTTPS clients do (RFC 9112, section 9.8).
    """

    def __init__(
        self,
        wire: SocketWire,
        context: ssl.SSLContext,
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
        forgives: bool = False,
    ) -> None:
        self.transport_stream = wire
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._forgives = forgives
        self._decrypted = b""
        self._end: Exception | None = None  # what reading comes to, behind what is decrypted
        self._ended = False

    @property
    def pending(self) -> bool:
        """Whether a read returns at once, though the socket may have nothing."""
        return self._ended or bool(self._decrypted)

    async def do_handshake(self) -> None:
        """Begin the session.

        Raises:
            trio.BrokenResourceError: it cannot be begun; the cause says why.
        """
        await self._agree(self._session.do_handshake)
        if self._incoming.pending:  # the first bytes came with the last of the handshake
            self._read_session()

    # Reading.

    async def wait_readable(self) -> None:
        """Wait until `receive_nowait` may have something to say."""
        if self.pending:
            await trio.lowlevel.checkpoint()
        else:
            await self.transport_stream.wait_readable()

    def receive_nowait(self, max_bytes: int = RECV_SIZE) -> bytes | None:
        """Like `receive_some`, without waiting; None if nothing that is whole has come."""
        if not self.pending:
            data = self.transport_stream.receive_nowait()
            if data is None:
                return None
            self._decrypt(data)
        data, self._decrypted = self._decrypted, b""
        if data:
            if len(data) > max_bytes:
                data, self._decrypted = data[:max_bytes], data[max_bytes:]
            return data
        if not self._ended:
            return None
        if self._end is not None:
            raise trio.BrokenResourceError("the TLS connection broke") from self._end
        return b""

    def _decrypt(self, data: bytes) -> None:
        """Decrypt all of what the socket gave."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        self._read_session()

    def _read_session(self) -> None:
        """Read all that the session can decrypt now."""
        read = self._session.read
        parts: list[bytes] = []
        try:
            while piece := read(RECORD):
                parts.append(piece)
                if not self._incoming.pending and not self._session.pending():
                    break
            else:
                self._ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLEOFError as error:
            self._ended = True
            self._end = None if self._forgives else error
        except ssl.SSLError as error:
            self._ended = True
            self._end = error
        self._decrypted = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._outgoing.pending > MOST_UNSAID:
            self._ended = True
            self._end = ssl.SSLError("the peer asks on and on, and not for data")
        if self._end is not None:
            self._say_last()

    def _say_last(self) -> None:
        """Send what OpenSSL has to say at the end, an alert or a goodbye, if that can be sent at once."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self.transport_stream.send_nowait(self._outgoing.read())

    # Writing.

    def send_nowait(self, data: bytes | bytearray | memoryview) -> bool:
        """Send what fits at once. False: there is a rest, which `flush` is to send before anything else is sent.

        Raises:
            trio.BrokenResourceError: the peer has gone, or a rest was never sent.
            trio.ClosedResourceError: this end was closed.
        """
        try:
            self._session.write(data)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError("the TLS connection broke") from error
        return self.transport_stream.send_nowait(self._outgoing.read())

    async def flush(self) -> None:
        """Send what `send_nowait` has left. If this is cancelled, nothing can be sent any more."""
        await self.transport_stream.flush()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream.send_all`."""
        await self.transport_stream.send_all(b"")  # finds out whether somebody else is sending
        if data and not self.send_nowait(data):
            await self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream.wait_send_all_might_not_block`."""
        await self.transport_stream.wait_send_all_might_not_block()

    # Ending.

    async def unwrap(self) -> None:
        """Say goodbye, and wait until the peer has done so, too (RFC 8446, section 6.1).

        Raises:
            trio.BrokenResourceError: the peer has gone, or says something else.
        """
        await self._agree(self._session.unwrap)

    async def aclose(self) -> None:
        """Say goodbye, if that can be said at once, and close the socket."""
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        self._say_last()
        await self.transport_stream.aclose()

    async def _agree(self, step: Callable[[], object]) -> None:
        """Do what takes several messages to and fro."""
        wire = self.transport_stream
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                await wire.send_all(self._outgoing.read())
                data = await wire.receive_some()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            except (ssl.SSLError, ssl.CertificateError) as error:
                with contextlib.suppress(trio.BrokenResourceError):
                    await wire.send_all(self._outgoing.read())  # the alert
                raise trio.BrokenResourceError("the TLS connection broke") from error
            else:
                await wire.send_all(self._outgoing.read())
                return


#: What HTTP is spoken over.
Wire: TypeAlias = SocketWire | TlsWire


def transport(wire: Wire) -> SocketWire:
    """The socket below, also under TLS."""
    return wire if isinstance(wire, SocketWire) else wire.transport_stream


def is_silent(wire: Wire) -> bool:
    """Whether an idle connection is open, and has nothing to say."""
    return not (wire.pending or transport(wire).is_readable())
