"""Say how far it is: a bar on a terminal, a line per benchmark elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Where a run of the benchmarks is."""

    def begin(self, run: int, name: str) -> None:
        """A benchmark begins, the next of a run; the one before has ended."""

    def measured(self, subject: str) -> None:
        """A figure of a subject is there."""


class Lines:
    """One for each benchmark, for logs and pipes.

    Args:
        runs: how many there will be.
    """

    def __init__(self, runs: int) -> None:
        self._runs = runs

    def begin(self, run: int, name: str) -> None:
        """Print it."""
        print(f"run {run} of {self._runs}: {name}", file=sys.stderr, flush=True)

    def measured(self, subject: str) -> None:
        """It is not worth a line."""


class Bar:
    """One line that changes: the run, the benchmark, and the subjects of it that are done.

    It is drawn anew only when there is something to say: whatever runs beside a measurement is measured, too.

    Args:
        bar: what draws; it must not refresh itself.
        runs: how many there will be.
        benchmarks: how many there are in each.
    """

    def __init__(self, bar: RichProgress, runs: int, benchmarks: int) -> None:
        self._bar = bar
        self._runs = runs
        self._task = bar.add_task("", total=runs * benchmarks)
        self._begun = 0
        self._text = ""
        self._subjects: dict[str, None] = {}

    def begin(self, run: int, name: str) -> None:
        """Go on by one."""
        self._text = f"run {run} of {self._runs}: {name}"
        self._subjects.clear()
        self._bar.update(self._task, completed=self._begun, description=self._text, refresh=True)
        self._begun += 1

    def measured(self, subject: str) -> None:
        """Name it, the first time."""
        if subject not in self._subjects:
            self._subjects[subject] = None
            text = f"{self._text}; done: {', '.join(self._subjects)}"
            self._bar.update(self._task, description=text, refresh=True)


@contextlib.contextmanager
def progress(runs: int, benchmarks: int) -> Iterator[Progress]:
    """Show it on stderr: a bar of rich if that is a terminal and rich is installed, else lines."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        yield Lines(runs)
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(runs)
        return
    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with RichProgress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        yield Bar(bar, runs, benchmarks)
