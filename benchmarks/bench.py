"""What a benchmark is, and what it is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from .loadgen import Job, Report
from .processes import Conversation, Cores, Wrong, conversation
from .results import Reading


class Setup:
    """What benchmarks share. Use it as a context manager: it ends what it started.

    Args:
        smoke: measure next to nothing, only to see that it works.
    """

    def __init__(self, *, smoke: bool) -> None:
        self.smoke = smoke
        self.cores = Cores.choose()
        self.seconds = 0.2 if smoke else 2.0
        self._stack = contextlib.ExitStack()
        self._generator: Conversation | None = None
        self._upstream_port = 0

    def __enter__(self) -> Setup:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _talk(self) -> Conversation:
        if self._generator is None:
            generator = self._stack.enter_context(conversation("benchmarks.loadgen", core=self.cores.generator))
            port = generator.receive(20.0)["port"]
            assert isinstance(port, int)
            self._upstream_port = port
            self._generator = generator
        return self._generator

    @property
    def upstream_port(self) -> int:
        """Where the generator's upstream listens."""
        self._talk()
        return self._upstream_port

    def do(self, job: Job) -> Report:
        """Let the generator do a job.

        It looks at its sockets without a pause if it has a core of its own: to wake a core that sleeps costs CPU time,
        and it is whoever sends, the target, that pays.

        Raises:
            Wrong: bytes were lost, or the time was over.
        """
        job = attrs.evolve(job, spin=not self.cores.shared)
        report = Report(**self._talk().ask(attrs.asdict(job), job.limit + 20))  # type: ignore[arg-type]  # it was one before
        if report.wrong is not None:
            raise Wrong(f"{job.mode} of {job.shape}, {'proxied' if job.port else 'direct'}: {report.wrong}")
        return report


Run: TypeAlias = Callable[[Setup], Iterator[Reading]]


@attrs.frozen
class Benchmark:
    """Something to measure: one call of ``run`` is one run."""

    group: str
    """The table it is in."""

    name: str
    run: Run
    needs_linux: bool = True
