"""Inject faults at every checkpoint of a stream, and check what must hold whatever happens."""

# Theory of operation
#
# A run stands on a `Rig`, an upstream and a client in memory (_rig.py), and counts its checkpoints: the moments in
# which something else may happen (_run.py).
#
# A first run, in which nothing is injected, gives their number and the output that all others are compared with; then
# one run is made for each checkpoint and each fault and, on request, for each pair of them. The second fault of a pair
# is walked over the checkpoints of the run that already has the first one.
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
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs
import trio

from .._items import Eof, Failed
from .._relay import Relay
from ._rig import Rig
from ._run import FAULTS, Scenario, _Injection, _Run


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
        run = _Run(self.scenario, self.chunks, self.ending, injections)
        self.chooser.begin(run, schedule)
        run.run()
        run.judge(self.output, self._reference)
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
