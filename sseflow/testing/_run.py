"""One run: what is run, what is injected at which checkpoint, and what must hold when it is over."""

# A *checkpoint* is a moment in which something else may happen: before each step of a task, and whenever all tasks
# sleep. An instrument counts them. The moments before and behind each read and each write that do not wait are
# checkpoints, too, though nothing but a stage could do anything there.
#
# The instrument injects from inside Trio's scheduler, where no task runs. For the tasks of the scenario this is as if
# another task had run just then; a fault that has to wait (an asynchronous ``close``) gets a task of its own.
#
# A deadlock needs no patience: if all tasks sleep and no deadline is left, nothing can happen any more. Then the run is
# torn down by force, shields and all, and the transcript says where everybody waited.

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs
import trio
import trio.testing

from .._items import Cancelled, Closed, End, Eof, Failed
from .._relay import Outcome, Relay
from .._stage import Stage
from ._rig import Rig, _before, _TornDown

FAULTS = ("cancel", "close", "upstream EOF", "upstream error", "write error")
"""The faults that `inject` injects by default: a cancellation of the whole, a close from another task, an upstream that
ends here, an upstream that breaks here, a client that cannot be written to from here on."""

STALLS = ("upstream stall", "write stall", "close stall")
"""Peers that do nothing from here on: an upstream that sends no more, a client that takes no more, an upstream whose
closing never returns. A hundred virtual seconds after one of the first two the stream is closed; nothing else must be
needed to end it."""

STOPS = ("stop Failed", "stop Eof")
"""What else `Relay.stop` is called with. A scenario that is no `Relay` may have faults of these names of its own."""

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

    def __init__(
        self,
        scenario: Callable[[Rig], Relay | Scenario],
        chunks: Sequence[bytes],
        ending: Eof | Failed | None,
        injections: Sequence[_Injection],
    ) -> None:
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
        self._switchboard_scope = trio.CancelScope()
        self._closed = False  # somebody else than the canceller ended the stream, or tried to
        self._cancel_seen = False
        self._result: object = None
        self.rig = Rig(self, chunks, ending)
        self.scenario, self.faults = self._faults_of(scenario(self.rig))
        self._rescued = ending is None  # it does not end by itself

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

    async def _run_switchboard(self) -> None:
        with self._switchboard_scope:
            await self.rig.run_switchboard()

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
            self._nursery.start_soon(self._run_switchboard)
            self.counting = True
            try:
                with self._scope:
                    self._result = await self.scenario.run()
            except Exception as error:
                self.find(f"{error!r} came out")
            finally:
                self.counting = False
                self._rescue_scope.cancel()
                self._switchboard_scope.cancel()
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

    def moment(self) -> None:
        """A checkpoint inside of a step that does not wait."""
        if self.counting:
            self.checkpoint()

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

    def judge(self, output: Callable[[bytes], bool] | None, reference: _Run | None) -> None:
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
        if output is not None:
            if not output(got):
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
