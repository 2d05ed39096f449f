"""The switchboard alone, over real sockets: who is called when, and who meets what."""

from __future__ import annotations

import contextlib
import contextvars
import select
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trio.testing

from sseflow import Eof, Failed, Pipeline, Relay
from sseflow._switchboard import BATCH, Switchboard

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

    def __init__(self, log: list[int]) -> None:
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
        raise AssertionError("the switchboard reads")

    def receive_nowait(self) -> bytes | None:
        try:
            return self._sock.recv(100)
        except BlockingIOError:
            return None

    async def aclose(self) -> None:
        self._log.append("close")

    async def send_head(self, head: object, data: bytes) -> None:
        raise AssertionError("there is no head")

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
