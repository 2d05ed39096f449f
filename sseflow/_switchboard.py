"""Drive many relays from one task: one nested epoll instead of a wake-up for each read."""

# Theory of operation
#
# Waiting for one read costs Trio a registration with the system, a schedule and a wake-up. For a stream of tokens that
# is most of what a relay costs. So a pump may lend its stream: it sleeps, and the task of the switchboard, which waits
# for an epoll of its own inside of Trio's, calls the relay's step for each stream that has become readable. A step
# reads, feeds the pipeline and sends, without waiting: the same relay with the same state, driven by another task.
#
# What must hold:
#
# * One writer. While a stream is lent its pump sleeps, and writes nothing. It is taken back in the same synchronous
#   moment in which the step says that it is no longer plain (a write that would block, a head, an ending, an error), or
#   in which the pump is cancelled: Trio calls the abort function of a sleeping task at once, from whoever cancels. That
#   may be the step itself, by way of a stage that has the stream stopped; the step still ends what it has begun, since
#   the pump cannot run before it has.
# * No byte is lost. Between two steps nothing has been read that was not fed and sent, or left with the relay.
# * The stream's own task meets everything. What a step raises is raised in the pump, and steps run in the context
#   of the pump's task.
# * Nobody starves. At most `BATCH` descriptors are served between two turns of Trio's loop. All are level-triggered:
#   who was not served, or has not been read to the end, is ready in the next turn.
# * A descriptor is registered only while somebody waits for it, and unregistered before it can be closed: only tasks
#   close, and none runs during a batch. So a number in a batch is never that of another connection.
#
# A watch is the other use of the same epoll: it tells that a peer has left (EPOLLRDHUP) without a task that reads.

from __future__ import annotations

import select
from collections.abc import Callable
from typing import NoReturn

import trio

BATCH = 256
"""Descriptors that are served in one turn: some two milliseconds of work."""


class Switchboard:
    """What pumps lend their streams to. One serves a whole program; `run` has to run as long as anybody uses it."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._entries: dict[int, _Loan | Watch] = {}

        self.now = 0.0
        """The time of `trio.current_time` at which the batch that is being served was polled."""

    @staticmethod
    def is_supported() -> bool:
        """Whether this system has what it takes."""
        return hasattr(select, "epoll")

    def close(self) -> None:
        """Close the descriptor. Nobody may use the switchboard any more."""
        self._epoll.close()

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> NoReturn:
        """Serve until cancelled."""
        descriptor, poll, entries = self._epoll.fileno(), self._epoll.poll, self._entries
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            self.now = trio.current_time()
            for ready, _ in poll(0, BATCH):
                entry = entries.get(ready)
                if entry is not None:
                    entry.call()

    async def lend(self, descriptor: int, step: Callable[[], bool]) -> None:
        """Have ``step`` called whenever ``descriptor`` is readable, until it returns False or `recall` is called.

        Raises what it raises. A cancellation takes back at once: ``step`` is not called any more.
        """
        loan = _Loan(self, descriptor, step)
        self._add(descriptor, select.EPOLLIN, loan)
        await trio.lowlevel.wait_task_rescheduled(loan.abort)
        if loan.raised is not None:
            raise loan.raised

    def recall(self, descriptor: int) -> None:
        """Have `lend` return, if the descriptor is lent. Takes back at once."""
        entry = self._entries.get(descriptor)
        if isinstance(entry, _Loan):
            entry.give_back()

    def watch(self, descriptor: int, on_left: Callable[[], object]) -> Watch:
        """Call ``on_left``, once, when the peer has closed its end, also if bytes that it sent before were not read.

        The watch must be ended before the descriptor is closed.
        """
        watch = Watch(self, descriptor, on_left)
        self._add(descriptor, select.EPOLLRDHUP, watch)
        return watch

    def _add(self, descriptor: int, events: int, entry: _Loan | Watch) -> None:
        self._epoll.register(descriptor, events)
        self._entries[descriptor] = entry

    def _remove(self, descriptor: int) -> None:
        del self._entries[descriptor]
        self._epoll.unregister(descriptor)


# There is one of each for every stream, so they are small.


class _Loan:
    """A stream that is lent, and the task that sleeps meanwhile."""

    __slots__ = ("_board", "_descriptor", "_step", "_task", "raised")

    def __init__(self, board: Switchboard, descriptor: int, step: Callable[[], bool]) -> None:
        self._board = board
        self._descriptor = descriptor
        self._step = step
        self._task = trio.lowlevel.current_task()
        self.raised: BaseException | None = None

    def call(self) -> None:
        try:
            if self._task.context.run(self._step):
                return
        except BaseException as error:
            self.raised = error
        if self._board._entries.get(self._descriptor) is self:  # else the step had its own pump cancelled
            self.give_back()

    def give_back(self) -> None:
        self._board._remove(self._descriptor)
        trio.lowlevel.reschedule(self._task)

    def abort(self, _: object) -> trio.lowlevel.Abort:
        self._board._remove(self._descriptor)
        return trio.lowlevel.Abort.SUCCEEDED


class Watch:
    """What tells that a peer has left; see `Switchboard.watch`."""

    __slots__ = ("_board", "_descriptor", "_on_left")

    def __init__(self, board: Switchboard, descriptor: int, on_left: Callable[[], object]) -> None:
        self._board = board
        self._descriptor = descriptor
        self._on_left = on_left

    def call(self) -> None:
        self.end()
        self._on_left()

    def end(self) -> None:
        """Tell nothing any more. Does nothing the second time, or when it has told."""
        if self._board._entries.get(self._descriptor) is self:
            self._board._remove(self._descriptor)
