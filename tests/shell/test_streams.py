"""The wrappers are Trio streams: all that Trio promises of one holds, and no end that they show is a lie."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
import trustme

from sseflow import (
    Cancelled,
    Closed,
    End,
    Eof,
    Failed,
    FilteredReceiveStream,
    FilteredSendStream,
    Outcome,
    Pipeline,
    Relay,
    Stage,
    by_line,
    relay,
)
from sseflow.stages import CommentStripper, EofRecorder
from sseflow.testing import Rig, Scenario, inject


def _receive_pair() -> tuple[trio.testing.MemorySendStream, FilteredReceiveStream]:
    send, receive = trio.testing.memory_stream_one_way_pair()
    return send, FilteredReceiveStream(receive, Pipeline(by_line(CommentStripper())))


async def test_receive_stream_is_a_stream() -> None:
    """`FilteredReceiveStream` passes Trio's own conformance check."""

    async def make() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
        send, receive = trio.testing.memory_stream_one_way_pair()
        return send, FilteredReceiveStream(receive, Pipeline())

    await trio.testing.check_one_way_stream(make, None)


async def test_receive_stream_is_a_stream_when_clogged() -> None:
    """... and its clogged variant, over a stream that blocks."""

    async def make() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
        send, receive = trio.testing.lockstep_stream_one_way_pair()
        return send, FilteredReceiveStream(receive, Pipeline())

    await trio.testing.check_one_way_stream(make, make)


async def test_send_stream_is_a_stream() -> None:
    """`FilteredSendStream` passes Trio's own conformance check."""

    async def make() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
        send, receive = trio.testing.memory_stream_one_way_pair()
        return FilteredSendStream(send, Pipeline()), receive

    await trio.testing.check_one_way_stream(make, None)


async def test_send_stream_is_a_stream_when_clogged() -> None:
    """... and its clogged variant, over a stream that blocks."""

    async def make() -> tuple[trio.abc.SendStream, trio.abc.ReceiveStream]:
        send, receive = trio.testing.lockstep_stream_one_way_pair()
        return FilteredSendStream(send, Pipeline()), receive

    await trio.testing.check_one_way_stream(make, make)


# Closing, and who else is there.


class _Fails(Stage[bytes]):
    """Fails at a chunk, or at a clean end."""

    def __init__(self, at: bytes | None) -> None:
        self._at = at

    def feed(self, batch: bytes, /) -> bytes:
        if self._at is not None and self._at in batch:
            raise ValueError("a stage raised")
        return batch

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return None, Failed(ValueError("a stage raised")) if self._at is None and end == Eof() else end


class _Adds(Stage[bytes]):
    """Gives one byte back at a clean end."""

    def end(self, end: End, /) -> tuple[bytes | None, End]:
        return b"!" if end == Eof() else None, end


def _send_pair(
    *stages: Stage[bytes],
) -> tuple[FilteredSendStream, EofRecorder[bytes], trio.testing.MemorySendStream, list[str]]:
    """A send stream, what its stages were told, its transport, and how that was closed."""
    recorder = EofRecorder[bytes]()
    closings: list[str] = []

    def note() -> None:
        closings.append("abort" if trio.current_effective_deadline() == -math.inf else "close")

    transport = trio.testing.MemorySendStream(close_hook=note)
    return FilteredSendStream(transport, Pipeline(*stages, recorder)), recorder, transport, closings


async def test_closer_frees_the_reader(autojump_clock: trio.testing.MockClock) -> None:
    """Closing from another task wakes a sleeping reader with `ClosedResourceError`; the stages are ended once."""
    recorder = EofRecorder[bytes]()
    _, transport = trio.testing.memory_stream_one_way_pair()
    stream = FilteredReceiveStream(transport, Pipeline(recorder))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
        await stream.aclose()
    assert recorder.ending == Closed()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_closing_throws_away_what_was_not_read() -> None:
    """What waits in the buffer of a stream that is closed is gone: nobody reads from a closed stream."""
    send, stream = _receive_pair()
    await send.send_all(b"data: 1\n\n")
    assert await stream.receive_some(4) == b"data"
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_a_second_reader_harms_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """A second reader gets `BusyResourceError`, and the first one its bytes."""
    send, stream = _receive_pair()
    got: list[bytes] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            got.append(await stream.receive_some())

        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive_some()
        await send.send_all(b"data: 1\n\n")
    assert got == [b"data: 1\n\n"]


async def test_a_second_writer_harms_nothing() -> None:
    """A second writer gets `BusyResourceError`, and what the first one sends arrives."""
    stream, recorder, transport, _ = _send_pair()
    goes_on = trio.Event()
    transport.send_all_hook = goes_on.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"a")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"b")
        goes_on.set()
    await stream.aclose()
    assert await transport.get_data() == b"a"
    assert recorder.ending == Eof()


def test_a_cancelled_read_loses_no_byte() -> None:
    """Wherever a read is cancelled, and cancelled again, the next one gets what that one would have got."""
    chunks = [b": a\n\ndata: 1\n", b"\nda"]

    def scenario(rig: Rig) -> Scenario:
        stream = FilteredReceiveStream(rig.receive_stream, rig.watch(Pipeline(by_line(CommentStripper()))))
        sink = rig.sink
        reading = trio.CancelScope()

        async def run() -> None:
            nonlocal reading
            data: bytes | None = None
            while data != b"":
                with trio.CancelScope() as reading:
                    data = await stream.receive_some(6)
                if reading.cancelled_caught:
                    continue
                if data:
                    await sink.send_all(data)
            await stream.aclose()
            await sink.finish(Eof())

        return Scenario(run=run, faults={"cancel the read": lambda: reading.cancel()})

    whole = b"data: 1\n\nda"
    report = inject(scenario, chunks, kinds=["cancel the read"], pairs=True, output=lambda got: got == whole)
    assert report.runs > 500


async def test_a_failure_comes_behind_the_last_byte() -> None:
    """All bytes before a failure are received first, in whatever pieces; then it is raised, again and again."""
    send, transport = trio.testing.memory_stream_one_way_pair()
    stream = FilteredReceiveStream(transport, Pipeline(_Fails(None)))
    await send.send_all(b"abc")
    await send.aclose()
    assert await stream.receive_some(2) == b"ab"
    assert await stream.receive_some(2) == b"c"
    for _ in range(2):
        with pytest.raises(ValueError, match="a stage raised"):
            await stream.receive_some()


async def test_a_transport_failure_comes_behind_the_last_byte() -> None:
    """The transport's own failure, too, and what the stages hold for it."""
    recorder = EofRecorder[bytes]()

    async def fail() -> None:
        raise trio.BrokenResourceError("reset")

    send, transport = trio.testing.memory_stream_one_way_pair()
    stream = FilteredReceiveStream(transport, Pipeline(by_line(CommentStripper()), recorder))
    await send.send_all(b"data: 1\ndata: 2")
    assert await stream.receive_some(1) == b"d"
    transport.receive_some_hook = fail
    assert await stream.receive_some() == b"ata: 1\n"
    assert await stream.receive_some() == b"data: 2"
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await stream.receive_some()
    assert isinstance(recorder.ending, Failed)


async def test_a_stage_that_fails_aborts_the_send_stream() -> None:
    """The stage's error is the cause of `BrokenResourceError`, the transport is aborted, and nothing follows."""
    stream, recorder, transport, closings = _send_pair(_Fails(b"b"))
    await stream.send_all(b"a")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"b")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.send_all(b"c")
    assert isinstance(caught.value.__cause__, ValueError)
    await stream.aclose()
    assert set(closings) == {"abort"}
    assert isinstance(recorder.ending, Failed)
    assert await transport.get_data() == b"a"


async def test_a_clean_end_that_stages_refuse_aborts_the_send_stream() -> None:
    """If the stages make a failure of the clean end, closing says so, and the peer sees no end."""
    stream, _, _, closings = _send_pair(_Fails(None))
    await stream.send_all(b"a")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.aclose()
    assert isinstance(caught.value.__cause__, ValueError)
    assert closings == ["abort"]


async def test_closing_sends_what_the_stages_give_back() -> None:
    """The last bytes of the stages go out before the transport is closed."""
    stream, recorder, transport, closings = _send_pair(_Adds())
    await stream.send_all(b"a")
    await stream.aclose()
    assert await transport.get_data() == b"a!"
    assert closings == ["close"]
    assert recorder.ending == Eof()


async def test_a_cancelled_send_breaks_the_stream() -> None:
    """How much went out is not known: nothing may follow, least of all a clean end."""
    stream, recorder, transport, closings = _send_pair(_Adds())
    transport.send_all_hook = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"a")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    transport.send_all_hook = None
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"b")
    await stream.aclose()
    assert await transport.get_data() == b"a"
    assert recorder.ending == Cancelled()
    assert closings == ["abort"]


async def test_closing_forcefully_is_no_clean_end() -> None:
    """`aclose_forcefully` is how a sender says that it has not finished; the stages hear it, too."""
    stream, recorder, transport, closings = _send_pair(_Adds())
    await stream.send_all(b"a")
    await trio.aclose_forcefully(stream)
    assert recorder.ending == Closed()
    assert closings == ["abort"]
    assert await transport.get_data() == b"a"


async def test_an_exception_that_leaves_the_block_is_no_clean_end() -> None:
    """Whoever fails to send the rest in ``async with`` does not make a truncated stream look complete."""
    stream, recorder, transport, closings = _send_pair(_Adds())
    error = ValueError("the source failed")

    async def send() -> None:
        async with stream:
            await stream.send_all(b"a")
            raise error

    with pytest.raises(ValueError, match="the source failed"):
        await send()
    assert recorder.ending == Failed(error)
    assert closings == ["abort"]
    assert await transport.get_data() == b"a"


async def test_a_block_that_is_left_in_peace_is_a_clean_end() -> None:
    """Without an exception ``async with`` closes, as with any stream."""
    stream, recorder, _, closings = _send_pair()
    async with stream:
        await stream.send_all(b"a")
    assert recorder.ending == Eof()
    assert closings == ["close"]


async def test_a_second_closer_does_not_cut_the_end() -> None:
    """Closed again while the last bytes go out, the stream is aborted: what was cut must not look complete."""
    stream, _, transport, closings = _send_pair(_Adds())
    transport.send_all_hook = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"b")
        await stream.aclose()
        assert closings == ["abort"]
        nursery.cancel_scope.cancel()


async def test_closing_while_another_task_sends() -> None:
    """A close in the middle of a send is an abort: the sender is woken, and the stages are told `Closed`."""
    transport, _ = trio.testing.lockstep_stream_one_way_pair()
    recorder = EofRecorder[bytes]()
    stream = FilteredSendStream(transport, Pipeline(recorder))
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.send_all(b"a")

        await trio.testing.wait_all_tasks_blocked()
        await stream.aclose()
    assert recorder.ending == Closed()


# Over real sockets, with the real clock. Nothing sleeps, and nothing takes longer than this many seconds.

BOUND = 20


async def _tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        return ours, await listener.accept()


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server and for a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def _pair(tls: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    ours, theirs = await _tcp_pair()
    if tls is None:
        return ours, theirs
    server = trio.SSLStream(ours, tls[0], server_side=True)
    client = trio.SSLStream(theirs, tls[1], server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    return server, client


async def _fail_in_send(transport: trio.abc.SendStream) -> None:
    stream = FilteredSendStream(transport, Pipeline(_Fails(b"b")))
    await stream.send_all(b"a")
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"b")
    await stream.aclose()


async def _fail_at_the_end(transport: trio.abc.SendStream) -> None:
    stream = FilteredSendStream(transport, Pipeline(_Fails(None)))
    await stream.send_all(b"a")
    with pytest.raises(trio.BrokenResourceError):
        await stream.aclose()


async def _close_forcefully(transport: trio.abc.SendStream) -> None:
    stream = FilteredSendStream(transport, Pipeline())
    await stream.send_all(b"a")
    await trio.aclose_forcefully(stream)


async def _leave_by_an_exception(transport: trio.abc.SendStream) -> None:
    with contextlib.suppress(ValueError):
        async with FilteredSendStream(transport, Pipeline()) as stream:
            await stream.send_all(b"a")
            raise ValueError("the source failed")


async def _relay_a_failure(transport: trio.abc.SendStream) -> None:
    send, source = trio.testing.memory_stream_one_way_pair()
    await send.send_all(b"a")
    await send.aclose()
    await relay(source, Pipeline(_Fails(None)), transport)


async def _relay_a_failure_through_a_filter(transport: trio.abc.SendStream) -> None:
    await _relay_a_failure(FilteredSendStream(transport, Pipeline()))


async def _end_cleanly(transport: trio.abc.SendStream) -> None:
    async with FilteredSendStream(transport, Pipeline()) as stream:
        await stream.send_all(b"a")


async def _what_the_peer_sees(
    send: Callable[[trio.abc.SendStream], Awaitable[None]], tls: tuple[ssl.SSLContext, ssl.SSLContext] | None
) -> bytes:
    ours, theirs = await _pair(tls)
    got = b""
    async with theirs, trio.open_nursery() as nursery:
        nursery.start_soon(send, ours)
        async for data in theirs:
            got += data
    return got


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize(
    "send",
    [
        _fail_in_send,
        _fail_at_the_end,
        _close_forcefully,
        _leave_by_an_exception,
        _relay_a_failure,
        _relay_a_failure_through_a_filter,
    ],
    ids=lambda send: send.__name__.strip("_"),
)
async def test_a_failure_is_a_reset(
    send: Callable[[trio.abc.SendStream], Awaitable[None]],
    tls: bool,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """However a stream fails, its peer sees an error, and never an end."""
    with trio.fail_after(BOUND), pytest.RaisesGroup(trio.BrokenResourceError):
        await _what_the_peer_sees(send, contexts if tls else None)


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_a_clean_end_is_one(tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """... and where nothing failed, it sees the end and all before it."""
    with trio.fail_after(BOUND):
        assert await _what_the_peer_sees(_end_cleanly, contexts if tls else None) == b"a"


async def _steps(number: int) -> None:
    for _ in range(number):
        await trio.lowlevel.checkpoint()


async def test_closer_and_reader_race_over_sockets() -> None:
    """Two hundred times a reader waits at a socket, bytes or an end come, and another task closes: all get away."""
    seen: Counter[str] = Counter()

    async def read(stream: FilteredReceiveStream) -> None:
        try:
            seen[(await stream.receive_some()).decode() or "EOF"] += 1
        except trio.ClosedResourceError:
            seen["closed"] += 1

    async def speak(theirs: trio.SocketStream, number: int) -> None:
        await _steps(number % 5)
        if number % 2:
            await theirs.send_all(b"a")
        else:
            await theirs.send_eof()

    async def close(stream: FilteredReceiveStream, number: int) -> None:
        await _steps(number % 7)
        await stream.aclose()

    with trio.fail_after(BOUND):
        for number in range(200):
            recorder = EofRecorder[bytes]()
            ours, theirs = await _tcp_pair()
            stream = FilteredReceiveStream(ours, Pipeline(recorder))
            async with theirs, trio.open_nursery() as nursery:
                nursery.start_soon(read, stream)
                nursery.start_soon(speak, theirs, number)
                nursery.start_soon(close, stream, number)
            assert recorder.ending in ([Closed()] if number % 2 else [Closed(), Eof()])
    assert sum(seen.values()) == 200
    assert seen.keys() == {"a", "EOF", "closed"}


async def test_closer_and_relay_race_over_sockets() -> None:
    """Two hundred times a relay between sockets is stopped while bytes and an end come: one outcome each, no lie."""
    outcomes: list[Outcome] = []

    async def speak(upstream: trio.SocketStream, number: int) -> None:
        await upstream.send_all(b"a")
        await _steps(number % 5)
        await upstream.aclose()

    async def stop(a_relay: Relay, number: int) -> None:
        await _steps(number % 11)
        a_relay.stop(Closed())

    with trio.fail_after(BOUND):
        for number in range(200):
            source, upstream = await _tcp_pair()
            sink, client = await _tcp_pair()
            a_relay = Relay(source, Pipeline(), sink, record=outcomes.append)
            async with client, trio.open_nursery() as nursery:
                nursery.start_soon(a_relay.run)
                nursery.start_soon(speak, upstream, number)
                nursery.start_soon(stop, a_relay, number)
            assert len(outcomes) == number + 1
    assert {type(outcome.ending) for outcome in outcomes} == {Closed, Eof}
