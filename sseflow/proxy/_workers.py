"""Several processes on the same addresses: a supervisor that starts workers, keeps them alive, and ends them.

Each worker is this very program, started anew with the sockets that the supervisor opened, and nothing else is shared.
A worker and the supervisor have one pair of sockets between them, on which the worker says that it serves, and the
supervisor passes on each signal that it got, as one byte. Its end is how both notice that the other one has gone,
however that came about. Signals themselves are blocked in a worker from its first moment on: a terminal, or a service
manager, sends one to the whole group, and twice told is "cut at once".

The supervisor keeps the sockets, too. So connections that wait for a worker that died wait for the next one, and no
address is ever without an owner; and when the end has come it has to let go of them before any worker does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence

import attrs
import structlog
import trio

from ..http import Address, Listener
from ._app import CLOSING
from ._settings import Binding

ENVIRONMENT = "SSEFLOW_WORKER"
"""The variable in which a worker finds its `Place`."""

QUICK = 10.0
"""Seconds. A worker that dies sooner than this after it was started died quickly: starting it again may not mend it."""

MAX_QUICK = 5
"""Quick deaths of a worker, one behind the other, at which the supervisor gives up."""

PAUSE = 0.25
"""Seconds between a quick death and the next start; twice as long behind each further one."""

STARTING = 60.0
"""Seconds until a worker serves. It takes less than one, but a machine may be busy."""

GRACE = CLOSING + 5.0
"""Seconds that a worker has to end behind its time for live streams, until it is killed."""

ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that tell a process to end."""

RELOAD: int | None = getattr(signal, "SIGHUP", None)
"""The one that tells it to read its configuration again; Windows has none."""

SIGNALS = (*ENDING, *(() if RELOAD is None else (RELOAD,)))
_SERVING = b"."


@attrs.frozen
class Place:
    """Which of the workers this process is, and what it was handed."""

    number: int
    control: int
    """The descriptor of its end of the pair."""

    listeners: tuple[tuple[int, str, int], ...]
    """Descriptors, their addresses, and which of the settings' bindings they belong to."""

    @classmethod
    def take(cls) -> Place | None:
        """The place of this process; None if it is no worker. No child of its own finds it any more."""
        text = os.environ.pop(ENVIRONMENT, None)
        if text is None:
            return None
        number, control, listeners = json.loads(text)
        return cls(number, control, tuple((descriptor, address, at) for descriptor, address, at in listeners))

    def give(self) -> dict[str, str]:
        """The environment of a process that is to take it."""
        return {**os.environ, ENVIRONMENT: json.dumps(attrs.astuple(self))}

    def open(self, bindings: Sequence[Binding]) -> list[Listener]:
        """The sockets that it was handed."""
        listeners = []
        for descriptor, address, at in self.listeners:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            listeners.append(Listener(sock, Address.parse(address), bindings[at].tls, lent=True))
        return listeners

    def say_that_it_serves(self) -> None:
        """Tell the supervisor."""
        with contextlib.suppress(OSError):  # it has gone: `signals` ends
            os.write(self.control, _SERVING)

    async def signals(self) -> AsyncIterator[int | None]:
        """The signals that the supervisor passes on; None if it has gone before it passed one on."""
        number: int | None = None
        while True:
            await trio.lowlevel.wait_readable(self.control)
            data = b""
            with contextlib.suppress(OSError):
                data = os.read(self.control, 1)
            if not data:
                break
            number = data[0]
            yield number
        if number is None:
            yield None


@attrs.define
class Backoff:
    """When a worker that has died is started again: at once, unless it dies again and again."""

    quick: int = 0
    """Quick deaths, one behind the other."""

    def pause(self, lived: float) -> float | None:
        """Seconds to wait behind a life of so many; None: give up."""
        if lived >= QUICK:
            self.quick = 0
            return 0.0
        self.quick += 1
        return PAUSE * 2.0 ** (self.quick - 1) if self.quick < MAX_QUICK else None


class Worker:
    """A worker as the supervisor sees it: a process, and an end of the pair."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.process = process
        self._control = control

    @classmethod
    def start(
        cls, command: Sequence[str], number: int, listeners: Sequence[Listener], bindings: Sequence[Binding]
    ) -> Worker:
        """Start one.

        Raises:
            OSError: the system has no descriptor, or no process, for it.
        """
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            contexts = [binding.tls for binding in bindings]
            handed = [(one.sock.fileno(), str(one.address), contexts.index(one.tls)) for one in listeners]
            place = Place(number, theirs.fileno(), tuple(handed))
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child gets it as it is
            try:
                process = subprocess.Popen(
                    command,
                    env=place.give(),
                    pass_fds=(place.control, *(descriptor for descriptor, _, _ in place.listeners)),
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def tell(self, number: int) -> None:
        """Pass a signal on."""
        with contextlib.suppress(OSError):  # it has just died
            self._control.send(bytes([number]))

    async def serves(self) -> bool:
        """Wait until it says that it serves, or dies before: False."""
        return await self._receive() == _SERVING

    async def ended(self) -> int:
        """Wait for its end, and return its exit status."""
        while await self._receive():
            pass
        self._control.close()
        # Its descriptors were closed, and it has nothing to do behind that: this does not block.
        return self.process.wait()

    async def _receive(self) -> bytes:
        await trio.lowlevel.wait_readable(self._control)
        try:
            return self._control.recv(1)
        except OSError:  # it died with a signal unread
            return b""


class Supervisor:
    """Keeps workers running until it is told to end them.

    Args:
        command: what starts a worker.
        shares: the listeners of each worker; closed when the workers are to end.
        bindings: what they were made of.
        drain: seconds that live streams have then.
        reloads: whether they have a configuration that they can read again.
        announce: called once, when all workers serve.
    """

    def __init__(
        self,
        command: Sequence[str],
        shares: Sequence[Sequence[Listener]],
        *,
        bindings: Sequence[Binding],
        drain: float,
        reloads: bool = False,
        announce: Callable[[], object],
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._command = command
        self._shares = shares
        self._bindings = bindings
        self._drain = drain
        self._reloads = reloads
        self._announce = announce
        self._log = log
        self._workers: dict[int, Worker] = {}
        self._served: set[int] = set()
        self._status = 0
        self._draining = trio.Event()
        self._hurry = trio.Event()

    async def run(self) -> int:
        """Run until the last worker has ended; return the exit status, the worst of theirs."""
        with trio.open_signal_receiver(*(SIGNALS if self._reloads else ENDING)) as signals:
            async with trio.open_nursery() as helpers:
                helpers.start_soon(self._pass_on, signals)
                helpers.start_soon(self._end_in_time)
                async with trio.open_nursery() as nursery:
                    for number, listeners in enumerate(self._shares, 1):
                        nursery.start_soon(self._keep, number, listeners)
                helpers.cancel_scope.cancel()
        self._log.info("ended", status=self._status)
        return self._status

    def drain(self, number: int = signal.SIGTERM) -> None:
        """Tell the workers to end: as each of these signals would tell a process that is alone."""
        if self._draining.is_set():
            self._hurry.set()
        self._draining.set()
        for listeners in self._shares:
            for listener in listeners:
                listener.close()
        for worker in self._workers.values():
            worker.tell(number)

    async def _pass_on(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == RELOAD:
                for worker in self._workers.values():
                    worker.tell(number)
                continue
            self._log.info("draining", signal=signal.Signals(number).name, seconds=self._drain)
            self.drain(number)

    async def _end_in_time(self) -> None:
        await self._draining.wait()
        with trio.move_on_after(self._drain):
            await self._hurry.wait()
        await trio.sleep(GRACE)
        for number, worker in self._workers.items():
            self._log.error("worker killed", worker=number, pid=worker.process.pid)
            worker.process.kill()

    async def _keep(self, number: int, listeners: Sequence[Listener]) -> None:
        """Have this worker run, start it again when it dies, and note how it ended when it was told to."""
        backoff = Backoff()
        while not self._draining.is_set():
            started = trio.current_time()
            status = await self._live(number, listeners)
            if self._draining.is_set():
                self._status = max(self._status, status if status >= 0 else 1)
                return
            # What does not even start is not tried again: whoever starts it wants to know.
            pause = backoff.pause(trio.current_time() - started) if self._all_served() else None
            self._log.error("worker died", worker=number, status=status, pause=pause)
            if pause is None:
                self._log.error("giving up", worker=number)
                self._status = 1
                self.drain()
                return
            with trio.move_on_after(pause):
                await self._draining.wait()

    async def _live(self, number: int, listeners: Sequence[Listener]) -> int:
        """One life of a worker; return its exit status, negative for the signal that killed it."""
        try:
            worker = Worker.start(self._command, number, listeners, self._bindings)
        except OSError as error:
            self._log.error("worker cannot be started", worker=number, error=str(error))
            return 1
        self._workers[number] = worker
        try:
            with trio.move_on_after(STARTING) as scope:
                if await worker.serves():
                    self._welcome(number, worker)
            if scope.cancelled_caught:
                worker.process.kill()
            return await worker.ended()
        finally:
            del self._workers[number]

    def _welcome(self, number: int, worker: Worker) -> None:
        self._log.info("worker started", worker=number, pid=worker.process.pid)
        if not self._all_served():
            self._served.add(number)
            if self._all_served() and not self._draining.is_set():
                self._announce()

    def _all_served(self) -> bool:
        return len(self._served) == len(self._shares)
