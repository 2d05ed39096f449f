"""One relay, one outcome: what is recorded, and what source and sink see, for every way in which a stream can end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs
import pytest
import trio
import trio.testing

from sseflow import (
    Cancelled,
    Closed,
    End,
    Eof,
    Failed,
    Head,
    Outcome,
    Pipeline,
    Relay,
    Stage,
    by_line,
    relay,
)
from sseflow.stages import CommentStripper, CommitGate, EofRecorder, WholeEvents

HEAD = Head(200, ((b"content-type", b"text/event-stream"),))
BROKEN = trio.BrokenResourceError("broken")
LOST = ConnectionResetError("lost")
RAISED = ValueError("raised")
FOREVER = "forever"


class Source:
    """Gives chunks, a virtual second apart, then raises, or sleeps for ever, or ends."""

    def __init__(self, *steps: bytes | Exception | str, close: Exception | str | None = None) -> None:
        self._steps = list(steps)
        self._close = close
        self.reads = 0
        self.closings = 0

    async def receive_some(self) -> bytes:
        self.reads += 1
        await trio.sleep(1)
        match self._steps.pop(0) if self._steps else b"":
            case bytes(data):
                return data
            case Exception() as error:
                raise error
            case _:
                await trio.sleep_forever()
                raise AssertionError

    async def aclose(self) -> None:
        self.closings += 1
        await trio.lowlevel.checkpoint()
        if isinstance(self._close, Exception):
            raise self._close
        if self._close is not None:
            await trio.sleep_forever()


class Sink:
    """Writes down what it is given; a method whose name is in ``raises`` raises, one in ``sleeps`` sleeps for ever."""

    def __init__(self, *, raises: str = "", sleeps: str = "") -> None:
        self._raises = raises
        self._sleeps = sleeps
        self.log: list[object] = []

    async def _do(self, name: str, *what: object) -> None:
        self.log += what
        await trio.lowlevel.checkpoint()
        if name == self._raises:
            raise BROKEN
        if name == self._sleeps:
            await trio.sleep_forever()

    async def send_head(self, head: Head, data: bytes) -> None:
        await self._do("head", head, data)

    async def send_all(self, data: bytes) -> None:
        await self._do("data", data)

    async def finish(self, end: End) -> None:
        await self._do("finish" if isinstance(end, Eof) else "abort", end)


class Raises(Stage[bytes]):
    def __init__(self, where: str) -> None:
        self._where = where

    def head(self, head: Head, /) -> Head | None:
        if self._where == "head":
            raise RAISED
        return head

    def feed(self, batch: bytes, /) -> bytes:
        if self._where == "feed":
            raise RAISED
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        if self._where == "end":
            raise RAISED
        return None, end


@attrs.frozen
class Row:
    """What goes in, and what must come out."""

    source: Sequence[bytes | Exception | str]
    log: Sequence[object]
    ending: End
    stages: str = ""
    raises: str = ""
    closing: Exception | str | None = None
    committed: bool = True
    write_error: Exception | None = None
    close_error: Exception | None = None


TABLE = {
    "eof": Row([b"a", b"b"], [HEAD, b"", b"a", b"b", Eof()], Eof()),
    "empty": Row([], [HEAD, b"", Eof()], Eof()),
    "source-fails": Row([b"a", LOST], [HEAD, b"", b"a", Failed(LOST)], Failed(LOST)),
    "source-fails-at-once": Row([LOST], [HEAD, b"", Failed(LOST)], Failed(LOST)),
    "stage-raises-at-head": Row([b"a"], [Failed(RAISED)], Failed(RAISED), stages="head", committed=False),
    "stage-raises-at-feed": Row([b"a", b"b"], [HEAD, b"", Failed(RAISED)], Failed(RAISED), stages="feed"),
    "stage-raises-at-end": Row([b"a"], [HEAD, b"", b"a", Failed(RAISED)], Failed(RAISED), stages="end"),
    "sink-fails-at-head": Row([b"a"], [HEAD, b"", Closed()], Closed(), raises="head", write_error=BROKEN),
    "sink-fails-at-data": Row([b"a", b"b"], [HEAD, b"", b"a", Closed()], Closed(), raises="data", write_error=BROKEN),
    "sink-fails-at-finish": Row([b"a"], [HEAD, b"", b"a", Eof(), Closed()], Eof(), raises="finish", write_error=BROKEN),
    "sink-fails-at-abort": Row([LOST], [HEAD, b"", Failed(LOST)], Failed(LOST), raises="abort", close_error=BROKEN),
    "close-fails": Row([b"a"], [HEAD, b"", b"a", Eof()], Eof(), closing=LOST, close_error=LOST),
    "all-fails": Row(
        [b"a", LOST], [HEAD, b"", b"a", Failed(LOST)], Failed(LOST), raises="abort", closing=RAISED, close_error=RAISED
    ),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
async def test_outcome(row: Row, autojump_clock: trio.testing.MockClock) -> None:
    """The outcome says how the stream ended, the sink hears it once, and both are recorded once."""
    source, sink, records = Source(*row.source, close=row.closing), Sink(raises=row.raises), list[Outcome]()
    outcome = await relay(source, Pipeline(Raises(row.stages)), sink, head=HEAD, record=records.append)
    assert records == [outcome]
    assert records[0] is outcome
    assert sink.log == row.log
    assert source.closings == 1
    assert outcome.ending == row.ending
    assert outcome.committed is row.committed
    assert outcome.write_error is row.write_error
    assert outcome.close_error is row.close_error


@pytest.mark.parametrize("end", [Closed(), Failed(LOST), Eof()], ids=["closed", "failed", "eof"])
async def test_stop_while_reading(end: End, autojump_clock: trio.testing.MockClock) -> None:
    """Between two writes a stream can be ended in any way, also cleanly; the first stop counts."""
    source, sink, records = Source(b"a", FOREVER), Sink(), list[Outcome]()
    a_relay = Relay(source, Pipeline(), sink, head=HEAD, record=records.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        assert a_relay.reading_since == pytest.approx(trio.current_time() - 9)
        a_relay.stop(end)
        a_relay.stop(Failed(RAISED))
    assert [(each.ending, each.write_error) for each in records] == [(end, None)]
    assert sink.log == [HEAD, b"", b"a", end]
    assert source.closings == 1


@pytest.mark.parametrize("end", [Closed(), Failed(LOST)], ids=["closed", "failed"])
async def test_stop_while_writing(end: End, autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes no more can be left at any time. What it has is cut, so nothing but an abort follows."""
    source, sink, records = Source(b"a", b"b"), Sink(sleeps="data"), list[Outcome]()
    a_relay = Relay(source, Pipeline(), sink, head=HEAD, record=records.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        assert a_relay.reading_since is None
        a_relay.stop(end)
    assert [each.ending for each in records] == [end]
    assert sink.log == [HEAD, b"", b"a", end]


async def test_nothing_follows_a_write_that_was_cut(autojump_clock: trio.testing.MockClock) -> None:
    """What the stages held when a write was cut stays where it is: it would stand behind half of what came before."""
    sink, pipeline = Sink(sleeps="data"), Pipeline(by_line(CommentStripper()))
    a_relay = Relay(Source(b"data: 1\ndata: 2"), pipeline, sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        a_relay.stop(Failed(LOST))
    assert sink.log == [b"data: 1\n", Failed(LOST)]


async def test_no_clean_stop_while_writing(autojump_clock: trio.testing.MockClock) -> None:
    """In the middle of a write there is no clean end: `stop` with `Eof` does nothing then."""
    sink, records = Sink(sleeps="data"), list[Outcome]()
    a_relay = Relay(Source(b"a"), Pipeline(), sink, head=HEAD, record=records.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        a_relay.stop(Eof())
        await trio.sleep(10)
        assert records == []
        a_relay.stop(Closed())
    assert [each.ending for each in records] == [Closed()]
    assert sink.log == [HEAD, b"", b"a", Closed()]


async def test_stop_before_run(autojump_clock: trio.testing.MockClock) -> None:
    """A relay that was stopped before it ran still ends, closes and records."""
    source, sink, records = Source(b"a"), Sink(), list[Outcome]()
    a_relay = Relay(source, Pipeline(), sink, record=records.append)
    a_relay.stop(Closed())
    assert await a_relay.run() is records[0]
    assert (records[0].ending, sink.log, source.closings) == (Closed(), [Closed()], 1)


async def test_stop_behind_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """A stop that comes too late changes nothing."""
    a_relay = Relay(Source(b"a"), Pipeline(), Sink())
    outcome = await a_relay.run()
    a_relay.stop(Failed(LOST))
    assert outcome.ending == Eof()


@pytest.mark.parametrize("end", [Eof(), Failed(LOST)], ids=["eof", "failed"])
async def test_stop_lets_out_what_the_stages_held(end: End, autojump_clock: trio.testing.MockClock) -> None:
    """Stopped between two writes, the stages still say what becomes of what they held."""
    sink = Sink()
    a_relay = Relay(Source(b"data: 1\n\ndata: 2\n", FOREVER), Pipeline(by_line(WholeEvents())), sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        a_relay.stop(end)
    held = [b"data: 2\n"] if end == Eof() else []
    assert sink.log == [b"data: 1\n\n", *held, end]


async def test_stop_does_not_wait_for_the_client(autojump_clock: trio.testing.MockClock) -> None:
    """What was held is written within the close timeout, or the client is aborted."""
    sink, records = Sink(sleeps="data"), list[Outcome]()
    pipeline = Pipeline(by_line(WholeEvents()))
    a_relay = Relay(Source(b"data: 2\n", FOREVER), pipeline, sink, record=records.append, close_timeout=3)
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a_relay.run)
            await trio.sleep(10)
            a_relay.stop(Eof())
    assert trio.current_time() == pytest.approx(records[0].started + 13)
    assert sink.log == [b"data: 2\n", Closed()]
    assert isinstance(records[0].write_error, trio.BrokenResourceError)


@pytest.mark.parametrize("sleeps", ["head", "data", "finish", ""], ids=["head", "data", "finish", "reading"])
async def test_cancelled(sleeps: str, autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled comes out wherever the pump was, and before it does all is closed and recorded, once."""
    recorder = EofRecorder[bytes]()
    source, sink, records = Source(b"a", *([] if sleeps else [FOREVER])), Sink(sleeps=sleeps), list[Outcome]()
    with trio.move_on_after(10) as scope:
        await relay(source, Pipeline(recorder), sink, head=HEAD, record=records.append)
    assert scope.cancelled_caught
    assert source.closings == 1
    (outcome,) = records
    if sleeps == "finish":
        # The stream had ended cleanly, and the client could not be told: what it has must not look complete.
        assert outcome.ending == recorder.ending == Eof()
        assert sink.log == [HEAD, b"", b"a", Eof(), Closed()]
        assert isinstance(outcome.write_error, trio.BrokenResourceError)
    else:
        assert outcome.ending == recorder.ending == Cancelled()
        assert sink.log[-1] == Cancelled()
        assert Eof() not in sink.log


async def test_an_error_in_record_comes_out(autojump_clock: trio.testing.MockClock) -> None:
    """What `record` raises is its caller's business; it is called once, when all is closed."""
    source, calls = Source(), list[Outcome]()

    def record(outcome: Outcome) -> None:
        calls.append(outcome)
        assert source.closings == 1
        raise RAISED

    with pytest.raises(ValueError, match="raised"):
        await relay(source, Pipeline(), Sink(), record=record)
    assert len(calls) == 1


async def test_timings(autojump_clock: trio.testing.MockClock) -> None:
    """The outcome knows when the first bytes came and went, and counts what came and went."""
    gate = CommitGate()
    pipeline = Pipeline(by_line(gate))
    outcome = await relay(Source(b": 1\n", b"data: 2\n\n", b"\n"), pipeline, Sink(), head=HEAD)
    assert outcome.first_in is not None
    assert outcome.first_out is not None
    assert outcome.first_in - outcome.started == pytest.approx(1)
    assert outcome.first_out - outcome.started == pytest.approx(2)
    assert outcome.ended - outcome.started == pytest.approx(4)
    assert (outcome.chunks_in, outcome.bytes_in, outcome.bytes_out) == (3, 14, 14)


async def test_timings_of_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """Where nothing came and went there is no time at which it did."""
    outcome = await relay(Source(), Pipeline(), Sink())
    assert (outcome.first_in, outcome.first_out, outcome.committed) == (None, None, False)
    assert (outcome.chunks_in, outcome.bytes_in, outcome.bytes_out) == (0, 0, 0)


@pytest.mark.parametrize("end", [Closed(), Failed(LOST), Cancelled()], ids=["closed", "failed", "cancelled"])
async def test_a_held_head_is_dropped(end: End, autojump_clock: trio.testing.MockClock) -> None:
    """Behind a shut gate a failure leaves nothing but itself: the sink is told of the ending alone."""
    sink, records = Sink(), list[Outcome]()
    pipeline = Pipeline(by_line(CommitGate()))
    a_relay = Relay(Source(b": 1\n", FOREVER), pipeline, sink, head=HEAD, record=records.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_relay.run)
        await trio.sleep(10)
        if end == Cancelled():
            nursery.cancel_scope.cancel()
        else:
            a_relay.stop(end)
    assert sink.log == [end]
    assert (records[0].ending, records[0].committed, records[0].bytes_out) == (end, False, 0)


async def test_a_held_head_goes_with_its_bytes(autojump_clock: trio.testing.MockClock) -> None:
    """When the gate opens, head and bytes go in one call, so that a client that reads once gets both."""
    sink = Sink()
    await relay(Source(b": 1\n", b"data: 2\n\n"), Pipeline(by_line(CommitGate())), sink, head=HEAD)
    assert sink.log == [HEAD, b": 1\ndata: 2\n\n", Eof()]


@pytest.mark.parametrize("ends", [b"", LOST], ids=["eof", "failed"])
async def test_closing_the_source_is_bounded(ends: bytes | Exception, autojump_clock: trio.testing.MockClock) -> None:
    """A source that never closes is left behind after ``close_timeout``; the sink is finished all the same."""
    source, sink = Source(ends, close=FOREVER), Sink()
    outcome = await Relay(source, Pipeline(), sink, close_timeout=7).run()
    assert outcome.ended - outcome.started == pytest.approx(8)
    assert isinstance(outcome.close_error, trio.TooSlowError)
    assert sink.log == [outcome.ending]


async def test_aborting_the_sink_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """... and so is a sink that never aborts; both have the time that is theirs."""
    outcome = await Relay(Source(LOST, close=FOREVER), Pipeline(), Sink(sleeps="abort"), close_timeout=7).run()
    assert outcome.ended - outcome.started == pytest.approx(15)
    assert outcome.ending == Failed(LOST)
    assert isinstance(outcome.close_error, trio.TooSlowError)


async def test_closing_cannot_be_cancelled(autojump_clock: trio.testing.MockClock) -> None:
    """A cancelled relay still takes leave of both, within its time."""
    records = list[Outcome]()
    with trio.move_on_after(3):
        await Relay(Source(FOREVER, close=FOREVER), Pipeline(), Sink(), record=records.append, close_timeout=7).run()
    assert records[0].ended - records[0].started == pytest.approx(10)


async def test_the_source_is_not_read_while_the_sink_blocks(autojump_clock: trio.testing.MockClock) -> None:
    """One task reads and writes in turn: a slow client is the backpressure, and nothing is buffered between."""
    source, sink = Source(*[b"a"] * 100), Sink(sleeps="data")
    with trio.move_on_after(1000):
        await relay(source, Pipeline(), sink)
    assert source.reads == 1
    assert sink.log[0] == b"a"


async def test_reading_since_tells_who_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """The time is that of the read that is waited for, and None during a write: a sweep cancels nothing else."""
    seen: list[float | None] = []

    class Watches(Sink):
        async def send_all(self, data: bytes) -> None:
            seen.append(a_relay.reading_since)

    a_relay = Relay(Source(b"a", b"b"), Pipeline(), Watches())
    assert a_relay.reading_since is None
    await a_relay.run()
    assert seen == [None, None]


@pytest.mark.parametrize("chunks", [[b"data: 1\n\n"], [b"da", b"ta: 1\n", b"\n"]], ids=["whole", "cut"])
async def test_a_stream_is_a_sink(chunks: Iterable[bytes], autojump_clock: trio.testing.MockClock) -> None:
    """A send stream takes the bytes, is closed at a clean end, and its reader sees just that."""
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    outcome = await relay(Source(*chunks), Pipeline(), ours, head=HEAD)
    received = b"".join([bytes(data) async for data in theirs])
    assert received == b"data: 1\n\n"
    assert outcome.ending == Eof()


async def test_types_other_than_bytes_are_taken(autojump_clock: trio.testing.MockClock) -> None:
    """Trio's streams may give a `bytearray`; the stages see `bytes`."""
    ours, theirs = trio.testing.memory_stream_one_way_pair()
    sink = Sink()
    await ours.send_all(b"a")
    await ours.aclose()
    outcome = await relay(theirs, Pipeline(EofRecorder()), sink)
    assert sink.log == [b"a", Eof()]
    assert type(sink.log[0]) is bytes
    assert outcome.ended < math.inf


async def test_waking_lets_a_head_go(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever opens a gate wakes the relay: the head leaves while the source is silent, and what comes then follows."""
    gate = CommitGate()
    sink = Sink()
    relay = Relay(Source(b": a\n\n", FOREVER), Pipeline(by_line(gate)), sink, head=HEAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.sleep(10)
        assert sink.log == []
        gate.open()
        relay.wake()
        await trio.testing.wait_all_tasks_blocked()
        assert sink.log == [HEAD, b": a\n\n"]
        relay.stop(Closed())


async def test_waking_together_with_bytes_loses_none(autojump_clock: trio.testing.MockClock) -> None:
    """A read that has just been served when `wake` is called is written, not cancelled."""

    class Slow(Sink):
        async def send_all(self, data: bytes) -> None:
            await trio.sleep(1)
            await super().send_all(data)

    send, receive = trio.testing.memory_stream_one_way_pair()
    sink = Slow()
    relay = Relay(receive, Pipeline(), sink)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        for data in (b"a", b"b"):
            await send.send_all(data)
            relay.wake()
            await trio.sleep(5)
        await send.aclose()
    assert sink.log == [b"a", b"b", Eof()]


async def test_waking_a_relay_that_writes_does_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A write is never cut by it, and before the start and behind the end it is nobody's business."""
    sink = Sink(sleeps="data")
    relay = Relay(Source(b"a", b"b"), Pipeline(), sink)
    relay.wake()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.sleep(5)
        relay.wake()
        await trio.sleep(5)
        assert sink.log == [b"a"]
        relay.stop(Closed())
    relay.wake()
