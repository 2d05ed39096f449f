"""Trio streams that a pipeline filters: for whoever has a stream and wants a stream."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType

import trio

from ._items import Cancelled, Closed, End, Eof, Failed, Head, Item
from ._pipeline import Pipeline


def reset(stream: trio.abc.AsyncResource) -> None:
    """Make closing a TCP stream a reset, also under TLS: a plain close would read as a clean end.

    Other streams have no such way, and are left as they are.
    """
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        with contextlib.suppress(OSError):  # it is gone already
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Filtered:
    """What both directions share: who uses the stream, and whether it was closed."""

    def __init__(self, transport_stream: trio.abc.AsyncResource, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._busy = False
        self._closed = False

    @contextlib.contextmanager
    def _alone(self, doing: str) -> Iterator[None]:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._busy:
            raise trio.BusyResourceError(f"another task is already {doing}")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    @staticmethod
    def _bytes_of(items: Iterable[Item]) -> bytes:
        return b"".join(item for item in items if isinstance(item, bytes))


class FilteredReceiveStream(_Filtered, trio.abc.ReceiveStream):
    """A receive stream that gives what a pipeline makes of another one. It owns the other one and closes it.

    The stream ends as the pipeline does: a failure, of the transport or of a stage, is raised once all bytes before it
    were received, and again by each further call.

    Args:
        transport_stream: where the bytes come from.
        pipeline: what they flow through; used for nothing else.
        head: the head that belongs to the bytes, for stages that look at it.
    """

    def __init__(
        self, transport_stream: trio.abc.ReceiveStream, pipeline: Pipeline, *, head: Head | None = None
    ) -> None:
        super().__init__(transport_stream, pipeline)
        self.transport_stream = transport_stream
        self.head: Head | None = None
        """The head, once the stages have let it go. It does so before the first byte."""
        self._buffer = bytearray()
        if head is not None:
            self._take(pipeline.head(head))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive up to ``max_bytes``, or as much as there is. ``b""`` is a clean end, and only that.

        A cancelled call loses nothing.

        Raises:
            trio.BusyResourceError: another task is in this method; it is not disturbed.
            trio.ClosedResourceError: the stream was closed, before or meanwhile.
            Exception: what the transport, or a stage, raised.
        """
        if max_bytes is not None:
            if not isinstance(max_bytes, int):
                raise TypeError("max_bytes must be an integer or None")
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        with self._alone("receiving"):
            await trio.lowlevel.checkpoint()
            while not self._buffer and self._pipeline.ending is None:
                try:
                    data = await self.transport_stream.receive_some()
                except Exception as error:
                    self._take(self._pipeline.end(Failed(error)))
                else:
                    if not self._closed:
                        self._take(self._pipeline.feed(bytes(data)) if data else self._pipeline.end(Eof()))
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._buffer:
                size = len(self._buffer) if max_bytes is None else max_bytes
                data = bytes(self._buffer[:size])
                del self._buffer[:size]
                return data
        ending = self._pipeline.ending
        if isinstance(ending, Failed):
            raise ending.error
        return b""

    async def aclose(self) -> None:
        """Close both streams. A reader that waits gets `trio.ClosedResourceError`; stages are ended with `Closed`."""
        self._closed = True
        self._pipeline.end(Closed())
        self._buffer.clear()
        await self.transport_stream.aclose()

    def _take(self, items: Iterable[Item]) -> None:
        for item in items:
            if isinstance(item, bytes):
                self._buffer += item
            elif isinstance(item, Head):
                self.head = item


class FilteredSendStream(_Filtered, trio.abc.SendStream):
    """A send stream that sends what a pipeline makes of what it is given. It owns the other one and closes it.

    Closing it is the clean end of what was sent. If the pipeline makes a failure of that, or a call of `send_all` was
    cancelled or failed, the transport is closed forcefully, by a reset where there is one; so it is if the stream is
    closed by `trio.aclose_forcefully`, or by an ``async with`` that an exception leaves.

    Args:
        transport_stream: where the bytes go.
        pipeline: what they flow through; used for nothing else.
    """

    def __init__(self, transport_stream: trio.abc.SendStream, pipeline: Pipeline) -> None:
        super().__init__(transport_stream, pipeline)
        self.transport_stream = transport_stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send what the pipeline makes of ``data``; that may be nothing yet.

        Raises:
            trio.BusyResourceError: another task is sending; it is not disturbed.
            trio.ClosedResourceError: the stream was closed, before or meanwhile.
            trio.BrokenResourceError: the transport is broken, or a stage failed; then that is the cause.
        """
        with self._alone("sending"):
            ending = self._pipeline.ending
            if ending is not None:
                cause = ending.error if isinstance(ending, Failed) else None
                raise trio.BrokenResourceError("this stream has failed") from cause
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            out = self._bytes_of(self._pipeline.feed(bytes(data)) if data else [])
            try:
                if out:
                    await self.transport_stream.send_all(out)
            except BaseException as error:
                # How much went out is not known; nothing may follow it, least of all a clean end.
                self._pipeline.end(_end_by(error))
                raise
            ending = self._pipeline.ending
            if isinstance(ending, Failed):
                await self._abort()
                raise trio.BrokenResourceError("a stage failed") from ending.error

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream.wait_send_all_might_not_block`."""
        with self._alone("sending"):
            await self.transport_stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """End the pipeline, send what it still gives, and close the transport.

        While another task sends, or in a scope that was cancelled before, this is no clean end: the stages are ended
        with `Closed`, and the transport is closed forcefully.

        Raises:
            trio.BrokenResourceError: the stages made a failure of the clean end; that is the cause.
        """
        if self._closed:
            await (self._abort() if self._busy else self.transport_stream.aclose())
            return
        self._closed = True
        # This is how `trio.aclose_forcefully` closes.
        forced = trio.current_effective_deadline() == -math.inf
        items = self._pipeline.end(Closed() if forced or self._busy else Eof())
        ending = self._pipeline.ending
        if not isinstance(ending, Eof):
            await self._abort()
            if items and isinstance(ending, Failed):
                raise trio.BrokenResourceError("a stage failed") from ending.error
            return
        last = self._bytes_of(items)
        if last:
            self._busy = True
            try:
                await self.transport_stream.send_all(last)
            except BaseException:
                await self._abort()
                raise
            finally:
                self._busy = False
        await self.transport_stream.aclose()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_value is None:
            await self.aclose()
        else:
            # Whoever was to send the rest has failed: a clean end would make a truncated stream look complete.
            self._closed = True
            self._pipeline.end(_end_by(exc_value))
            await self._abort()

    async def _abort(self) -> None:
        reset(self.transport_stream)
        await trio.aclose_forcefully(self.transport_stream)


def _end_by(error: BaseException) -> End:
    return Failed(error) if isinstance(error, Exception) else Cancelled()
