"""The pump: source to pipeline to sink, in one task, with one outcome."""

# There is one task that reads and writes in turn; that is the backpressure. Whoever wants the relay to stop, because
# the reader has left or a deadline has passed, calls `stop`, which notes the ending and cancels a scope. It waits for
# nobody and owns nothing, so it cannot block, and the pump cannot wait for it. State changes only between awaits.
#
# `wake` cancels, too, but only a read, which loses no byte; then the stages are asked again, and whoever keeps the line
# warm has a turn. Had the read just brought something, that is written outside of the cancelled scope: a write that is
# cut cannot be taken back.
#
# Where source and sink can be used without waiting, and there is a switchboard, the pump lends the stream to it while
# it would wait for the source (_switchboard.py). `_step` is then what it would have done for one read, and `wake` takes
# the stream back instead of cancelling a read.
#
# Everything is closed and the outcome is made in one `finally`, shielded and bounded in time.

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import attrs
import trio

from ._items import Cancelled, Closed, End, Eof, Failed, Head, Item
from ._pipeline import Pipeline
from ._streams import reset
from ._switchboard import Switchboard
from .stages import Transcript

FULL = 16 * 1024
"""Bytes of a read behind which there probably are more. To look costs a system call."""

MOST_READS = 8
"""Full reads of one stream before the others have their turn."""

DEFAULT_CLOSE_TIMEOUT = 5.0
"""Seconds for each of the two streams to close. Closing says goodbye, and must not wait for a peer that does not."""


class Source(Protocol):
    """Where the bytes come from. A `trio.abc.ReceiveStream` is one."""

    async def receive_some(self) -> bytes | bytearray:
        """Receive some bytes; ``b""`` is a clean end. A cancelled call loses none."""

    async def aclose(self) -> None:
        """Give it back. Called once, at the end, however that came."""


class PolledSource(Source, Protocol):
    """A source that can be read without waiting."""

    ready: bool
    """Whether `receive_nowait` has something to say whatever the descriptor says."""

    def fileno(self) -> int:
        """The descriptor that becomes readable when there is something; -1 if there is none."""

    def receive_nowait(self) -> bytes | None:
        """Like `receive_some`, without waiting; None if there is nothing yet."""

    def close_nowait(self) -> bool:
        """Like `aclose`, if that can be done without waiting; else False, and nothing has been done."""


class Sink(Protocol):
    """Where the bytes go."""

    async def send_head(self, head: Head, data: bytes) -> None:
        """Send the head, and the first bytes behind it if there are any yet."""

    async def send_all(self, data: bytes) -> None:
        """Send bytes."""

    async def finish(self, end: End) -> None:
        """End the stream: cleanly for `Eof`, and so that nobody can take it for complete for any other ending.

        Called once; if it was cancelled or failed for `Eof`, once more with `Closed`. For another ending than `Eof` it
        may come in the middle of a send that was cancelled.
        """


class PolledSink(Sink, Protocol):
    """A sink that can be written to without waiting."""

    def send_nowait(self, data: bytes) -> bool:
        """Like `send_all`, as far as that goes at once. False: `flush` is to send the rest before anything else."""

    async def flush(self) -> None:
        """Send what `send_nowait` has left."""


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of one relay."""

    ending: End
    """How the stream ended, behind all stages."""

    committed: bool
    """Whether a head, or, of a stream without one, a byte, was given to the sink."""

    write_error: Exception | None
    """What the sink raised, if it did."""

    close_error: Exception | None
    """What closing the source, or aborting the sink, raised, if it did."""

    chunks_in: int
    """Reads that brought something."""

    bytes_in: int
    bytes_out: int

    started: float
    """Of the same clock as `trio.current_time`, in seconds, as are the following."""

    first_in: float | None
    """When the first bytes came; None if none did."""

    first_out: float | None
    """When the first bytes were given to the sink; None if none were."""

    ended: float


class Relay:
    """One stream on its way from a source to a sink. Call `run` once; `stop` at any time, from any task.

    Args:
        source: read until it ends, and closed.
        pipeline: what the stream flows through; used for nothing else.
        sink: written to, and finished. A `trio.abc.SendStream` will do: it is closed at a clean end, and otherwise
            closed forcefully, by a reset where there is one.
        head: the head of the stream, if it has one.
        record: called with the outcome, exactly once, also when `run` is cancelled.
        on_wake: awaited after each `wake`, when the sink has what the stages had held: a moment in which the caller may
            write to the sink itself. What it raises counts as raised by the sink.
        close_timeout: seconds for each stream to close, 5 by default.
        switchboard: whom the stream is lent to while there is nothing to do but to pass it on; it has an effect if
            ``source`` is a `PolledSource` and ``sink`` a `PolledSink`.
        transcript: shown all bytes that the sink is given, as they are given.
    """

    def __init__(
        self,
        source: Source,
        pipeline: Pipeline,
        sink: Sink | trio.abc.SendStream,
        *,
        head: Head | None = None,
        record: Callable[[Outcome], object] | None = None,
        on_wake: Callable[[], Awaitable[None]] | None = None,
        close_timeout: float = DEFAULT_CLOSE_TIMEOUT,
        switchboard: Switchboard | None = None,
        transcript: Transcript | None = None,
    ) -> None:
        self._source = source
        self._pipeline = pipeline
        self._sink = _StreamSink(sink) if isinstance(sink, trio.abc.SendStream) else sink
        self._head = head
        self._record = record
        self._on_wake = on_wake
        self._close_timeout = close_timeout
        self._keep = None if transcript is None else transcript.feed
        self._loan: _Loan | None = None
        if switchboard is not None and hasattr(source, "receive_nowait") and hasattr(sink, "send_nowait"):
            polled = cast("PolledSource", source)
            if polled.fileno() >= 0:
                self._loan = _Loan(switchboard, polled, cast("PolledSink", sink))
        self._scope = trio.CancelScope()
        self._nap: trio.CancelScope  # around reads of what is not lent, and never cancelled in a write
        self._woken = False
        self._silent_since = 0.0
        self._stopped: End | None = None
        self._left: list[Item] = []  # by a step, for the pump to write
        self._blocked = 0  # bytes that the sink was given, and has not sent all of
        self._finished = False
        self._committed = False
        self._write_error: Exception | None = None
        self._close_error: Exception | None = None
        self._chunks_in = 0
        self._bytes_in = 0
        self._bytes_out = 0
        self._first_in: float | None = None
        self._first_out: float | None = None

        self.reading_since: float | None = None
        """Since when the source has sent nothing, if the pump waits for it now; else None. `wake` does not begin this
        time anew. For whoever watches the time."""

        self.quiet_since = 0.0
        """When the pump, waiting for the source, had last given the sink something."""

    def stop(self, end: End) -> None:
        """End the stream with ``end``, unless it has ended already. Returns at once; the first call counts.

        `Eof` is taken only while the pump waits for the source: in the middle of a write there is no clean end.
        """
        if isinstance(end, Eof) and self.reading_since is None:
            return
        if self._stopped is None:
            self._stopped = end
            self._scope.cancel()

    @property
    def bytes_in(self) -> int:
        """Bytes that the source has given so far."""
        return self._bytes_in

    def wake(self) -> None:
        """Have the stages asked for the head again, and `on_wake` called, if the pump waits for bytes.

        Returns at once; no byte is lost.
        """
        if self.reading_since is not None:
            self._woken = True
            if self._loan is None:
                self._nap.cancel()
            else:
                self._loan.board.recall(self._loan.source.fileno())

    async def run(self) -> Outcome:
        """Relay until the stream ends; close the source, finish the sink, and say what became of it.

        Errors of source, stages and sink are in the outcome; only cancellation, and what `record` raises, comes out.
        """
        started = trio.current_time()
        try:
            with self._scope:
                await self._pump()
            if self._stopped is not None:
                await self._give_last(self._stopped)
        finally:
            self._pipeline.end(Cancelled())
            if not (self._finished and self._close_nowait()):
                with trio.CancelScope(shield=True):
                    await self._close()
            ending = self._pipeline.ending
            assert ending is not None
            outcome = Outcome(
                ending=ending,
                committed=self._committed,
                write_error=self._write_error,
                close_error=self._close_error,
                chunks_in=self._chunks_in,
                bytes_in=self._bytes_in,
                bytes_out=self._bytes_out,
                started=started,
                first_in=self._first_in,
                first_out=self._first_out,
                ended=trio.current_time(),
            )
            if self._record is not None:
                self._record(outcome)
        return outcome

    async def _pump(self) -> None:
        """Read and write in turn until the pipeline has ended and the sink knows."""
        await self._write(self._pipeline.head(self._head) if self._head is not None else [])
        self._silent_since = self.quiet_since = trio.current_time()
        while self._pipeline.ending is None:
            self._woken = False
            self.reading_since = self._silent_since
            loan = self._loan
            if loan is None:
                items = await self._pump_until_woken()
            else:
                # Bytes are passed on until there is something else to be done; what is to be written then is left.
                loan.board.now = trio.current_time()
                if (not loan.source.ready or self._step()) and not self._woken:
                    await loan.board.lend(loan.source.fileno(), self._step)
                items, self._left = self._left, []
            self.reading_since = None
            has_read, was_blocked = bool(items) or not self._woken, self._blocked > 0
            if self._woken and self._pipeline.ending is None:
                items += self._pipeline.feed(b"")
            goes_on = await self._write(items)
            if has_read:
                self._silent_since = trio.current_time()
            if items or was_blocked:
                self.quiet_since = trio.current_time()
            if goes_on and self._woken and self._on_wake is not None and self._pipeline.ending is None:
                await self._call_on_wake(self._on_wake)

    async def _call_on_wake(self, on_wake: Callable[[], Awaitable[None]]) -> None:
        try:
            await on_wake()
        except Exception as error:
            self._fail_write(error)

    async def _pump_until_woken(self) -> list[Item]:
        """Pump; return what is still to be written when the pipeline has ended, or `wake` came together with bytes."""
        with trio.CancelScope() as self._nap:
            while True:
                items = await self._receive()
                self.reading_since = None
                if self._woken or self._pipeline.ending is not None:
                    return items
                if not await self._write(items):
                    return []
                self.reading_since = self._silent_since = trio.current_time()
                if items:
                    self.quiet_since = self._silent_since
        return []

    async def _receive(self) -> list[Item]:
        try:
            data = await self._source.receive_some()
        except Exception as error:
            return self._pipeline.end(Failed(error))
        return self._take(data if type(data) is bytes else bytes(data))

    def _take(self, data: bytes) -> list[Item]:
        """What comes of a read."""
        if not data:
            return self._pipeline.end(Eof())
        if self._first_in is None:
            self._first_in = trio.current_time()
        self._chunks_in += 1
        self._bytes_in += len(data)
        return self._pipeline.feed(data)

    def _step(self) -> bool:
        """Read, feed and send, without waiting. False: the pump is to go on."""
        loan = self._loan
        assert loan is not None
        source, now = loan.source, loan.board.now
        reads = 0
        while True:
            reads += 1
            try:
                data = source.receive_nowait()
            except Exception as error:
                self._left = self._pipeline.end(Failed(error))
                return False
            if data is None:
                return True
            items = self._take(data)
            if items:
                item = items[0]
                if len(items) != 1 or type(item) is not bytes:
                    self._left = items
                    return False
                if not self._send_nowait(loan.sink, item):
                    return False
                self.quiet_since = now
            self.reading_since = self._silent_since = now
            if self._stopped is not None or not (source.ready or (len(data) >= FULL and reads < MOST_READS)):
                return True

    def _send_nowait(self, sink: PolledSink, data: bytes) -> bool:
        """Send bytes of the stream. False: they could not be sent, or not all of them."""
        if self._first_out is None:
            self._note_first_out()
        if self._keep is not None:
            self._keep(data)
        try:
            sent = sink.send_nowait(data)
        except Exception as error:
            self._fail_write(error)
            return False
        if sent:
            self._bytes_out += len(data)
        else:
            self._blocked = len(data)
            self.reading_since = None
        return sent

    def _fail_write(self, error: Exception) -> None:
        """The sink cannot take anything, so the reader has left."""
        self._write_error = error
        self._blocked = 0
        self._pipeline.end(Closed())

    async def _give_last(self, end: End) -> None:
        """End a stream that was stopped. Between two writes the sink may still have what the stages held back."""
        items = self._left + self._pipeline.end(end)
        if self.reading_since is not None and isinstance(end, (Eof, Failed)):
            with trio.move_on_after(self._close_timeout):
                await self._write(items)

    async def _write(self, items: list[Item]) -> bool:
        """Give items to the sink. False: it cannot take them, so the reader has left, and the stream is `Closed`."""
        try:
            if self._blocked:
                await self._flush()
            if items and isinstance(items[0], Head):
                items = await self._commit(items[0], items[1:])
            for item in items:
                if isinstance(item, bytes):
                    if self._first_out is None:
                        self._note_first_out()
                    if self._keep is not None:
                        self._keep(item)
                    await self._sink.send_all(item)
                    self._bytes_out += len(item)
                elif isinstance(item, Eof):
                    await self._sink.finish(item)
                    self._finished = True
        except Exception as error:
            self._fail_write(error)
            return False
        return True

    async def _flush(self) -> None:
        assert self._loan is not None
        await self._loan.sink.flush()
        self._bytes_out += self._blocked
        self._blocked = 0

    async def _commit(self, head: Head, items: list[Item]) -> list[Item]:
        """Send the head, with the first bytes behind it if they are there; return what is left."""
        self._committed = True
        if not items or not isinstance(items[0], bytes):
            await self._sink.send_head(head, b"")
            return items
        self._note_first_out()
        if self._keep is not None:
            self._keep(items[0])
        await self._sink.send_head(head, items[0])
        self._bytes_out += len(items[0])
        return items[1:]

    def _note_first_out(self) -> None:
        self._committed = True
        self._first_out = trio.current_time()

    def _close_nowait(self) -> bool:
        """Close a source that need not be waited for, as one whose connection goes back to a pool."""
        close_nowait = getattr(self._source, "close_nowait", None)
        return close_nowait is not None and close_nowait()

    async def _close(self) -> None:
        """Tell all that the stream is over: the source, and the sink if it does not know yet."""
        ending = self._pipeline.ending
        await self._bounded(self._source.aclose)
        if self._finished:
            return
        if ending is None or isinstance(ending, Eof):
            # The end had come, and could not be told: the last that the sink was given may be cut.
            if self._write_error is None:
                self._write_error = trio.BrokenResourceError("the relay was stopped before the end was written")
            ending = Closed()
        await self._bounded(functools.partial(self._sink.finish, ending))

    async def _bounded(self, close: Callable[[], Awaitable[None]]) -> None:
        try:
            with trio.fail_after(self._close_timeout):
                await close()
        except Exception as error:
            if self._close_error is None:
                self._close_error = error


@attrs.frozen
class _Loan:
    board: Switchboard
    source: PolledSource
    sink: PolledSink


class _StreamSink:
    """A send stream as a sink; it has no place for a head."""

    def __init__(self, stream: trio.abc.SendStream) -> None:
        self._stream = stream

    async def send_head(self, head: Head, data: bytes) -> None:
        await self._stream.send_all(data)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def finish(self, end: End) -> None:
        if isinstance(end, Eof):
            await self._stream.aclose()
        else:
            reset(self._stream)
            await trio.aclose_forcefully(self._stream)


async def relay(
    source: Source,
    pipeline: Pipeline,
    sink: Sink | trio.abc.SendStream,
    *,
    head: Head | None = None,
    record: Callable[[Outcome], object] | None = None,
) -> Outcome:
    """Relay one stream until it ends, and say what became of it. See `Relay`, which can also be stopped."""
    return await Relay(source, pipeline, sink, head=head, record=record).run()
