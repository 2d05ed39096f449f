"""Inject faults at every checkpoint of a stream, and check what must hold whatever happens."""

# Theory of operation
#
# A run stands on a `Rig`: an upstream and a client in memory, which pause a virtual second here and there so that there
# is always a moment in which somebody sleeps. The clock is Trio's `MockClock`, which jumps when all tasks sleep, so a
# minute costs nothing.
#
# A *checkpoint* is a moment in which something else may happen: before each step of a task, and whenever all tasks
# sleep. An instrument counts them. A first run, in which nothing is injected, gives their number and the output that
# all others are compared with; then one run is made for each checkpoint and each fault and, on request, for each pair
# of them. The second fault of a pair is walked over the checkpoints of the run that already has the first one.
#
# The instrument injects from inside Trio's scheduler, where no task runs. For the tasks of the scenario this is as if
# another task had run just then; a fault that has to wait (an asynchronous ``close``) gets a task of its own.
#
# A deadlock needs no patience: if all tasks sleep and no deadline is left, nothing can happen any more. Then the run is
# torn down by force, shields and all, and the transcript says where everybody waited.
#
# Two tasks that can run in the same tick do so in an order that Trio draws. The names with which the order can be fixed
# are private to Trio. Where they exist, runs are made in one fixed order and can be repeated exactly, and
# ``deviations`` walks all other orders that differ from it in so many ticks. Where they do not, Trio draws.
#
# What this does not see: kernels (a socket's buffers, resets), threads, and code that neither reads nor writes nor ends
# and swallows every `BaseException`: that spins for ever.

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import math
import re
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import attrs
import trio
import trio.testing

from .._items import Cancelled, Closed, End, Eof, Failed, Head
from .._pipeline import Pipeline
from .._relay import Outcome, Relay, Sink, Source
from .._stage import Chain, Stage

FAULTS = ("cancel", "close", "upstream EOF", "upstream error", "write error")
"""The faults that `inject` injects by default: a cancellation of the whole, a close from another task, an upstream that
ends here, an upstream that breaks here, a client that cannot be written to from here on."""

STALLS = ("upstream stall", "write stall", "close stall")
"""Peers that do nothing from here on: an upstream that sends no more, a client that takes no more, an upstream whose
closing never returns. A hundred virtual seconds after one of the first two the stream is closed; nothing else must be
needed to end it."""

STOPS = ("stop Failed", "stop Eof")
"""What else `Relay.stop` is called with. A scenario that is no `Relay` may have faults of these names of its own."""

_PAUSE = 1.0
"""Virtual seconds that the upstream waits before each chunk, and the client in the middle of each write."""

_RESCUE_AFTER = 100.0
"""Virtual seconds after which a stalled stream is closed: far behind every timeout in `Relay`."""

_HANG_AFTER = 300.0
"""Virtual seconds after which a run has hung: the rescue, and every timeout that may follow it, are long over."""

_MOST_CHECKPOINTS = 10_000
"""Checkpoints after which a run spins; the streams that can be walked have a few dozen."""

# The endings that each fault may cause. `Failed` is always possible, since stages may raise; so is the ending of the
# run without a fault. A fault that is not in the table may cause anything.
_MAY_CAUSE: Mapping[str, tuple[type[End], ...]] = {
    "cancel": (Cancelled,),
    "close": (Closed,),
    "upstream EOF": (Eof,),
    "upstream error": (),
    "upstream stall": (Closed,),
    "write error": (Closed,),
    "write stall": (Closed,),
    "close stall": (),
    "stop Failed": (),
    "stop Eof": (Eof,),
}

_PipelineT = TypeVar("_PipelineT", bound=Pipeline)

#: A fault, and the checkpoint at which it is injected.
_Injection: TypeAlias = tuple[str, int]


@attrs.frozen(kw_only=True)
class Scenario:
    """What is run and how it is closed, for `inject`; needed for whatever is not a `Relay`."""

    run: Callable[[], Awaitable[object]]
    """Run to the end. Exceptions that are expected must be caught in here; one that comes out fails the run."""

    close: Callable[[], object] | None = None
    """Close from another task: a function, or an asynchronous one, which then runs in a task of its own."""

    faults: Mapping[str, Callable[[], object]] = attrs.field(factory=dict)
    """Faults of the scenario's own, by name. They are like ``close``."""


@attrs.frozen
class Report:
    """What `inject` did. That it returns at all says that every run was in order."""

    checkpoints: int
    """Of the run without a fault."""

    runs: int
    endings: Mapping[str, int]
    """How the recorded outcomes ended, by the name of the ending, with the number of runs."""

    seconds: float
    """Real ones."""

    def __str__(self) -> str:
        endings = ", ".join(f"{name} {count}" for name, count in sorted(self.endings.items()))
        return f"{self.runs} runs over {self.checkpoints} checkpoints in {self.seconds:.1f} s ({endings})"


class InjectionError(AssertionError):
    """A run was not in order. The message says which one, what was wrong, how to repeat it, and what happened in it."""

    def __init__(self, injected: str, findings: Sequence[str], transcript: str) -> None:
        super().__init__(
            f"{injected or 'without a fault'}: {'; '.join(findings)}\n"
            f"To repeat this run alone: inject(..., only={injected!r})\n{transcript}"
        )
        self.injected = injected
        """The run, as ``only`` takes it."""
        self.findings = tuple(findings)
        """What was wrong."""


class _TornDown(BaseException):
    """Ends what hangs, be it shielded or not."""


def inject(
    scenario: Callable[[Rig], Relay | Scenario],
    chunks: Iterable[bytes],
    *,
    ending: Eof | Failed | None = Eof(),  # noqa: B008 - it is frozen
    kinds: Iterable[str] | None = None,
    pairs: bool = False,
    deviations: int = 0,
    output: Callable[[bytes], bool] | None = None,
    only: str | None = None,
) -> Report:
    """Run a scenario again and again, each time with a fault at another checkpoint, and check each run.

    ::

        def scenario(rig):
            pipeline = rig.watch(StandardPipeline(OpenAIChat()))
            return Relay(rig.source, pipeline, rig.sink, head=HEAD, record=rig.record)

        print(inject(scenario, [b"data: 1\\n\\n", b"data: [DONE]\\n\\n"], pairs=True))

    This is a function that is called from outside of Trio. After each run these must hold:

    * It came to an end, and left no task behind.
    * Each stage of a watched pipeline was ended exactly once, in order.
    * Exactly one outcome was recorded, if the run without a fault recorded one, and it agrees with what was injected
      and with what upstream and client saw.
    * `Rig.source` was closed and `Rig.sink` finished exactly once; streams were closed at least once.
    * What the client was given is a beginning of what it is given without a fault.
    * The client, and the stages, saw a clean end only if the upstream ended cleanly. Nothing followed a write that
      failed or was cancelled.
    * A cancellation came out.

    Args:
        scenario: called for each run; builds everything anew on the `Rig` that it is given.
        chunks: what the upstream sends. A handful: each one adds some ten checkpoints.
        ending: how the upstream ends then; None if it stays open, until the stream is closed.
        kinds: names of faults: of `FAULTS`, `STALLS`, for a `Relay` of `STOPS`, or of the scenario's own. By default
            those of `FAULTS` that the scenario has a use for.
        pairs: whether to inject all pairs of faults, too. That is (checkpoints * kinds)² / 2 runs.
        deviations: in how many ticks the order of tasks may differ from the first one; see `no_schedules`.
        output: says whether the client may have been given these bytes; for stages that do not give a beginning of
            their output when the stream ends early.
        only: make this one run, as the message of an error names it.

    Raises:
        InjectionError: a run was not in order.
        ValueError: there is no such fault here.
        NotImplementedError: ``deviations`` was asked for, and this Trio has no way to choose a schedule.
    """
    reason = no_schedules()
    if deviations and reason is not None:
        raise NotImplementedError(reason)
    walk = _Walk(scenario, tuple(chunks), ending, deviations, output)
    with contextlib.nullcontext() if reason is not None else walk.chooser.installed():
        if only is None:
            walk.all(kinds, pairs=pairs)
        else:
            walk.one(only)
    return walk.report()


class Rig:
    """What a scenario is built on: an upstream and a client, in memory, for one run. Take of it what you need."""

    def __init__(self, run: _Run, chunks: Sequence[bytes], ending: Eof | Failed | None) -> None:
        self._run = run
        self._upstream = _Upstream(run, chunks, ending)
        self._client = _Client(run)

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

    def __init__(self, run: _Run) -> None:
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

    def __init__(self, run: _Run, chunks: Sequence[bytes], ending: Eof | Failed | None) -> None:
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

    def __init__(self, run: _Run) -> None:
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


class _Instrument(trio.abc.Instrument):
    """Counts the checkpoints of a run."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._runnable = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._run.tasks[task] = None

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del self._run.tasks[task]

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        self._runnable += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._runnable -= 1
        self._run.asleep_at = None
        if self._run.counting:
            self._run.checkpoint()

    def before_io_wait(self, timeout: float) -> None:
        if not self._runnable and self._run.counting:
            self._run.checkpoint()
        self._check_alive()

    def _check_alive(self) -> None:
        if not self._runnable and self._run.started:
            self._run.check_alive()


class _Run:
    """One run with its injections, and what was found in it."""

    def __init__(self, walk: _Walk, injections: Sequence[_Injection]) -> None:
        self.injections = injections
        self.checkpoints = 0
        self.counting = False
        self.started = False
        self.torn_down = False
        self.asleep_at: float | None = None  # when all tasks were found asleep; None since one of them has run
        self.used: set[str] = set()
        self.tasks: dict[trio.lowlevel.Task, None] = {}
        self.findings: list[str] = []
        self.transcript: list[tuple[int, str]] = []
        self.trace: list[int] = []
        self.arity: list[int] = []
        self._due = deque(injections)
        self._stages: list[str] = []
        self._ended: list[int] = []
        self._scope = trio.CancelScope()
        self._rescue_scope = trio.CancelScope()
        self._closed = False  # somebody else than the canceller ended the stream, or tried to
        self._cancel_seen = False
        self._result: object = None
        self.rig = Rig(self, walk.chunks, walk.ending)
        self.scenario, self.faults = self._faults_of(walk.scenario(self.rig))
        self._rescued = walk.ending is None  # it does not end by itself

    def _faults_of(self, scenario: Relay | Scenario) -> tuple[Scenario, dict[str, Callable[[], object]]]:
        """Say what is run, and what can be injected into it."""
        if isinstance(scenario, Relay):
            scenario = _scenario_of(scenario, self.rig)
        upstream, client = self.rig._upstream, self.rig._client
        faults: dict[str, Callable[[], object]] = {"cancel": self._scope.cancel}
        if scenario.close is not None:
            faults["close"] = scenario.close
        if "upstream" in self.used:
            faults["upstream EOF"] = lambda: upstream.cut(Eof())
            faults["upstream error"] = lambda: upstream.cut(Failed(trio.BrokenResourceError("injected")))
            faults["upstream stall"] = lambda: self._stall(lambda: upstream.cut(None))
            faults["close stall"] = lambda: setattr(upstream, "close_stalls", True)
        if "write" in self.used:
            faults["write error"] = self._break_client
            faults["write stall"] = lambda: self._stall(lambda: setattr(client, "stalls", True))
        return scenario, {**faults, **scenario.faults}

    def _break_client(self) -> None:
        self.rig._client.error = trio.BrokenResourceError("injected")
        self.rig._client.bell.ring()

    def _stall(self, stall: Callable[[], object]) -> None:
        stall()
        if not self._rescued:
            self._rescued = True
            self._nursery.start_soon(self._rescue)

    async def _rescue(self) -> None:
        with self._rescue_scope:
            await trio.sleep(_RESCUE_AFTER)
            self._do("close" if "close" in self.faults else "cancel")

    def run(self) -> None:
        clock = trio.testing.MockClock(autojump_threshold=0)
        try:
            trio.run(self._main, clock=clock, instruments=[_Instrument(self)])
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # What comes out of a run that was torn down says nothing.
            if not self.torn_down:
                self.find(f"{error!r} came out")

    async def _main(self) -> None:
        self._not_ours = {*self.tasks} - {trio.lowlevel.current_task()}
        self.started = True
        async with trio.open_nursery() as self._nursery:
            if self._rescued:
                self._nursery.start_soon(self._rescue)
            self.counting = True
            try:
                with self._scope:
                    self._result = await self.scenario.run()
            except Exception as error:
                self.find(f"{error!r} came out")
            finally:
                self.counting = False
                self._rescue_scope.cancel()
        self.started = False
        for task in self._ours():
            if task is not trio.lowlevel.current_task():
                self.find(f"the task {task.name} was left behind")

    def _ours(self) -> list[trio.lowlevel.Task]:
        return [task for task in self.tasks if task not in self._not_ours]

    def _waiting(self) -> list[trio.lowlevel.Task]:
        """The tasks that wait for something else than their children."""
        return [task for task in self._ours() if not any(nursery.child_tasks for nursery in task.child_nurseries)]

    def checkpoint(self) -> None:
        self.checkpoints += 1
        while self._due and self._due[0][1] == self.checkpoints:
            self._do(self._due.popleft()[0])
        if self.checkpoints > _MOST_CHECKPOINTS and not self.torn_down:
            self._tear_down("it spins")

    def _do(self, name: str) -> None:
        """Inject now. In the scheduler no exception may come out of here: Trio would only log it."""
        self.note(f"--- {name}")
        self._closed = self._closed or name == "close" or name not in {*FAULTS, *STALLS}
        try:
            waits = self.faults[name]()
            if inspect.isawaitable(waits):
                self._nursery.start_soon(self._wait, name, waits)
        except Exception as error:
            self.find(f"{name} raised {error!r}")

    async def _wait(self, name: str, awaitable: Awaitable[object]) -> None:
        try:
            await awaitable
        except Exception as error:
            self.find(f"{name} raised {error!r}")

    def check_alive(self) -> None:
        """Called when all tasks sleep: see whether anything can still happen."""
        if self.torn_down:
            # The cancellation did not wake them. A second one will not either, so wake them without a reason.
            for task in self._waiting():
                trio.lowlevel.reschedule(task)
        elif self.asleep_at == (now := trio.current_time()):
            # The clock would have jumped to a deadline, and somebody would have run.
            self._tear_down("deadlock: all tasks sleep, and nothing can wake them")
        elif now > _HANG_AFTER:
            self._tear_down(f"hang: it has not ended after {_HANG_AFTER:.0f} s")
        else:
            self.asleep_at = now

    def _tear_down(self, why: str) -> None:
        self.find(why)
        for task in self._waiting():
            self.note(f"{task.name} is in {_where(task)}")
        self.torn_down = True
        self.counting = False
        self._nursery.cancel_scope.cancel()
        self.rig._upstream.bell.ring()
        self.rig._client.bell.ring()

    @contextlib.contextmanager
    def noting_cancel(self) -> Iterator[None]:
        """Note if a cancellation of the whole arrives in here: then it has to come out of the scenario, too."""
        if self.torn_down:
            raise _TornDown
        deadline = trio.current_effective_deadline()
        try:
            yield
        except trio.Cancelled:
            self.note("... and is cancelled")
            if self._scope.cancel_called and not self._closed and _before(deadline):
                self._cancel_seen = True
            raise

    def note(self, what: str) -> None:
        self.transcript.append((self.checkpoints, what))

    def find(self, what: str) -> None:
        self.note(f"!!! {what}")
        self.findings.append(what)

    def watch(self, stage: Stage[bytes]) -> None:
        number = len(self._stages)
        self._stages.append(type(stage).__name__)
        original = stage.end

        def end(end: End, /) -> tuple[bytes | None, End]:
            self._ended.append(number)
            if number == 0 and isinstance(end, Eof) and not self.rig.clean_end:
                self.find("the stages were told of a clean end, and the upstream had none")
            return original(end)

        vars(stage)["end"] = end

    def judge(self, walk: _Walk, reference: _Run | None) -> None:
        """Check what must hold now that the run is over."""
        if self.torn_down:
            return
        if "upstream" in self.used:
            self.findings += self.rig._upstream.findings()
        if "write" in self.used:
            self.findings += self.rig._client.findings()
        self.findings += self._stage_findings()
        self.findings += self._outcome_findings(reference)
        if self._cancel_seen and not self._scope.cancelled_caught:
            self.findings.append("the cancellation was swallowed")
        got = bytes(self.rig._client.got)
        if walk.output is not None:
            if not walk.output(got):
                self.findings.append(f"the client was given {got!r}")
        elif reference is not None and not reference.rig._client.got.startswith(got):
            self.findings.append(f"the client was given {got!r}, no beginning of what it is given without a fault")

    def _stage_findings(self) -> Iterator[str]:
        if self._ended != list(range(len(self._stages))):
            order = ", ".join(self._stages[number] for number in self._ended)
            yield f"the stages that were ended are, in order: {order or 'none'}; not {', '.join(self._stages)}"

    def _outcome_findings(self, reference: _Run | None) -> Iterator[str]:
        outcomes = self.rig.outcomes
        expected = min(1, len(outcomes)) if reference is None else len(reference.rig.outcomes)
        if len(outcomes) != expected:
            yield f"{len(outcomes)} outcomes were recorded"
            return
        if isinstance(self._result, Outcome) and outcomes and self._result is not outcomes[0]:
            yield "the outcome that was recorded is not the one that was returned"
        for outcome in outcomes:
            yield from self._check_outcome(outcome, reference)

    def _check_outcome(self, outcome: Outcome, reference: _Run | None) -> Iterator[str]:
        ending, client = outcome.ending, self.rig._client
        possible: tuple[type[End], ...] = (Failed, Closed) if self._rescued else (Failed,)
        if reference is not None:
            possible += tuple(type(each.ending) for each in reference.rig.outcomes)
            for name, _ in self.injections:
                possible += _MAY_CAUSE.get(name, (Eof, Closed, Cancelled))
            if not isinstance(ending, possible):
                yield f"the ending {ending!r} has no cause"
        if isinstance(ending, Cancelled) and not self._scope.cancelled_caught:
            yield "the cancellation was swallowed"
        if client.clean and not isinstance(ending, Eof):
            yield f"the client saw a clean end, and {ending!r} was recorded"
        if isinstance(ending, Eof) and not client.clean and outcome.write_error is None:
            yield "the client saw no clean end, and one was recorded"
        if client.raised and outcome.write_error is None:
            yield "no write error was recorded"
        if (client.head is not None or client.got) and not outcome.committed:
            yield "the client was given something, and the outcome is not committed"
        if self.rig._upstream.once and outcome.bytes_in != self.rig._upstream.given:
            yield f"{outcome.bytes_in} bytes in were recorded, and the upstream gave {self.rig._upstream.given}"
        if client.once and outcome.bytes_out > len(client.got):
            yield f"{outcome.bytes_out} bytes out were recorded, and the client got {len(client.got)}"


def _scenario_of(relay: Relay, rig: Rig) -> Scenario:
    def stop_cleanly() -> None:
        if relay.reading_since is not None and relay._stopped is None:
            rig.clean_end = True
        relay.stop(Eof())

    return Scenario(
        run=relay.run,
        close=lambda: relay.stop(Closed()),
        faults={"stop Failed": lambda: relay.stop(Failed(TimeoutError("injected"))), "stop Eof": stop_cleanly},
    )


def _where(task: trio.lowlevel.Task) -> str:
    """Say where a task waits, innermost first, leaving out Trio's own frames."""
    frames = [frame for frame, _ in task.iter_await_frames()]
    ours = [frame for frame in frames if not frame.f_globals.get("__name__", "").startswith("trio.")]
    return ", called by ".join(
        f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in reversed(ours[-4:] or frames[-1:])
    )


class _Walk:
    """All runs of one call of `inject`."""

    def __init__(
        self,
        scenario: Callable[[Rig], Relay | Scenario],
        chunks: tuple[bytes, ...],
        ending: Eof | Failed | None,
        deviations: int,
        output: Callable[[bytes], bool] | None,
    ) -> None:
        self.scenario = scenario
        self.chunks = chunks
        self.ending = ending
        self.deviations = deviations
        self.output = output
        self.chooser = _Chooser()
        self._reference: _Run | None = None
        self._runs = 0
        self._endings: Counter[str] = Counter()
        self._began = time.perf_counter()

    def report(self) -> Report:
        assert self._reference is not None
        seconds = time.perf_counter() - self._began
        return Report(self._reference.checkpoints, self._runs, dict(self._endings), seconds)

    def all(self, kinds: Iterable[str] | None, *, pairs: bool) -> None:
        reference = self._run(())
        self._reference = reference
        if self.deviations:
            self._explore(())
        names = tuple(kinds) if kinds is not None else tuple(name for name in FAULTS if name in reference.faults)
        for name in names:
            if name not in reference.faults:
                raise ValueError(f"there is no fault {name!r} here, only {', '.join(sorted(reference.faults))}")
        for at, name in itertools.product(range(1, reference.checkpoints + 1), names):
            run = self._explore(((name, at),))
            if pairs:
                for then, second in itertools.product(range(at, run.checkpoints + 1), names):
                    self._explore(((name, at), (second, then)))

    def one(self, description: str) -> None:
        self._reference = self._run(())
        faults, _, schedule = description.partition(", in the order ")
        injections: list[_Injection] = []
        for part in filter(None, faults.split(", then ")):
            match = re.fullmatch(r"(.+) at checkpoint (\d+)", part)
            if match is None or match[1] not in self._reference.faults:
                raise ValueError(f"{part!r} is not a fault at a checkpoint, as in 'close at checkpoint 7'")
            injections.append((match[1], int(match[2])))
        self._run(injections, tuple(map(int, filter(None, schedule.split(".")))))

    def _explore(self, injections: Sequence[_Injection]) -> _Run:
        """Make a run in the first order, then in all others that deviate often enough; return the first one."""
        first = self._run(injections)
        stack = self._deviate((), first)
        while stack:
            prefix = stack.pop()
            stack += self._deviate(prefix, self._run(injections, prefix))
        return first

    def _deviate(self, prefix: tuple[int, ...], run: _Run) -> list[tuple[int, ...]]:
        if sum(map(bool, prefix)) >= self.deviations:
            return []
        return [
            (*run.trace[:tick], choice)
            for tick in range(len(prefix), len(run.arity))
            for choice in range(1, run.arity[tick])
        ]

    def _run(self, injections: Sequence[_Injection], schedule: tuple[int, ...] = ()) -> _Run:
        run = _Run(self, injections)
        self.chooser.begin(run, schedule)
        run.run()
        run.judge(self, self._reference)
        self._runs += 1
        self._endings.update(type(outcome.ending).__name__ for outcome in run.rig.outcomes)
        if run.findings:
            transcript = "\n".join(f"{checkpoint:6}  {what}" for checkpoint, what in run.transcript)
            raise InjectionError(_describe(injections, schedule), run.findings, transcript)
        return run


def _describe(injections: Sequence[_Injection], schedule: tuple[int, ...]) -> str:
    faults = ", then ".join(f"{name} at checkpoint {at}" for name, at in injections)
    return f"{faults}, in the order {'.'.join(map(str, schedule))}" if schedule else faults


def no_schedules() -> str | None:
    """Say why the order of tasks cannot be chosen with this Trio; None if it can.

    The names that this needs are private to Trio, and may go.
    """
    scheduler = vars(importlib.import_module("trio._core._run"))
    missing = [name for name in ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r") if name not in scheduler]
    return f"Trio {trio.__version__} has no {' and no '.join(missing)}" if missing else None


class _Chooser:
    """Stands in for the random numbers of Trio's scheduler, and chooses the order of each tick from a list."""

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._schedule: tuple[int, ...] = ()

    def begin(self, run: _Run, schedule: tuple[int, ...]) -> None:
        self._run = run
        self._schedule = schedule

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        scheduler = vars(importlib.import_module("trio._core._run"))
        saved = {name: scheduler[name] for name in ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r")}
        scheduler.update(_ALLOW_DETERMINISTIC_SCHEDULING=True, _r=self)
        try:
            yield
        finally:
            scheduler.update(saved)

    def shuffle(self, batch: list[object]) -> None:
        """Called by Trio with what runs in this tick: put the tasks into the order that is next on the list."""
        run = self._run
        if run is None or not run.counting or len(batch) < 2:
            return
        tick = len(run.trace)
        choice = self._schedule[tick] if tick < len(self._schedule) else 0
        # All orders of a few; of many only the rotations.
        few = len(batch) <= 4
        run.trace.append(choice)
        run.arity.append(math.factorial(len(batch)) if few else len(batch))
        if few:
            batch[:] = next(itertools.islice(itertools.permutations(batch), choice, None))
        else:
            batch[:] = batch[choice:] + batch[:choice]
