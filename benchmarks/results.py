"""Keep what was measured: JSON for later, tables for a person."""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

from .loadgen import KIND
from .processes import ROOT
from .tables import Table, number

FORMAT = 1
"""Of the JSON; a file that names none has this one."""

RATES = frozenset({"1/s", "MB/s"})
"""Units of which more is better."""

NEITHER = frozenset({"events", "times"})
"""Units of which neither is better; of all others, costs and times, less is."""

MANY = 4
"""Subjects that still go side by side."""

NEAR = 0.9
"""From this share of what the generator reaches alone, a result may be the generator's and not the target's."""

MARK = "*"

DISTURBED = 0.1
"""From this share of the time that target and generator wait for cores that something else has, a result is marked."""

DISTURBED_MARK = "~"

ALONE = "generator alone"
"""The subject that is none: a client connected to its upstream."""


class Malformed(ValueError):
    """A file holds no results, or not in the format that is read here."""


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

    @property
    def more_is_better(self) -> bool | None:
        """The direction; None: neither is."""
        return None if self.unit in NEITHER else self.unit in RATES


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
        return quartiles(self.values)

    def text(self) -> str:
        """The median, with the quartiles if there were more runs than one."""
        return spread(*self.quartiles(), marks=self.marks, single=len(self.values) == 1)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third of at least one value."""
    if len(values) == 1:
        return (values[0],) * 3
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def spread(first: float, median: float, third: float, *, marks: str = "", single: bool = False) -> str:
    """A median with its marks and, unless it is of a single run, its quartiles."""
    return number(median) + marks + ("" if single else f" ({number(first)}..{number(third)})")


class Results:
    """All of it, in the order in which it came."""

    def __init__(self) -> None:
        self.table: dict[Key, dict[str, Cell]] = {}
        self.problems: list[str] = []
        self.missing: list[Missing] = []
        self.series: list[Series] = []
        self.smoke = False
        """They are of runs that measured next to nothing."""

    @functools.cached_property
    def machine(self) -> dict[str, Any]:
        """What the numbers were measured on, and with; this machine, if they were not read from a file."""
        return machine()

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

    def find(self, benchmark: str, metric: str, subject: str) -> Cell | None:
        """One cell, if it was measured."""
        for key, cells in self.table.items():
            if (key.benchmark, key.metric) == (benchmark, metric) and subject in cells:
                return cells[subject]
        return None

    def unit(self, metric: str) -> str:
        """The unit of a metric; empty if it was not measured."""
        return next((key.unit for key in self.table if key.metric == metric), "")

    def conditions(self) -> str:
        """On what, with what, of which commit and how often it was measured."""
        about = [str(self.machine.get(name, "unknown")) for name in ("cpu", "cores", "python", "commit")]
        # Of the figure that has the most: what goes wrong leaves none.
        runs = max((len(cell.values) for cells in self.table.values() for cell in cells.values()), default=0)
        often = f"medians of {runs} runs, with quartiles" if runs > 1 else "one run"
        smoke = "; a smoke run, which measures next to nothing" if self.smoke else ""
        return f"{about[0]}, {about[1]} cores, {about[2]}, commit {about[3]}; {often}{smoke}"

    def rows(self, group: str) -> tuple[list[str], list[list[str]]]:
        """The headings of a group's table, and its rows: a column for each subject."""
        rows = {key: cells for key, cells in self.table.items() if key.group == group}
        subjects = self._subjects(rows)
        body = [[key.benchmark, key.metric, key.unit, *(self._text(key, s) for s in subjects)] for key in rows]
        return ["", "", "unit", *subjects], body

    def _subjects(self, keys: Collection[Key]) -> list[str]:
        """Of some rows, those that have no number included."""
        measured = [subject for key in keys for subject in self.table[key]]
        benchmarks = {key.benchmark for key in keys}
        return list(dict.fromkeys(measured + [m.subject for m in self.missing if m.benchmark in benchmarks]))

    def _text(self, key: Key, subject: str) -> str:
        if cell := self.table[key].get(subject):
            return cell.text()
        missing = self.why_missing(key.benchmark, subject)
        return missing.short if missing else ""

    def why_missing(self, benchmark: str, subject: str) -> Missing | None:
        """Why a subject has no number, if it was to have one."""
        return next((m for m in self.missing if (m.benchmark, m.subject) == (benchmark, subject)), None)

    def tables(self) -> list[Table]:
        """A table for each group; for each benchmark, with a row for each subject, where the subjects are many."""
        tables = []
        for group in self.groups():
            headings, rows = self.rows(group)
            if len(headings) <= 3 + MANY:
                tables.append(Table(group, headings, rows, figures=range(3, len(headings))))
            else:
                keys = [key for key in self.table if key.group == group]
                tables += [self._by_subject(group, name) for name in dict.fromkeys(key.benchmark for key in keys)]
        return tables

    def _by_subject(self, group: str, benchmark: str) -> Table:
        keys = [key for key in self.table if (key.group, key.benchmark) == (group, benchmark)]
        headings = ["", *(f"{key.metric}, {key.unit}" for key in keys)]
        rows = [[subject, *(self._text(key, subject) for key in keys)] for subject in self._subjects(keys)]
        return Table(f"{group}: {benchmark}", headings, rows, figures=range(1, len(headings)))

    def marks(self) -> list[str]:
        """What the marks in the tables mean, of those that are there."""
        marks = {mark for cells in self.table.values() for cell in cells.values() for mark in cell.marks}
        lines = {
            DISTURBED_MARK: f"something else had the cores for {DISTURBED:.0%} of the time or more, in a run at least",
            MARK: f"within {1 - NEAR:.0%} of what the generator ({self.machine.get('generator', KIND)}) reaches alone: "
            "it may be the bottleneck",
        }
        return [f"{mark} {line}" for mark, line in lines.items() if mark in marks]

    def absences(self) -> list[str]:
        """What has no number, and why: what is not installed is so everywhere, what failed is so in one benchmark."""
        absent = dict.fromkeys(attrs.evolve(m, benchmark="") if m.short != "failed" else m for m in self.missing)
        return [" ".join(filter(None, (m.subject, m.benchmark, f"{m.short}: {m.why}"))) for m in absent]

    def as_json(self, **more: object) -> dict[str, object]:
        """Everything, with every run's value."""
        readings = []
        for key, cells in self.table.items():
            for subject, cell in cells.items():
                first, median, third = cell.quartiles()
                fields = {"subject": subject, "values": cell.values, "median": median, "q1": first, "q3": third}
                fields |= {"near_ceiling": cell.near_ceiling, "waited": cell.waited}
                readings.append({**attrs.asdict(key), **fields})
        beside = {
            "missing": [attrs.asdict(missing) for missing in self.missing],
            "series": [attrs.asdict(series) for series in self.series],
        }
        head = {"format": FORMAT, "machine": self.machine, **more}
        return {**head, "results": readings, **beside, "problems": self.problems}

    @classmethod
    def from_json(cls, data: Any) -> Results:
        """What `as_json` came from.

        Raises:
            Malformed: it is something else.
        """
        try:
            if (found := data.get("format", FORMAT)) != FORMAT:
                raise Malformed(f"its format is {found!r}, and what is read here is {FORMAT}")
            results = cls()
            results.machine = dict(data["machine"])
            results.smoke = bool(data.get("smoke", False))
            results.problems = [str(problem) for problem in data["problems"]]
            for row in data["results"]:
                key = Key(*(str(row[field.name]) for field in attrs.fields(Key)))
                cell = Cell(
                    values=[float(value) for value in row["values"]],
                    near_ceiling=bool(row["near_ceiling"]),
                    waited=float(row["waited"]),
                )
                if not cell.values:
                    raise Malformed(f"there is no value of {key}")
                results.table.setdefault(key, {})[str(row["subject"])] = cell
            results.missing = [Missing(**row) for row in data.get("missing", ())]
            for row in data.get("series", ()):
                points = tuple((float(at), float(value)) for at, value in row["points"])
                results.series.append(Series(**{**row, "points": points}))
        except KeyError as error:
            raise Malformed(f"there is no {error} in it") from error
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, Malformed):
                raise
            raise Malformed(str(error)) from error
        return results

    def merge(self, other: Results) -> None:
        """Take the values of other runs, too, behind those that are there.

        Raises:
            Malformed: they are of another machine, so that no table can have both, or the same figure is of another
                commit, so that no median can.
        """
        if differences := self.differences(other):
            raise Malformed(f"it cannot be put together with the others: {'; '.join(differences)}")
        commits = [str(results.machine.get("commit", "unknown")) for results in (self, other)]
        both = [(key, s) for key, cells in other.table.items() for s in cells if s in self.table.get(key, {})]
        if both and commits[0] != commits[1]:
            key, subject = both[0]
            raise Malformed(f"the others have {key.benchmark}, {key.metric}, {subject}, too, but of another commit")
        self.machine["commit"] = ", ".join(dict.fromkeys(", ".join(commits).split(", ")))
        self.smoke = self.smoke or other.smoke
        self.problems += other.problems
        self.missing += other.missing
        self.series += other.series
        for key, cells in other.table.items():
            for subject, cell in cells.items():
                own = self.table.setdefault(key, {}).setdefault(subject, Cell())
                own.values += cell.values
                own.near_ceiling = own.near_ceiling or cell.near_ceiling
                own.waited = max(own.waited, cell.waited)

    def differences(self, other: Results) -> list[str]:
        """What there is between two measurements besides the code: machine, Python, packages, generator."""
        names = sorted((self.machine.keys() | other.machine.keys()) - {"commit"})
        pairs = [(name, self.machine.get(name), other.machine.get(name)) for name in names]
        found = [f"{name}: {_brief(ours)} and {_brief(theirs)}" for name, ours, theirs in pairs if ours != theirs]
        if self.smoke != other.smoke:
            found.append("one of them is of a smoke run")
        return found


def _brief(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return "unknown" if value is None else str(value)


def load(paths: Iterable[Path]) -> Results:
    """Read files of results; the values of several are put together, in order.

    Raises:
        Malformed: one of them is none, or not of the same machine.
        OSError: one of them cannot be read.
    """
    whole: Results | None = None
    for path in paths:
        try:
            results = Results.from_json(json.loads(path.read_bytes()))
            if whole is None:
                whole = results
            else:
                whole.merge(results)
        except (Malformed, ValueError) as error:
            raise Malformed(f"{path}: {error}") from error
    return whole or Results()


def machine() -> dict[str, Any]:
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
    for table in results.tables():
        table.print()
    for line in (*results.marks(), *results.absences()):
        print(line)
    if results.smoke:
        print("a smoke run, which measures next to nothing")
    for problem in results.problems:
        print(f"WRONG: {problem}", file=sys.stderr)
