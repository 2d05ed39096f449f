"""What a run stands on: an upstream and a client in memory, which watch how they are treated."""

# Both pause a virtual second here and there, so that there is always a moment in which somebody sleeps. The clock is
# Trio's `MockClock`, which jumps when all tasks sleep, so a minute costs nothing.

from __future__ import annotations

import contextlib
import math
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import trio

from .._items import End, Eof, Failed, Head
from .._pipeline import Pipeline
from .._relay import Outcome, Sink, Source
from .._stage import Chain, Stage
from .._switchboard import Switchboard

_PAUSE = 1.0
"""Virtual seconds that the upstream waits before each chunk, and the client in the middle of each write."""

_PipelineT = TypeVar("_PipelineT", bound=Pipeline)


class _TornDown(BaseException):
    """Ends what hangs, be it shielded or not."""


class _Host(Protocol):
    """What a rig has of the run that it was built for; `_Run` is one."""

    rig: Rig
    used: set[str]
    torn_down: bool

    def note(self, what: str) -> None: ...

    def find(self, what: str) -> None: ...

    def watch(self, stage: Stage[bytes]) -> None: ...

    def moment(self) -> None: ...

    def noting_cancel(self) -> AbstractContextManager[None]: ...


class Rig:
    """What a scenario is built on: an upstream and a client, in memory, for one run. Take of it what you need."""

    def __init__(self, run: _Host, chunks: Sequence[bytes], ending: Eof | Failed | None) -> None:
        self._run = run
        self._upstream = _Upstream(run, chunks, ending)
        self._client = _Client(run)
        self._switchboard: Switchboard | None = None

        self.outcomes: list[Outcome] = []
        """What was recorded."""

        self.clean_end = False
        """Whether a clean end is the truth. The upstream sets it when it has told of its end; a fault that ends the
        stream cleanly by itself has to set it, too."""

    @property
    def source(self) -> Source:
        """The upstream, as a `Source`: to be closed exactly once, and not in a cancelled scope."""
        self._run.used.add("upstream")
        self._upstream.once = True
        return self._upstream

    @property
    def receive_stream(self) -> trio.abc.ReceiveStream:
        """The upstream, as a stream: it may be closed several times, and forcefully."""
        self._run.used.add("upstream")
        return self._upstream

    @property
    def sink(self) -> Sink:
        """The client, as a `Sink`: to be finished exactly once, and not in a cancelled scope."""
        self._run.used.add("write")
        self._client.once = True
        return _ClientSink(self._client)

    @property
    def send_stream(self) -> trio.abc.SendStream:
        """The client, as a stream. To close it forcefully, as `trio.aclose_forcefully` does, is not a clean end."""
        self._run.used.add("write")
        return _ClientStream(self._client)

    @property
    def switchboard(self) -> Switchboard:
        """A switchboard that runs; with it the source and the sink of this rig can be used without waiting."""
        if self._switchboard is None:
            self._switchboard = Switchboard()
            self._upstream.open_descriptor()
        return self._switchboard

    async def run_switchboard(self) -> None:
        """Run the switchboard, if there is one, and what makes the upstream readable, until cancelled."""
        if self._switchboard is not None:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._switchboard.run)
                    nursery.start_soon(self._upstream.become_readable)
            finally:
                self._switchboard.close()
                self._upstream.close_descriptor()

    def watch(self, pipeline: _PipelineT) -> _PipelineT:
        """Count the endings of all stages of ``pipeline``, however they are nested. Returns it."""
        for stage in _leaves(pipeline._chain):
            self._run.watch(stage)
        return pipeline

    def record(self, outcome: Outcome) -> None:
        """Record an outcome."""
        self._run.note(f"recorded {type(outcome.ending).__name__}")
        self.outcomes.append(outcome)


def _leaves(stage: object) -> Iterator[Stage[bytes]]:
    """Yield the stages that were written by somebody, in the order in which they are ended."""
    if isinstance(stage, Chain):
        for part in stage.stages:
            yield from _leaves(part)
    elif isinstance(inner := getattr(stage, "_chain", None), Chain):
        yield from _leaves(inner)
    elif isinstance(stage, Stage) and hasattr(stage, "__dict__"):
        yield stage


class _Bell:
    """Something to sleep on until it is rung."""

    def __init__(self, run: _Host) -> None:
        self._run = run
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._event.wait()
        if self._run.torn_down:
            raise _TornDown


class _Upstream(trio.abc.ReceiveStream):
    """Gives chunks with pauses between, then its ending, unless a fault comes before."""

    def __init__(self, run: _Host, chunks: Sequence[bytes], ending: Eof | Failed | None) -> None:
        self._run = run
        self._chunks = deque(chunks)
        self._ending = ending
        self._ended = False
        self._reading = False
        self._closed = False
        self.bell = _Bell(run)
        self.once = False
        self.given = 0
        self.closings = 0
        self.close_stalls = False
        self.ready = False
        self._poll: socket.socket | None = None
        self._signal: socket.socket | None = None
        self._due = False  # what is next can be taken
        self._taken = _Bell(run)

    def cut(self, ending: Eof | Failed | None) -> None:
        self._chunks.clear()
        self._ending = ending
        self.bell.ring()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._run.note("upstream is read")
        if self._reading:
            raise trio.BusyResourceError("another task is already reading the upstream")
        if self._ended and self.once:
            self._run.find("the upstream was read behind its end")
        self._reading = True
        try:
            with self._run.noting_cancel():
                await trio.lowlevel.checkpoint()
                await self._pause()
        finally:
            self._reading = False
        return self._take(max_bytes)

    def _take(self, max_bytes: int | None) -> bytes:
        if self._chunks:
            data = self._chunks.popleft()
            if max_bytes is not None and len(data) > max_bytes:
                self._chunks.appendleft(data[max_bytes:])
                data = data[:max_bytes]
            self.given += len(data)
            self._run.note(f"upstream gives {data!r}")
            return data
        self._ended = True
        if isinstance(self._ending, Failed):
            self._run.note(f"upstream raises {self._ending.error!r}")
            raise self._ending.error
        self._run.note("upstream gives EOF")
        self._run.rig.clean_end = True
        return b""

    # As a `PolledSource`.

    def open_descriptor(self) -> None:
        self._poll, self._signal = socket.socketpair()

    def close_descriptor(self) -> None:
        for end in (self._poll, self._signal):
            if end is not None:
                end.close()

    def fileno(self) -> int:
        return -1 if self._poll is None else self._poll.fileno()

    async def become_readable(self) -> None:
        """Make the descriptor readable whenever what is next is due."""
        assert self._signal is not None
        with contextlib.suppress(trio.ClosedResourceError):
            while True:
                await self._pause()
                self._due = True
                self._signal.send(b"x")
                while self._due:
                    await self._taken.wait(math.inf)

    def receive_nowait(self) -> bytes | None:
        self._run.moment()
        self._check_open()
        if not self._due:
            return None
        assert self._poll is not None
        self._poll.recv(1)
        self._due = False
        self._taken.ring()
        if not self._chunks and self._ending is None:  # it stalls since then
            return None
        data = self._take(None)
        self._run.moment()
        return data

    async def _pause(self) -> None:
        """Wait for what is next. A close wakes the reader, as `trio.abc.ReceiveStream` demands."""
        while True:
            self._check_open()
            stalls = not self._chunks and self._ending is None
            await self.bell.wait(math.inf if stalls else _PAUSE)
            self._check_open()
            if self._chunks or self._ending is not None:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the upstream was closed")

    async def aclose(self) -> None:
        self._run.note("upstream is closed")
        self.closings += 1
        self._closed = True
        self.bell.ring()
        deadline = trio.current_effective_deadline()
        try:
            await trio.lowlevel.checkpoint()
            while self.close_stalls:
                await self.bell.wait(math.inf)
        except trio.Cancelled:
            if self.once and _before(deadline):
                self._run.find("the closing of the upstream was cancelled")
            raise

    def findings(self) -> Iterator[str]:
        if not self.closings:
            yield "the upstream was not closed"
        elif self.once and self.closings > 1:
            yield f"the upstream was closed {self.closings} times"


class _Client:
    """Takes bytes, half of each write before a pause and half behind it, and watches how it is treated."""

    def __init__(self, run: _Host) -> None:
        self.run = run
        self.bell = _Bell(run)
        self.once = False  # it is used as a sink
        self.got = bytearray()
        self.head: Head | None = None
        self.error: Exception | None = None
        self.raised = False
        self.stalls = False
        self.writing = False
        self.cut = False  # a write was cancelled, or failed
        self.closed = False
        self.clean = False
        self._sends = 0
        self._rest = b""

    async def write(self, data: bytes) -> None:
        self.run.note(f"client is given {data!r}")
        if self.writing:
            raise trio.BusyResourceError("another task is already writing to the client")
        if not self.closed and self.cut:
            self.run.find("the client was written to behind a write that was cut off")
        self.writing = True
        try:
            with self.run.noting_cancel():
                await trio.lowlevel.checkpoint()
                self.check()
                half = len(data) // 2
                self.got += data[:half]
                await self.pause()
                self.got += data[half:]
        except BaseException:
            self.cut = True
            raise
        finally:
            self.writing = False

    def write_nowait(self, data: bytes) -> bool:
        """Take all of it, or, every second time, half; `write_rest` takes the other half."""
        self.run.moment()
        self.run.note(f"client is given {data!r}, without waiting")
        if self.writing:
            raise trio.BusyResourceError("another task is already writing to the client")
        if not self.closed and self.cut:
            self.run.find("the client was written to behind a write that was cut off")
        self.check()
        self._sends += 1
        size = len(data) if self._sends % 2 and not self.stalls else len(data) // 2
        self.got += data[:size]
        self._rest = data[size:]
        self.cut = bool(self._rest)
        self.run.moment()
        return not self.cut

    async def write_rest(self) -> None:
        rest, self._rest, self.cut = self._rest, b"", False
        await self.write(rest)

    async def pause(self) -> None:
        await self.bell.wait(math.inf if self.stalls else _PAUSE)
        while self.stalls and not self.closed and self.error is None:
            await self.bell.wait(math.inf)
        self.check()

    def check(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("the client was closed")
        if self.error is not None:
            self.raised = True
            self.run.note("client cannot be written to")
            raise self.error

    def ends_cleanly(self) -> None:
        """Check that this is a moment in which a clean end is the truth."""
        if self.writing or self.cut:
            self.run.find("the client saw a clean end behind a write that was cut off")
        elif not self.run.rig.clean_end:
            self.run.find("the client saw a clean end, and the upstream had none")

    def findings(self) -> Iterator[str]:
        if not self.closed:
            yield "the client was not finished"


class _ClientSink:
    """A client that is a `Sink`."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    async def send_head(self, head: Head, data: bytes) -> None:
        client = self._client
        client.run.note(f"client is given a head with status {head.status}")
        if client.head is not None or client.got:
            client.run.find("the client was given a head that was not the first thing")
        if client.closed:
            client.run.find("the client was written to behind its end")
        client.head = head
        await client.write(data)

    async def send_all(self, data: bytes) -> None:
        if self._client.closed:
            self._client.run.find("the client was written to behind its end")
        await self._client.write(data)

    def send_nowait(self, data: bytes) -> bool:
        if self._client.closed:
            self._client.run.find("the client was written to behind its end")
        return self._client.write_nowait(data)

    async def flush(self) -> None:
        await self._client.write_rest()

    async def finish(self, end: End) -> None:
        client = self._client
        client.run.note(f"client is finished with {type(end).__name__}")
        if client.closed:
            client.run.find("the client was finished twice")
        if isinstance(end, Eof):
            client.ends_cleanly()
            await client.write(b"")
            client.clean = client.closed = True
            return
        if client.writing:
            client.run.find("the client was finished while another task wrote to it")
        client.closed = True
        deadline = trio.current_effective_deadline()
        try:
            await trio.lowlevel.checkpoint()
            while client.stalls:
                await client.bell.wait(math.inf)
        except trio.Cancelled:
            if _before(deadline):
                client.run.find("the client's abort was cancelled")
            raise
        if client.error is not None:
            raise client.error


class _ClientStream(trio.abc.SendStream):
    """A client that is a `trio.abc.SendStream`."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._client.write(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        self._client.check()
        await self._client.bell.wait(_PAUSE)
        self._client.check()

    async def aclose(self) -> None:
        client = self._client
        forced = trio.current_effective_deadline() == -math.inf
        client.run.note("client is aborted" if forced else "client is closed")
        if not client.closed:
            if not forced:
                client.ends_cleanly()
            client.clean = not forced
            client.closed = True
            client.bell.ring()
        await trio.lowlevel.checkpoint()


def _before(deadline: float) -> bool:
    """Whether a cancellation that has just come was not that of a deadline: it came earlier, or was there already."""
    return deadline == -math.inf or trio.current_time() < deadline
