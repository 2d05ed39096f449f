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
        self._calls: dict[int, Callable[[], object]] = {}

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
        descriptor, poll, calls = self._epoll.fileno(), self._epoll.poll, self._calls
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            self.now = trio.current_time()
            for ready, _ in poll(0, BATCH):
                call = calls.get(ready)
                if call is not None:
                    call()

    async def lend(self, descriptor: int, step: Callable[[], bool]) -> None:
        """Have ``step`` called whenever ``descriptor`` is readable, until it returns False.

        Raises what it raises. A cancellation takes back at once: ``step`` is not called any more.
        """
        task = trio.lowlevel.current_task()
        run = task.context.run
        raised: BaseException | None = None

        def call() -> None:
            nonlocal raised
            try:
                if run(step):
                    return
            except BaseException as error:
                raised = error
            if self._calls.get(descriptor) is call:  # else the step had its own pump cancelled
                self._remove(descriptor)
                trio.lowlevel.reschedule(task)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._remove(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        self._add(descriptor, select.EPOLLIN, call)
        await trio.lowlevel.wait_task_rescheduled(abort)
        if raised is not None:
            raise raised

    def watch(self, descriptor: int, on_left: Callable[[], object]) -> Callable[[], None]:
        """Call ``on_left``, once, when the peer has closed its end, also if bytes that it sent before were not read.

        Returns:
            What ends the watch; to be called before the descriptor is closed, and harmless when called again.
        """

        def call() -> None:
            forget()
            on_left()

        def forget() -> None:
            if self._calls.get(descriptor) is call:
                self._remove(descriptor)

        self._add(descriptor, select.EPOLLRDHUP, call)
        return forget

    def _add(self, descriptor: int, events: int, call: Callable[[], object]) -> None:
        self._epoll.register(descriptor, events)
        self._calls[descriptor] = call

    def _remove(self, descriptor: int) -> None:
        del self._calls[descriptor]
        self._epoll.unregister(descriptor)
