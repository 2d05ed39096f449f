"""Keep what was measured, and show it: a table for a person, JSON for everything else."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

import attrs

from .loadgen import KIND
from .processes import ROOT

NEAR = 0.9
"""From this share of what the generator reaches alone, a result may be the generator's and not the target's."""

MARK = "*"

DISTURBED = 0.1
"""From this share of the time that target and generator wait for cores that something else has, a result is marked."""

DISTURBED_MARK = "~"

ALONE = "generator alone"
"""The subject that is none: a client connected to its upstream."""


@attrs.frozen(kw_only=True)
class Reading:
    """One number of one run."""

    benchmark: str
    metric: str
    unit: str
    subject: str
    """What was measured; of a benchmark and a metric each subject is a column."""

    value: float
    ceiling: float | None = None
    """What the generator reached alone, where that bounds the value."""

    waited: float = 0.0
    """The share of the time that was lost waiting for a core."""


@attrs.frozen(kw_only=True)
class Missing:
    """What has no number, and why."""

    benchmark: str
    subject: str
    short: str
    """What stands in its place: ``not installed``, or ``failed``."""

    why: str


@attrs.frozen(kw_only=True)
class Series:
    """How something went on over the time of one run."""

    benchmark: str
    metric: str
    unit: str
    subject: str
    points: tuple[tuple[float, float], ...]
    """Seconds since it began, and what it was then."""


@attrs.frozen(order=True)
class Key:
    """What the readings of all runs have in common."""

    group: str
    benchmark: str
    metric: str
    unit: str


@attrs.define
class Cell:
    """The values of all runs."""

    values: list[float] = attrs.Factory(list)
    near_ceiling: bool = False
    waited: float = 0.0
    """The share in the worst run."""

    @property
    def marks(self) -> str:
        """What is to be said of it."""
        return MARK * self.near_ceiling + DISTURBED_MARK * (self.waited >= DISTURBED)

    def quartiles(self) -> tuple[float, float, float]:
        """The first quartile, the median and the third."""
        if len(self.values) == 1:
            return (self.values[0],) * 3
        first, median, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, median, third

    def text(self) -> str:
        """The median, with the quartiles if there were more runs than one."""
        first, median, third = self.quartiles()
        spread = f" ({_number(first)}..{_number(third)})" if len(self.values) > 1 else ""
        return _number(median) + self.marks + spread


class Results:
    """All of it, in the order in which it came."""

    def __init__(self) -> None:
        self.table: dict[Key, dict[str, Cell]] = {}
        self.problems: list[str] = []
        self.missing: list[Missing] = []
        self.series: list[Series] = []

    def add(self, group: str, reading: Reading | Missing | Series) -> None:
        """Take a reading of one run, or what there is instead of one, or beside it."""
        if isinstance(reading, Missing):
            self.missing.append(reading)
            return
        if isinstance(reading, Series):
            self.series.append(reading)
            return
        key = Key(group, reading.benchmark, reading.metric, reading.unit)
        cell = self.table.setdefault(key, {}).setdefault(reading.subject, Cell())
        cell.values.append(reading.value)
        cell.waited = max(cell.waited, reading.waited)
        if reading.ceiling is not None and reading.value >= NEAR * reading.ceiling:
            cell.near_ceiling = True

    def groups(self) -> list[str]:
        """The groups that have readings."""
        return list(dict.fromkeys(key.group for key in self.table))

    def rows(self, group: str) -> tuple[list[str], list[list[str]]]:
        """The headings of a group's table, and its rows."""
        rows = {key: cells for key, cells in self.table.items() if key.group == group}
        shown = {key.benchmark for key in rows}
        missing = {(m.benchmark, m.subject): m.short for m in self.missing if m.benchmark in shown}
        measured = [subject for cells in rows.values() for subject in cells]
        subjects = list(dict.fromkeys([*measured, *(subject for _, subject in missing)]))
        body = [
            [
                *(key.benchmark, key.metric, key.unit),
                *(cells[s].text() if s in cells else missing.get((key.benchmark, s), "") for s in subjects),
            ]
            for key, cells in rows.items()
        ]
        return ["", "", "unit", *subjects], body

    def as_json(self, **more: object) -> dict[str, object]:
        """Everything, with every run's value."""
        readings = []
        for key, cells in self.table.items():
            for subject, cell in cells.items():
                first, median, third = cell.quartiles()
                fields = {"subject": subject, "values": cell.values, "median": median, "q1": first, "q3": third}
                readings.append(
                    {**attrs.asdict(key), **fields, "near_ceiling": cell.near_ceiling, "waited": cell.waited}
                )
        return {"machine": machine(), **more, "results": readings, "problems": self.problems}


def _number(value: float) -> str:
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def machine() -> dict[str, object]:
    """What the numbers were measured on, and with."""
    versions = {}
    for name in ("attrs", "h11", "structlog", "trio"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "none"
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions,
        "commit": _commit(),
        "generator": KIND,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


def _commit() -> str:
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return run.stdout.strip()


def show(results: Results) -> None:
    """Print the tables and what was wrong."""
    for group in results.groups():
        headings, rows = results.rows(group)
        _print_table(group, headings, rows)
    marks = {mark for cells in results.table.values() for cell in cells.values() for mark in cell.marks}
    if DISTURBED_MARK in marks:
        print(
            f"{DISTURBED_MARK} something else had the cores for {DISTURBED:.0%} of the time or more, in a run at least"
        )
    if MARK in marks:
        print(f"{MARK} within {1 - NEAR:.0%} of what the generator ({KIND}) reaches alone: it may be the bottleneck")
    # What is not there is not there for any benchmark; what failed may have failed for one only.
    for missing in dict.fromkeys(m if m.short == "failed" else attrs.evolve(m, benchmark="") for m in results.missing):
        print(" ".join(filter(None, (missing.subject, missing.benchmark, f"{missing.short}: {missing.why}"))))
    for problem in results.problems:
        print(f"WRONG: {problem}", file=sys.stderr)


def _print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _print_plain(title, headings, list(rows))
        return
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="left" if at < 3 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    # What is piped to a file or a pager is not to be cut at 80 columns.
    Console(width=max(console.width, 200) if not console.is_terminal else None).print(table)


def _print_plain(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    print(title)
    for row in (headings, *rows):
        cells = [
            cell.ljust(w) if at < 3 else cell.rjust(w) for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    print()
