"""Measure the proxy as its users run it, a process of its own, beside a client that is connected to the upstream."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from .bench import Benchmark, Setup
from .loadgen import Job, Report
from .processes import Target, Wrong, started
from .results import ALONE, Reading
from .shapes import SHAPES

WARM_STREAMS = 8

LOG_SECONDS = 5.0
"""For the last line of the log to be written."""

#: Runs a proxy in front of the upstream on a port, on a core.
Proxy: TypeAlias = Callable[[Setup], contextlib.AbstractContextManager[Target]]


@attrs.frozen
class Figure:
    """What a report comes to, in one number."""

    metric: str
    unit: str
    of: Callable[[Report], float]
    kind: str = "cost"
    """``cost`` is the target's own, and the generator has none. ``rate`` is bounded by what the generator reaches
    alone, ``count`` by what was asked. ``time`` is shown, and also what a target adds to the generator's own."""


@attrs.frozen
class Scenario:
    """One job, and what is read from its report."""

    name: str
    job: Callable[[Setup], Job]
    figures: tuple[Figure, ...]


@contextlib.contextmanager
def sseflow(setup: Setup) -> Iterator[Target]:
    """Our proxy, with everything as it is by default."""
    command = [sys.executable, "-m", "sseflow.proxy", "--listen", "127.0.0.1:0"]
    command += ["--upstream", f"http://127.0.0.1:{setup.upstream_port}"]
    with started(command, core=setup.cores.subject, port_of=_port_of) as target:
        yield target


#: What is measured, each beside the generator alone.
PROXIES: dict[str, Proxy] = {"sseflow": sseflow}


def _port_of(line: str) -> int | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.get("event") != "listening":
        return None
    return int(str(fields["address"]).rpartition(":")[2])


def _warm(job: Job) -> Job:
    """A few streams of tokens, so that what is measured is not the first of its kind."""
    return attrs.evolve(job, mode="lockstep", shape="token", streams=WARM_STREAMS, seconds=0.1)


def check_log(target: Target, job: Job) -> None:
    """Hold what the proxy logged of the streams of a job, and of the ones before, against what was sent.

    Raises:
        Wrong: it does not call them complete, or has counted other events.
    """
    exchanges: list[dict[str, object]] = []
    deadline = time.monotonic() + LOG_SECONDS
    while len(exchanges) < WARM_STREAMS + job.streams and time.monotonic() < deadline:
        time.sleep(0.01)  # the line of a stream is written behind its last byte
        exchanges = [line for line in target.lines() if line.get("event") == "exchange"]
    bad = [line for line in exchanges if line["verdict"] != "complete"]
    if bad:
        raise Wrong(f"{job.mode} of {job.shape}: {len(bad)} streams did not end well, like this one: {bad[0]}")
    events = _events(job)
    if events is not None:
        counted = sum(line["events"] == events for line in exchanges)
        if counted != job.streams:
            raise Wrong(
                f"{counted} of {job.streams} streams were logged with {events} events; the last: {exchanges[-1:]}"
            )


def _events(job: Job) -> int | None:
    """How many events each stream of a job has, where it is not the clock that decides."""
    shape = SHAPES[job.shape]()
    pieces = {"pour": job.repeat * len(shape.body), "paced": job.repeat, "idle": 1}.get(job.mode)
    return None if pieces is None else pieces * shape.events // len(shape.body) + shape.tail_events


def run(scenario: Scenario, setup: Setup) -> Iterator[Reading]:
    """One scenario, without any proxy and then through each."""
    job = scenario.job(setup)
    alone = setup.do(job)
    yield from _read(scenario, ALONE, alone, None)
    for subject, proxy in PROXIES.items():
        with proxy(setup) as target:
            job = attrs.evolve(job, port=target.port, stripped=True)
            setup.do(_warm(job))
            report = setup.do(attrs.evolve(job, pids=target.pids))
            check_log(target, job)
        yield from _read(scenario, subject, report, alone)


def _read(scenario: Scenario, subject: str, report: Report, alone: Report | None) -> Iterator[Reading]:
    for figure in scenario.figures:
        if alone is None and figure.kind == "cost":
            continue
        value = figure.of(report)
        ceiling = figure.of(alone) if alone is not None and figure.kind == "rate" else None
        waited = report.waited / report.seconds if report.seconds else 0.0
        read = functools.partial(Reading, benchmark=scenario.name, unit=figure.unit, subject=subject, waited=waited)
        yield read(metric=figure.metric, value=value, ceiling=ceiling)
        if alone is not None and figure.kind == "time":
            yield read(metric=f"{figure.metric}, added", value=value - figure.of(alone))


EVENTS = (
    Figure("events per second", "1/s", lambda r: r.count / r.seconds, "rate"),
    Figure("CPU per event", "us", lambda r: r.cpu / r.count * 1e6),
)
REQUESTS = (
    Figure("requests per second", "1/s", lambda r: r.count / r.seconds, "rate"),
    Figure("CPU per request", "us", lambda r: r.cpu / r.count * 1e6),
)
THROUGHPUT = (
    Figure("throughput", "MB/s", lambda r: r.payload / r.seconds / 1e6, "rate"),
    Figure("peak memory growth", "KiB", lambda r: r.grown / 1024),
)
TIMES = (
    Figure("p50", "us", lambda r: r.median * 1e6, "time"),
    Figure("p99", "us", lambda r: r.p99 * 1e6, "time"),
)
MEMORY = (Figure("memory per idle stream", "KiB", lambda r: r.grown / r.count / 1024),)
WHOLE = (Figure("events, none lost", "events", lambda r: r.count, "count"),)


def _lockstep(shape: str, setup: Setup) -> Job:
    return Job(mode="lockstep", shape=shape, port=None, streams=64, seconds=setup.seconds)


SCENARIOS = (
    Scenario(
        "requests", lambda s: Job(mode="requests", shape="one", port=None, streams=32, seconds=s.seconds), REQUESTS
    ),
    Scenario("events", functools.partial(_lockstep, "token"), EVENTS),
    Scenario("comments", functools.partial(_lockstep, "comments"), EVENTS),
    Scenario("coalesced", functools.partial(_lockstep, "coalesced"), EVENTS),
    Scenario("bulk", lambda s: Job(mode="pour", shape="bulk", port=None, repeat=16 if s.smoke else 1024), THROUGHPUT),
    Scenario(
        "line-32m", lambda s: Job(mode="pour", shape="line-32m", port=None, repeat=1 if s.smoke else 8), THROUGHPUT
    ),
    Scenario("first-byte", lambda s: Job(mode="requests", shape="one", port=None, seconds=s.seconds), TIMES),
    Scenario(
        "latency",
        lambda s: Job(mode="paced", shape="token", port=None, streams=40, rate=2000, repeat=10 if s.smoke else 100),
        TIMES,
    ),
    Scenario("idle", lambda s: Job(mode="idle", shape="token", port=None, streams=100 if s.smoke else 1000), MEMORY),
)

INTEGRITY = (
    Scenario(
        "one long stream", lambda s: Job(mode="pour", shape="token", port=None, repeat=250 if s.smoke else 2500), WHOLE
    ),
    Scenario(
        "1,000 paced streams",
        lambda s: Job(
            mode="paced", shape="token", port=None, streams=1000, rate=4000, repeat=3 if s.smoke else 20, limit=120
        ),
        WHOLE,
    ),
)


def _integrity(setup: Setup) -> Iterator[Reading]:
    for scenario in INTEGRITY:
        yield from run(scenario, setup)


BENCHMARKS = (
    *(Benchmark("proxy", scenario.name, functools.partial(run, scenario)) for scenario in SCENARIOS),
    Benchmark("integrity", "integrity", _integrity),
)
