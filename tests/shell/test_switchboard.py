"""The switchboard alone, over real sockets: who is called when, and who meets what."""

from __future__ import annotations

import contextlib
import contextvars
import select
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sized

import pytest
import trio
import trio.testing

from sseflow import Eof, Failed, Head, Pipeline, Relay, Stage, by_line
from sseflow._relay import FULL, MOST_READS
from sseflow._switchboard import BATCH, Switchboard
from sseflow.stages import CommentStripper

pytestmark = pytest.mark.skipif(not Switchboard.is_supported(), reason="this system has no epoll")


@pytest.fixture
async def board() -> AsyncIterator[Switchboard]:
    """A switchboard that runs."""
    board = Switchboard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.run)
        yield board
        nursery.cancel_scope.cancel()
    assert not board._entries
    board.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with contextlib.closing(near), contextlib.closing(far):
        yield near, far


Pair = tuple[socket.socket, socket.socket]


async def test_a_step_is_called_until_it_says_no(board: Switchboard, pair: Pair) -> None:
    """It is called whenever there is something to read, also for what was left, and then the task goes on."""
    near, far = pair
    read: list[bytes] = []

    def step() -> bool:
        read.append(near.recv(2))
        return read[-1] != b"!"

    far.send(b"abc")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.lend, near.fileno(), step)
        await trio.testing.wait_all_tasks_blocked()
        assert read == [b"ab", b"c"]
        far.send(b"!")
    assert read == [b"ab", b"c", b"!"]
    far.send(b"?")
    await trio.testing.wait_all_tasks_blocked()
    assert read[3:] == []


async def test_a_cancellation_takes_back_at_once(board: Switchboard, pair: Pair) -> None:
    """Behind the call that cancels, and before anything else has run, no step is called any more."""
    near, far = pair
    steps: list[None] = []

    def step() -> bool:
        steps.append(None)
        return True

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.lend, near.fileno(), step)
            await trio.testing.wait_all_tasks_blocked()
            far.send(b"x")
            scope.cancel()
            assert not board._entries
    assert not steps


async def test_a_step_may_have_its_own_task_cancelled(board: Switchboard, pair: Pair) -> None:
    """As a stage does that has the stream stopped: the step ends what it has begun, and is not called again."""
    near, far = pair
    steps: list[bytes] = []
    scope = trio.CancelScope()

    def step() -> bool:
        scope.cancel()
        steps.append(near.recv(1))
        return len(steps) % 2 == 0  # whatever it says

    far.send(b"ab")
    with scope:
        await board.lend(near.fileno(), step)
    assert scope.cancelled_caught
    assert steps == [b"a"]


async def test_who_lends_meets_what_its_step_raises(board: Switchboard, pair: Pair) -> None:
    """Also what is no `Exception`; the switchboard, and all others on it, go on."""
    near, far = pair
    far.send(b"x")

    def interrupt() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await board.lend(near.fileno(), interrupt)
    await board.lend(near.fileno(), lambda: False)


async def test_steps_run_in_the_context_of_who_lends(board: Switchboard, pair: Pair) -> None:
    """Context variables are those of the stream's own task."""
    near, far = pair
    name = contextvars.ContextVar("name", default="nobody")
    name.set("the stream")
    seen: list[str] = []
    far.send(b"x")

    def step() -> bool:
        seen.append(name.get())
        return False

    await board.lend(near.fileno(), step)
    assert seen == ["the stream"]


class _Turns(trio.abc.Instrument):
    """How many streams were served in each turn of Trio's loop."""

    def __init__(self, log: Sized) -> None:
        self._log = log
        self._before = 0
        self.served: list[int] = []

    def before_io_wait(self, timeout: float) -> None:
        self.served.append(len(self._log) - self._before)
        self._before = len(self._log)


async def test_many_streams_are_served_in_turns(board: Switchboard) -> None:
    """More streams than fit into a batch, all with more than one read: all are served, and other tasks run between."""
    pairs = [socket.socketpair() for _ in range(BATCH + 50)]
    served: list[int] = []
    turns = _Turns(served)
    with contextlib.ExitStack() as stack:
        async with trio.open_nursery() as nursery:
            for at, (near, far) in enumerate(pairs):
                stack.enter_context(near)
                stack.enter_context(far)

                def step(at: int = at, near: socket.socket = near) -> bool:
                    served.append(at)
                    return near.recv(1) != b"2"

                nursery.start_soon(board.lend, near.fileno(), step)
            await trio.testing.wait_all_tasks_blocked()
            for _, far in pairs:
                far.send(b"12")
            trio.lowlevel.add_instrument(turns)
    trio.lowlevel.remove_instrument(turns)
    assert sorted(served) == sorted([*range(len(pairs))] * 2)
    assert max(turns.served) <= BATCH
    assert sum(map(bool, turns.served)) >= 3


async def test_a_watch_tells_that_the_peer_has_left(board: Switchboard, pair: Pair) -> None:
    """Once, though bytes that it sent before were not read, and not for bytes alone."""
    near, far = pair
    left: list[None] = []
    board.watch(near.fileno(), lambda: left.append(None))
    far.send(b"unread")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not left
    far.shutdown(socket.SHUT_WR)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert left == [None]


async def test_a_watch_can_be_ended(board: Switchboard, pair: Pair) -> None:
    """Then nothing is told; ending it twice, or behind its end, is nothing."""
    near, far = pair
    left: list[None] = []
    watch = board.watch(near.fileno(), lambda: left.append(None))
    watch.end()
    watch.end()
    again = board.watch(near.fileno(), lambda: left.append(None))
    watch.end()
    assert board._entries
    far.close()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert left == [None]
    again.end()


class Polled:
    """A socket as a source, and a sink, that can be used without waiting."""

    def __init__(self, sock: socket.socket, log: list[str]) -> None:
        self.ready = False
        self._sock = sock
        self._log = log
        self.sent = b""
        self.full = False

    def fileno(self) -> int:
        return self._sock.fileno()

    async def receive_some(self) -> bytes:
        await trio.lowlevel.wait_readable(self._sock)
        return self._sock.recv(100)

    def receive_nowait(self) -> bytes | None:
        self.ready = False
        try:
            return self._sock.recv(100)
        except BlockingIOError:
            return None

    async def aclose(self) -> None:
        self._log.append("close")

    async def send_head(self, head: object, data: bytes) -> None:
        self._log.append(f"head {data!r}")

    async def send_all(self, data: bytes) -> None:
        self._log.append(f"pump {data!r}")

    def send_nowait(self, data: bytes) -> bool:
        self._log.append(f"step {data!r}")
        return not self.full

    async def flush(self) -> None:
        self._log.append("flush")
        self.full = False

    async def finish(self, end: object) -> None:
        self._log.append(f"finish {type(end).__name__}")


async def test_a_relay_is_lent_and_taken_back(board: Switchboard, pair: Pair) -> None:
    """Plain bytes are passed on by steps; what would block is flushed by the pump, and the end is its own."""
    near, far = pair
    log: list[str] = []
    ends = Polled(near, log)
    relay = Relay(ends, Pipeline(), ends, switchboard=board)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        for data in (b"a", b"b"):
            far.send(data)
            await trio.testing.wait_all_tasks_blocked(0.01)
        ends.full = True
        far.send(b"c")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert relay.reading_since is not None
        far.close()
    assert log == ["step b'a'", "step b'b'", "step b'c'", "flush", "finish Eof", "close"]


async def test_a_relay_that_is_lent_can_be_stopped(board: Switchboard, pair: Pair) -> None:
    """Stopping takes it back; what is read behind that is nobody's."""
    near, far = pair
    log: list[str] = []
    ends = Polled(near, log)
    relay = Relay(ends, Pipeline(), ends, switchboard=board)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        far.send(b"a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        relay.stop(Failed(ValueError()))
        far.send(b"b")
    assert log == ["step b'a'", "close", "finish Failed"]
    assert select.select([near], [], [], 0)[0]


async def test_a_source_without_a_descriptor_is_pumped(board: Switchboard) -> None:
    """The ordinary way serves what cannot be polled."""
    send, receive = trio.testing.memory_stream_pair()
    await send.send_all(b"a")
    await send.send_eof()
    to, out = trio.testing.memory_stream_pair()
    outcome = await Relay(receive, Pipeline(), to, switchboard=board).run()
    assert outcome.ending == Eof()
    assert await out.receive_some() == b"a"


class Calls(Stage[bytes]):
    """Calls a function when bytes come, and holds the head until then."""

    def __init__(self, what: Callable[[], object]) -> None:
        self._what = what
        self._called = False

    def head(self, head: Head, /) -> Head | None:
        return head if self._called else None

    def feed(self, batch: bytes, /) -> bytes:
        self._called = True
        self._what()
        return batch


async def test_a_wake_from_a_stage_is_not_slept_through(board: Switchboard, pair: Pair) -> None:
    """Also when the pump makes the step itself, because the source is ready, and has not lent anything yet."""
    near, far = pair
    log: list[str] = []
    ends = Polled(near, log)
    ends.ready = True
    far.send(b"a")

    async def on_wake() -> None:
        log.append("woken")
        relay.stop(Failed(ValueError()))

    relay = Relay(ends, Pipeline(Calls(lambda: relay.wake())), ends, switchboard=board, on_wake=on_wake)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    assert log == ["step b'a'", "woken", "close", "finish Failed"]


@pytest.mark.parametrize("lent", [True, False], ids=["lent", "pumped"])
@pytest.mark.parametrize("end", [Eof(), Failed(ValueError())], ids=["eof", "failed"])
async def test_a_stage_that_stops_loses_nothing(board: Switchboard, pair: Pair, end: Eof | Failed, lent: bool) -> None:
    """What the step that it is stopped in has left to the pump goes out before the end, as it does without a loan."""
    near, far = pair
    log: list[str] = []
    ends = Polled(near, log)
    stage = Calls(lambda: relay.stop(end))
    relay = Relay(ends, Pipeline(stage), ends, head=Head(200), switchboard=board if lent else None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        far.send(b"a")
    written = ["finish Eof", "close"] if end == Eof() else ["close", "finish Failed"]
    assert log == ["head b'a'", *written]


class Full(Polled):
    """Has a lot to say before the socket has."""

    def __init__(self, sock: socket.socket, log: list[str], reads: int) -> None:
        super().__init__(sock, log)
        self._left = reads

    def receive_nowait(self) -> bytes | None:
        if not self._left:
            return super().receive_nowait()
        self._left -= 1
        return bytes(FULL)


async def test_a_stream_that_never_pauses_lets_others_have_their_turn(board: Switchboard, pair: Pair) -> None:
    """A step reads on behind a full read, which saves a turn, but not for as long as the reads are full."""
    near, far = pair
    log: list[str] = []
    ends = Full(near, log, 3 * MOST_READS)
    turns = _Turns(log)
    relay = Relay(ends, Pipeline(), ends, switchboard=board)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(turns)
        far.send(b"a")
        await trio.testing.wait_all_tasks_blocked(0.01)
        trio.lowlevel.remove_instrument(turns)
        assert len(log) == 3 * MOST_READS + 1
        assert max(turns.served) == MOST_READS
        far.close()


async def test_a_step_notes_the_time(board: Switchboard, pair: Pair, mock_clock: trio.testing.MockClock) -> None:
    """When something was read, and when something was written, for whoever watches the time."""
    near, far = pair
    ends = Polled(near, [])
    relay = Relay(ends, Pipeline(by_line(CommentStripper())), ends, switchboard=board)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay.run)
        await trio.testing.wait_all_tasks_blocked(0.01)
        begun = trio.current_time()
        for data, read, written in ((b"data: 1\n\n", 5, 5), (b": dropped\n\n", 10, 5), (b"data: 2\n\n", 15, 15)):
            mock_clock.jump(5)
            far.send(data)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert relay.reading_since == begun + read
            assert relay.quiet_since == begun + written
        # Woken, and once more lent, it has been silent for as long as before.
        mock_clock.jump(5)
        relay.wake()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert relay.reading_since == begun + 15
        far.close()
