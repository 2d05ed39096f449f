"""What sseflow is to reach beside its peers, as data, and the judge: a table of what it did reach.

A goal compares one figure of sseflow with the same figure of a peer, with another of its own, or with a number. *At
most* bounds how many times the other's cost ours is, *at least* how many times as good ours is. Runs are interleaved,
so the ratio is taken run by run where both have a value of every run, and what counts is the median of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from .results import MARK, RATES, Cell, Results, quartiles, spread
from .tables import Table, number

SUBJECT = "sseflow"

RUNS = 5
"""What a ruling is to stand on; with fewer it is made, and says so."""

HEADINGS = ("scenario", "figure", "sseflow", "peer", "", "ratio", "must", "aim", "met?")

NAMES = {
    "go": "Go",
    "go-filter": "Go with filter",
    "haproxy": "HAProxy",
    "litellm": "LiteLLM",
    "plain": "sseflow, no gateway",
    "starlette": "Starlette + httpx",
}
"""Subjects that people know by another name."""


@attrs.frozen
class Measure:
    """What our figure is put beside."""

    peer: str | None = None
    """The same figure of another subject."""

    of: str | None = None
    """The same figure of ours in another benchmark."""

    at_least: bool = False
    """The ratio is how many times as good ours is, and not how many times the cost."""

    @property
    def is_ratio(self) -> bool:
        """There is something that it is a ratio to; the figure itself is judged otherwise."""
        return self.peer is not None or self.of is not None

    def text(self) -> str:
        """Its name; empty if there is nothing beside."""
        if self.of:
            return f"{SUBJECT}, {self.of}"
        return NAMES.get(self.peer, self.peer) if self.peer else ""


@attrs.frozen
class Bound:
    """What a ratio, or a figure that is put beside nothing, is to reach."""

    limit: float
    measure: Measure
    equal: bool = False
    """Of a cost: equal is what cannot be told apart, so it is enough that the first quartile reaches the limit."""

    def is_met(self, value: tuple[float, float, float]) -> bool:
        """Judge a first quartile, median and third."""
        first, median, _ = value
        if self.measure.at_least:
            return median >= self.limit
        return (first if self.equal else median) <= self.limit

    def text(self, unit: str) -> str:
        """As one writes it."""
        most = "least" if self.measure.at_least else "most"
        return f"at {most} {self.limit:,g} {'x' if self.measure.is_ratio else unit}"


def at_most(limit: float, peer: str | None = None, *, of: str | None = None, equal: bool = False) -> Bound:
    """No more than so many times the cost; no more than so much, if it is put beside nothing."""
    return Bound(limit, Measure(peer, of), equal)


def at_least(limit: float, peer: str) -> Bound:
    """At least so many times as good."""
    return Bound(limit, Measure(peer, at_least=True))


@attrs.frozen
class Goal:
    """One row of what is to be reached."""

    scenario: str
    benchmark: str
    metric: str
    unit: str
    must: Bound | None
    aim: Bound | None
    instead: tuple[str, str] | None = None
    """Benchmark and metric of a cost to compare where the rate is the generator's and not the proxy's."""

    shown: str | None = None
    """The peer beside which a figure that is not judged is shown."""


GOALS = (
    Goal(
        "one event per chunk and read, 64 streams",
        "events",
        "CPU per event",
        "us",
        at_most(0.8, "go-filter"),
        at_most(1.0, "go"),
    ),
    Goal(
        "coalesced events, 40 per chunk",
        "coalesced",
        "CPU per event",
        "us",
        at_least(12, "go-filter"),
        at_least(0.8, "nginx"),
    ),
    Goal(
        "comments between events, stripped",
        "comments",
        "CPU per event",
        "us",
        at_least(1.3, "go-filter"),
        at_least(0.9, "nginx"),
    ),
    Goal(
        "lines of 32 MiB",
        "line-32m",
        "throughput",
        "MB/s",
        at_least(12, "go-filter"),
        at_least(1.5, "go"),
        instead=("lines", "CPU per byte, 32 MiB"),
    ),
    Goal(
        "events of 4 KiB",
        "bulk",
        "throughput",
        "MB/s",
        at_least(4, "go-filter"),
        at_least(1.3, "go"),
    ),
    Goal(
        "streams of one event",
        "requests",
        "requests per second",
        "1/s",
        at_least(8, "starlette"),
        at_least(1.0, "go-filter"),
        instead=("requests", "CPU per request"),
    ),
    Goal(
        "time to the first byte, one connection",
        "first-byte",
        "p50, added",
        "us",
        at_most(3.0, "nginx"),
        at_most(1.5, "nginx"),
    ),
    Goal(
        "latency of an event, paced",
        "latency",
        "p50, added",
        "us",
        at_most(1.5, "nginx"),
        at_most(1.0, "nginx", equal=True),
    ),
    Goal("latency of an event, paced", "latency", "p99, added", "us", None, None, shown="nginx"),
    Goal("during a line of 32 MiB", "line-32m", "peak memory growth", "KiB", at_most(2048), at_most(512)),
    Goal("5,000 open streams", "idle-5000", "memory per idle stream", "KiB", at_most(14), at_most(7)),
    Goal(
        "TLS to the upstream",
        "tls-upstream",
        "CPU per event",
        "us",
        at_most(2.0, of="events"),
        at_most(1.5, of="events"),
    ),
    Goal("TLS on both sides", "tls-both", "CPU per event", "us", None, at_most(2.0, of="events")),
    Goal(
        "gateway, one event per chunk and read",
        "gateway-events",
        "CPU per event",
        "us",
        at_most(1.15, "plain"),
        None,
    ),
    Goal(
        "gateway, coalesced events",
        "gateway-coalesced",
        "CPU per event",
        "us",
        at_most(1.3, "plain"),
        None,
    ),
    Goal(
        "gateway, streams of one event",
        "gateway-requests",
        "CPU per request",
        "us",
        None,
        None,
        shown="plain",
    ),
    Goal("reading the dialect, the dearest of all", "dialects", "watch, one by one", "us", at_most(1.0), None),
    Goal("reading the dialect, the dearest of all", "dialects", "watch, 40 together", "us", at_most(0.25), None),
    Goal("usage in each chunk", "dialects", "watch, one by one, usage in each", "us", at_most(1.0), None),
    Goal("usage in each chunk", "dialects", "watch, 40 together, usage in each", "us", at_most(0.25), None),
)


@attrs.frozen
class Ruling:
    """What became of a goal beside one peer; of the bounds only those that are of this peer."""

    goal: Goal
    measure: str
    """The peer's name, or our own benchmark's; empty for a number."""

    must: Bound | None
    aim: Bound | None
    metric: str
    unit: str
    ours: Cell | None = None
    theirs: Cell | None = None
    value: tuple[float, float, float] | None = None
    """The first quartile, median and third of what is judged."""

    reason: str = ""
    """Why there is nothing to judge."""

    @property
    def verdict(self) -> str:
        """What is met, or why nobody knows."""
        if self.value is None:
            return self.reason
        met = {name: bound.is_met(self.value) for name, bound in (("must", self.must), ("aim", self.aim)) if bound}
        return ", ".join(f"{name} {'met' if is_met else 'missed'}" for name, is_met in met.items()) or "reported"

    @property
    def marks(self) -> str:
        """What is to be said of the figures that it stands on."""
        return "".join(dict.fromkeys("".join(cell.marks for cell in (self.ours, self.theirs) if cell)))

    def row(self) -> list[str]:
        """For the table."""
        single = self.ours is not None and len(self.ours.values) == 1
        ratio = spread(*self.value, marks=self.marks, single=single) if self.value and self.theirs else ""
        bounds = (bound.text(self.goal.unit) if bound else "" for bound in (self.must, self.aim))
        return [
            self.goal.scenario,
            f"{self.metric}, {self.unit}",
            _median(self.ours),
            self.measure,
            _median(self.theirs),
            ratio,
            *bounds,
            self.verdict,
        ]


def _median(cell: Cell | None) -> str:
    return number(cell.quartiles()[1]) + cell.marks if cell else ""


def judge(results: Results, goals: Sequence[Goal] = GOALS) -> list[Ruling]:
    """Rule on every goal, once for each measure that it names."""
    rulings = []
    for goal in goals:
        measures = dict.fromkeys(bound.measure for bound in (goal.must, goal.aim) if bound)
        for measure in measures or {Measure(goal.shown): None}:
            must, aim = (b if b and b.measure == measure else None for b in (goal.must, goal.aim))
            rulings.append(_rule(results, goal, measure, must, aim))
    return rulings


def _rule(results: Results, goal: Goal, measure: Measure, must: Bound | None, aim: Bound | None) -> Ruling:
    ours = results.find(goal.benchmark, goal.metric, SUBJECT)
    ruling = Ruling(goal, measure.text(), must, aim, goal.metric, goal.unit, ours)
    if ours is None:
        return attrs.evolve(ruling, reason=_why(results, goal.benchmark, SUBJECT, goal.benchmark))
    if not measure.is_ratio:
        return attrs.evolve(ruling, value=ours.quartiles())
    benchmark, subject = measure.of or goal.benchmark, measure.peer or SUBJECT
    theirs = results.find(benchmark, goal.metric, subject)
    if theirs is None:
        return attrs.evolve(ruling, reason=_why(results, benchmark, subject, measure.text()))
    ruling = attrs.evolve(ruling, theirs=theirs)
    inverse = measure.at_least and goal.unit not in RATES
    if goal.instead and MARK in ruling.marks:
        costs = (results.find(*goal.instead, SUBJECT), results.find(*goal.instead, subject))
        if costs[0] and costs[1]:
            ours, theirs = costs[0], costs[1]
            inverse = measure.at_least
            metric = goal.instead[1]
            ruling = attrs.evolve(ruling, metric=metric, unit=results.unit(metric), ours=ours, theirs=theirs)
    value = ratio(theirs, ours) if inverse else ratio(ours, theirs)
    if value is None:
        return attrs.evolve(ruling, reason="no ratio: one of the figures is zero or less")
    return attrs.evolve(ruling, value=value)


def _why(results: Results, benchmark: str, subject: str, name: str) -> str:
    missing = results.why_missing(benchmark, subject)
    return f"no figures: {name} {missing.short if missing else 'was not measured'}"


def ratio(above: Cell, below: Cell) -> tuple[float, float, float] | None:
    """Quartiles of the ratios of single runs.

    Of unlike numbers of runs, or where a run has a figure that is not above zero, it is the ratio of the medians, and
    how far the quartiles of both would let it move. None where a median is not above zero: a ratio says nothing there.
    """
    if len(above.values) == len(below.values) and min(*above.values, *below.values) > 0:
        return quartiles([a / b for a, b in zip(above.values, below.values, strict=True)])
    (a1, a2, a3), (b1, b2, b3) = above.quartiles(), below.quartiles()
    if a2 <= 0 or b2 <= 0:
        return None
    return a1 / b3, a2 / b2, a3 / b1 if b1 > 0 else math.inf


def table(rulings: Sequence[Ruling]) -> Table:
    """For a person."""
    return Table("goals", HEADINGS, [ruling.row() for ruling in rulings], figures=(2, 4, 5))


def summary(rulings: Sequence[Ruling]) -> str:
    """How many of the bounds are met, and whether that stands on enough runs."""
    parts = []
    for name in ("must", "aim"):
        bounds = [(bound, r.value) for r in rulings if (bound := r.must if name == "must" else r.aim)]
        known = [bound.is_met(value) for bound, value in bounds if value is not None]
        unknown = f", {len(bounds) - len(known)} without figures" if len(known) < len(bounds) else ""
        parts.append(f"{name}: {sum(known)} of {len(bounds)} met{unknown}")
    runs = min((len(cell.values) for r in rulings if r.value for cell in (r.ours, r.theirs) if cell), default=RUNS)
    return "; ".join([*parts, f"a figure is of fewer than {RUNS} runs"] if runs < RUNS else parts)


def has_peers(results: Results) -> bool:
    """Whether there is anything to judge beside."""
    peers = {bound.measure.peer for goal in GOALS for bound in (goal.must, goal.aim) if bound}
    return any(subject in peers for cells in results.table.values() for subject in cells)
