"""Name what proxies are asked to do, and which numbers are read from it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import attrs

from .bench import Setup
from .jobs import Job, Report
from .peers import Wiring
from .shapes import KIB, LINES, MIB, READ


@attrs.frozen
class Figure:
    """What a report comes to, in one number."""

    metric: str
    unit: str
    of: Callable[[Report], float]
    kind: str = "cost"
    """``cost`` is the target's own, and the generator has none. ``rate`` is bounded by what the generator reaches
    alone, ``count`` by what was asked. ``time`` is shown, and also what a target adds to the generator's own."""


@attrs.frozen(kw_only=True)
class Scenario:
    """One job, and what is read from its report."""

    name: str
    job: Callable[[Setup], Job]
    figures: tuple[Figure, ...]
    wiring: Wiring = attrs.field(factory=Wiring)
    at: str = ""
    """Which of several of this name it is: the metrics say so, too."""

    scaled: bool = False
    """It is one of a row that goes up to what takes the slowest minutes: they are left out."""


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


COST = (
    Figure("throughput", "MB/s", lambda r: r.payload / r.seconds / 1e6, "rate"),
    Figure("CPU per byte", "ns", lambda r: r.cpu / r.payload * 1e9),
)

STREAMS = (1, 8, 64, 512, 2000, 5000)
LENGTHS = ("line-1k", "line-16k", "line-256k", "line-4m", "line-32m")
IDLE = 5000
PREFIX = "/openai"
"""Of the paths that are asked of a gateway."""

SCALED_BYTES = 64 * MIB
"""Of each size of a line: two of the longest."""


def _lockstep(shape: str, setup: Setup) -> Job:
    return Job(mode="lockstep", shape=shape, port=None, streams=64, seconds=setup.seconds)


def _requests(streams: int, setup: Setup) -> Job:
    return Job(mode="requests", shape="one", port=None, streams=streams, seconds=setup.seconds)


def _pour(shape: str, repeat: int, setup: Setup) -> Job:
    return Job(mode="pour", shape=shape, port=None, repeat=max(1, repeat // 64) if setup.smoke else repeat)


def _latency(setup: Setup) -> Job:
    repeat = 10 if setup.smoke else 100
    return Job(mode="paced", shape="token", port=None, streams=40, rate=2000, repeat=repeat)


def _idle(streams: int, setup: Setup) -> Job:
    return Job(mode="idle", shape="token", port=None, streams=100 if setup.smoke else streams, limit=120)


def _tls(setup: Setup, *, both: bool) -> Job:
    return attrs.evolve(_lockstep("token", setup), upstream_tls=True, client_tls=both)


def _gateway(job: Callable[[Setup], Job], setup: Setup) -> Job:
    return attrs.evolve(job(setup), prefix=PREFIX)


def _through_gateway(name: str, job: Callable[[Setup], Job], figures: tuple[Figure, ...]) -> Scenario:
    return Scenario(name=name, job=functools.partial(_gateway, job), figures=figures, wiring=Wiring(gateway=True))


#: Each is a benchmark of its own.
SCENARIOS = (
    Scenario(name="requests", job=functools.partial(_requests, 32), figures=REQUESTS),
    Scenario(name="events", job=functools.partial(_lockstep, "token"), figures=EVENTS),
    Scenario(name="comments", job=functools.partial(_lockstep, "comments"), figures=EVENTS),
    Scenario(name="coalesced", job=functools.partial(_lockstep, "coalesced"), figures=EVENTS),
    Scenario(
        name="tls-upstream",
        job=functools.partial(_tls, both=False),
        figures=EVENTS,
        wiring=Wiring(upstream_tls=True),
    ),
    Scenario(
        name="tls-both",
        job=functools.partial(_tls, both=True),
        figures=EVENTS,
        wiring=Wiring(upstream_tls=True, client_tls=True),
    ),
    _through_gateway("gateway-requests", functools.partial(_requests, 32), REQUESTS),
    _through_gateway("gateway-events", functools.partial(_lockstep, "token"), EVENTS),
    _through_gateway("gateway-coalesced", functools.partial(_lockstep, "coalesced"), EVENTS),
    Scenario(name="bulk", job=functools.partial(_pour, "bulk", 1024), figures=THROUGHPUT),
    Scenario(name="line-32m", job=functools.partial(_pour, "line-32m", 8), figures=THROUGHPUT),
    Scenario(name="first-byte", job=functools.partial(_requests, 1), figures=TIMES),
    Scenario(name="latency", job=_latency, figures=TIMES),
    Scenario(name="idle", job=functools.partial(_idle, 1000), figures=MEMORY),
)


def by_streams(setup: Setup) -> tuple[Scenario, ...]:
    """Events in lock step, on more and more streams: what one of them costs does not depend on the others."""

    def job(streams: int, setup: Setup) -> Job:
        seconds = setup.seconds / 2
        return Job(mode="lockstep", shape="token", port=None, streams=streams, seconds=seconds, limit=120)

    return tuple(
        Scenario(
            name="streams",
            job=functools.partial(job, streams),
            figures=EVENTS,
            wiring=Wiring(streams=streams),
            at=f"{streams:,} stream{'s' * (streams > 1)}",
            scaled=True,
        )
        for streams in (STREAMS[:1] if setup.smoke else STREAMS)
    )


def by_line(setup: Setup) -> tuple[Scenario, ...]:
    """Lines that are longer and longer: what a byte costs does not grow with its line."""
    return tuple(
        Scenario(
            name="lines",
            job=functools.partial(_pour, shape, SCALED_BYTES // max(size, READ)),
            figures=COST,
            at=f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB",
            scaled=True,
        )
        for shape, size in LINES.items()
        if shape in (LENGTHS[:1] if setup.smoke else LENGTHS)
    )


MANY_IDLE = Scenario(
    name=f"idle-{IDLE}",
    job=functools.partial(_idle, IDLE),
    figures=MEMORY,
    wiring=Wiring(streams=IDLE),
    scaled=True,
)

WORKERS = (
    Scenario(name="workers", job=functools.partial(_requests, 32), figures=REQUESTS[:1]),
    Scenario(name="workers", job=functools.partial(_lockstep, "token"), figures=EVENTS[:1]),
)

SOAK_RATE = 1000.0
SOAK_EVENTS = 50
"""Of each stream; so there are twenty new ones a second."""


def _soak(setup: Setup) -> Job:
    return Job(
        mode="soak",
        shape="token",
        port=None,
        streams=40,
        rate=SOAK_RATE,
        repeat=SOAK_EVENTS,
        seconds=setup.soak,
        limit=setup.soak + 60,
    )


#: A steady load: streams come and go, and events come at one pace. What is read is the memory over the time.
SOAK = Scenario(name="soak", job=_soak, figures=())


def _paced_thousand(setup: Setup) -> Job:
    repeat = 3 if setup.smoke else 20
    return Job(mode="paced", shape="token", port=None, streams=1000, rate=4000, repeat=repeat, limit=120)


def _one_long(setup: Setup) -> Job:
    return Job(mode="pour", shape="token", port=None, repeat=250 if setup.smoke else 2500)


INTEGRITY = (
    Scenario(name="one long stream", job=_one_long, figures=WHOLE),
    Scenario(name="1,000 paced streams", job=_paced_thousand, figures=WHOLE),
)
