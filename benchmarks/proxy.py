"""Measure the proxy as its users run it, a process of its own, beside its peers and a client without any proxy."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from . import scenarios
from .bench import Benchmark, Setup
from .ends import KEY
from .jobs import Job, Report
from .peers import Peer, Wiring
from .processes import ROOT, Target, Wrong, environment, free_port, started
from .results import ALONE, Missing, Reading, Series
from .scenarios import Scenario
from .shapes import SHAPES

WARM_STREAMS = 8

WARM_LIMIT = 120.0
"""Seconds: LiteLLM makes its first requests wait, while it imports what it has not yet needed."""

LOG_SECONDS = 5.0
"""For the last line of the log to be written."""

FEW = 1000
"""Streams that the proxy's own limits are wide enough for."""

_GATEWAY = """\
allow_literal_keys = true

[[listeners]]
address = "127.0.0.1:0"

[providers.first]
type = "openai-compat"
base_url = "{upstream}/v1"
keys = ["sk-first-1", "sk-first-2"]

[providers.second]
type = "openai-compat"
base_url = "{upstream}/v1"
keys = ["sk-second-1", "sk-second-2"]

[[routes]]
path = "{prefix}"
upstreams = ["first", "second"]

[retry]

[breaker]

[auth]
tokens_file = "tokens.toml"

[admin]
address = "127.0.0.1:0"

[history]
path = "history.db"

[logging]
format = "json"
"""


@contextlib.contextmanager
def _start(setup: Setup, wiring: Wiring) -> Iterator[Target]:
    """Our proxy, with everything as it is by default, unless there are more streams than that allows."""
    port = free_port() if wiring.workers else 0
    command = [sys.executable, "-m", "sseflow.proxy"]
    if wiring.gateway:
        command += ["--config", str(_configure(setup, wiring))]
    else:
        command += ["--listen", f"127.0.0.1:{port}", "--upstream", wiring.upstream(setup)]
    if wiring.upstream_tls:
        command += ["--upstream-ca", str(setup.certificates / "ca.pem")]
    if wiring.client_tls:
        command += ["--tls-cert", str(setup.certificates / "cert.pem")]
        command += ["--tls-key", str(setup.certificates / "key.pem")]
    if wiring.streams > FEW:
        command += ["--max-connections", str(2 * wiring.streams), "--max-streams", str(2 * wiring.streams)]
        # The last one may be opened so late that the first one would be kept alive: those bytes are not the upstream's.
        command += ["--keep-alive", "0", "--gate-open-after", "0"]
    if wiring.workers:
        command += ["--workers", str(wiring.workers)]
    with started(command, cores=_cores(setup, wiring), port=port or _port_of) as target:
        yield target


def _start_plain(setup: Setup, wiring: Wiring) -> contextlib.AbstractContextManager[Target]:
    return _start(setup, attrs.evolve(wiring, gateway=False))


def _configure(setup: Setup, wiring: Wiring) -> Path:
    """Write a configuration with all that a gateway may have to do for a request."""
    folder = setup.folder / "gateway"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "tokens.toml").write_text(f'[[tokens]]\nname = "benchmark"\nsha256 = "{digest}"\n')
    path = folder / "sseflow.toml"
    path.write_text(_GATEWAY.format(upstream=wiring.upstream(setup), prefix=scenarios.PREFIX))
    return path


def _cores(setup: Setup, wiring: Wiring) -> set[int]:
    """The subject's; for workers all but the generator's, if there are two others, and else all."""
    if not wiring.workers:
        return {setup.cores.subject}
    usable = os.sched_getaffinity(0)
    others = usable - {setup.cores.generator}
    return others if len(others) > 1 else usable


SSEFLOW = Peer(name="sseflow", start=_start, missing=lambda: None, strips=True, tls=True)

#: What a gateway is measured beside: the same proxy, in the same run, in front of one upstream and with no keys.
PLAIN = attrs.evolve(SSEFLOW, name="plain", start=_start_plain)


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
    return attrs.evolve(job, mode="lockstep", shape="token", streams=WARM_STREAMS, seconds=0.1, limit=WARM_LIMIT)


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
        counted = sum(line["events"] == events for line in exchanges[WARM_STREAMS:])
        if counted != job.streams:
            raise Wrong(
                f"{counted} of {job.streams} streams were logged with {events} events; the last: {exchanges[-1:]}"
            )


def _events(job: Job) -> int | None:
    """How many events each stream of a job has, where it is not the clock that decides."""
    shape = SHAPES[job.shape]()
    pieces = {"pour": job.repeat * len(shape.body), "paced": job.repeat, "idle": 1}.get(job.mode)
    return None if pieces is None else pieces * shape.events // len(shape.body) + shape.tail_events


def run(scenario: Scenario, setup: Setup) -> Iterator[Reading | Missing]:
    """One scenario, without any proxy, then through ours, and then through each peer in turn.

    Raises:
        Wrong: behind all others, what was wrong with ours.
    """
    job = scenario.job(setup)
    if job.streams * 2 + FEW > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        too_few = f"{job.streams} streams need more open descriptors than `ulimit -Hn` allows"
        yield Missing(benchmark=scenario.name, subject=ALONE, short="not possible", why=too_few)
        return
    alone = setup.do(job)
    yield from _read(scenario, ALONE, alone, None)
    wrong: Wrong | None = None
    for subject in (SSEFLOW, PLAIN) if scenario.wiring.gateway else (SSEFLOW, *setup.peers):
        if (scenario.scaled and subject.slowness > 1) or (job.upstream_tls and not subject.tls):
            continue
        report = _try(subject, setup, scenario, job)
        if isinstance(report, Report):
            yield from _read(scenario, subject.name, report, alone)
        else:
            yield report
            if subject in (SSEFLOW, PLAIN):
                wrong = Wrong(report.why)
    if wrong is not None:
        raise wrong


def _try(subject: Peer, setup: Setup, scenario: Scenario, job: Job) -> Report | Missing:
    """Do a job of a scenario through a proxy, or say why that was not possible."""
    missing = functools.partial(Missing, benchmark=scenario.name, subject=subject.name)
    if (what_to_do := subject.missing()) is not None:
        return missing(short="not installed", why=what_to_do)
    try:
        return through(subject, setup, scenario.wiring, job)
    except (Wrong, OSError, subprocess.SubprocessError) as error:
        return missing(short="failed", why=f"{scenario.at}: {error}" if scenario.at else str(error))


def through(subject: Peer, setup: Setup, wiring: Wiring, job: Job) -> Report:
    """Do a job with a proxy in between, which is started, warmed up, and ended."""
    with subject.start(setup, wiring) as target:
        job = attrs.evolve(job, port=target.port, stripped=subject.strips, rewritten=subject.rewrites)
        if job.mode == "pour":
            job = attrs.evolve(job, repeat=max(1, job.repeat // subject.slowness))
        alone = wiring.workers is None
        setup.do(_warm(job), alone=alone)
        report = setup.do(attrs.evolve(job, pids=target.pids), alone=alone)
        if subject in (SSEFLOW, PLAIN):
            check_log(target, job)
    return report


def _read(scenario: Scenario, subject: str, report: Report, alone: Report | None) -> Iterator[Reading]:
    at = f", {scenario.at}" if scenario.at else ""
    for figure in scenario.figures:
        if alone is None and figure.kind == "cost":
            continue
        value = figure.of(report)
        ceiling = None
        if alone is not None and figure.kind == "rate":
            # What the generator would have reached in the time in which it had nothing to do counts, too: what goes
            # through a proxy may cost it more to check than what comes as it was sent.
            ceiling = min(figure.of(alone), value * report.seconds / max(report.seconds - report.idle, 1e-9))
        waited = report.waited / report.seconds if report.seconds else 0.0
        read = functools.partial(Reading, benchmark=scenario.name, unit=figure.unit, subject=subject, waited=waited)
        yield read(metric=figure.metric + at, value=value, ceiling=ceiling)
        if alone is not None and figure.kind == "time":
            yield read(metric=f"{figure.metric}, added{at}", value=value - figure.of(alone))


def _all(of: Callable[[Setup], tuple[Scenario, ...]], setup: Setup) -> Iterator[Reading | Missing]:
    """Several scenarios; what was wrong with ours in the first is raised behind the last."""
    wrong: list[Wrong] = []
    for scenario in of(setup):
        try:
            yield from run(scenario, setup)
        except Wrong as error:
            wrong.append(error)
    if wrong:
        raise wrong[0]


@functools.cache
def _has_workers() -> bool:
    command = [sys.executable, "-m", "sseflow.proxy", "--help"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    return "--workers" in done.stdout


def _workers(setup: Setup) -> Iterator[Reading | Missing]:
    """Our proxy with one worker and with two, on all cores, where the generator's has to serve both."""
    if not _has_workers():
        yield Missing(benchmark="workers", subject="sseflow", short="not there", why="this version has no --workers")
        return
    for scenario in scenarios.WORKERS:
        job = scenario.job(setup)
        alone = setup.do(job)
        for workers in (1, 2):
            counted = attrs.evolve(scenario, at=f"{workers} worker{'s' * (workers > 1)}")
            yield from _read(counted, ALONE, alone, None)
            report = through(SSEFLOW, setup, Wiring(workers=workers), job)
            yield from _read(counted, "sseflow", report, alone)


def _soak(setup: Setup) -> Iterator[Reading | Missing | Series]:
    """The memory of each proxy over the time of a steady load."""
    wrong: Wrong | None = None
    for subject in (SSEFLOW, *setup.peers):
        report = _try(subject, setup, scenarios.SOAK, scenarios.SOAK.job(setup))
        if isinstance(report, Missing):
            yield report
            if subject is SSEFLOW:
                wrong = Wrong(report.why)
            continue
        points = tuple((seconds, size / 1024) for seconds, size in report.samples)
        yield Series(benchmark="soak", metric="memory", unit="KiB", subject=subject.name, points=points)
        slope, error_of_it = trend(points)
        read = functools.partial(Reading, benchmark="soak", subject=subject.name)
        yield read(metric="memory at the end", unit="KiB", value=points[-1][1])
        yield read(metric="slope", unit="KiB/min", value=slope * 60)
        yield read(metric="slope, standard error", unit="KiB/min", value=error_of_it * 60)
    if wrong is not None:
        raise wrong


def trend(points: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """The slope of what comes behind the first third, in which a process warms up, and its standard error.

    Both are 0 for fewer than three points.
    """
    points = points[len(points) // 3 :]
    if len(points) < 3:
        return 0.0, 0.0
    times, values = zip(*points, strict=True)
    slope, start = statistics.linear_regression(times, values)
    middle = statistics.fmean(times)
    spread = sum((at - middle) ** 2 for at in times)
    residue = sum((value - start - slope * at) ** 2 for at, value in points)
    return slope, (residue / (len(points) - 2) / spread) ** 0.5


BENCHMARKS = (
    *(Benchmark("proxy", scenario.name, functools.partial(run, scenario)) for scenario in scenarios.SCENARIOS),
    Benchmark("integrity", "integrity", functools.partial(_all, lambda _: scenarios.INTEGRITY)),
    Benchmark("scaling", "streams", functools.partial(_all, scenarios.by_streams)),
    Benchmark("scaling", "lines", functools.partial(_all, scenarios.by_line)),
    Benchmark("scaling", scenarios.MANY_IDLE.name, functools.partial(run, scenarios.MANY_IDLE)),
    Benchmark("scaling", "workers", _workers),
    Benchmark("scaling", "soak", _soak, only_named=True),
)
