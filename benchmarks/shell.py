"""Measure the shell: `sseflow.relay` between sockets, beside a pump that does nothing else.

``python -m benchmarks.shell WIRE RELAY`` is what is measured: it accepts two connections per stream, reads the first
and writes to the second.
"""

from __future__ import annotations

import functools
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import attrs
import trio

from sseflow import Eof, Pipeline, StandardPipeline, relay
from sseflow.dialects import OpenAIChat
from sseflow.http import SocketWire

from .bench import Benchmark, Setup
from .core import HEAD
from .jobs import Job, Report
from .processes import Wrong, started
from .results import ALONE, Reading

Wire: TypeAlias = trio.SocketStream | SocketWire
Wrap: TypeAlias = Callable[[socket.socket], Wire]
Run: TypeAlias = Callable[[Wire, Wire], Awaitable[None]]


async def pump(source: Wire, sink: Wire) -> None:
    """Read and write in turn: the floor."""
    async with source, sink:
        while data := await source.receive_some():
            await sink.send_all(data)


async def _relay(make: Callable[[], Pipeline], source: Wire, sink: Wire) -> None:
    outcome = await relay(source, make(), sink, head=HEAD)
    if outcome.write_error is not None or not isinstance(outcome.ending, Eof):
        raise Wrong(f"a relay ended so: {outcome}")


WRAPS: dict[str, Wrap] = {
    "SocketStream": lambda sock: trio.SocketStream(trio.socket.from_stdlib_socket(sock)),
    "SocketWire": SocketWire,
}

RELAYS: dict[str, Run] = {
    "pump": pump,
    "relay": functools.partial(_relay, Pipeline),
    "relay, standard": functools.partial(_relay, lambda: StandardPipeline(OpenAIChat())),
}


async def serve(listener: socket.socket, wrap: Wrap, run: Run) -> None:
    """Relay whatever comes, until the process is ended."""
    listener.setblocking(False)

    async def accept() -> Wire:
        await trio.lowlevel.wait_readable(listener)
        sock, _ = listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return wrap(sock)

    async with trio.open_nursery() as nursery:
        while True:
            source = await accept()
            nursery.start_soon(run, source, await accept())


LOCKSTEP = ("token", "coalesced")


def _jobs(setup: Setup) -> dict[str, Job]:
    bare = Job(mode="pour", shape="token", port=None, http=False)
    return {
        **{
            shape: attrs.evolve(bare, mode="lockstep", shape=shape, streams=64, seconds=setup.seconds)
            for shape in LOCKSTEP
        },
        "bulk": attrs.evolve(bare, shape="bulk", repeat=8 if setup.smoke else 256),
        "line-32m": attrs.evolve(bare, shape="line-32m", repeat=1 if setup.smoke else 4),
    }


def _on_wire(wire: str, setup: Setup) -> Iterator[Reading]:
    jobs = _jobs(setup)
    poured = {shape: setup.do(job) for shape, job in jobs.items() if job.mode == "pour"}
    for shape, report in poured.items():
        yield _reading(wire, shape, ALONE, report, None)
    pump: dict[str, Reading] = {}
    for name in RELAYS:
        command = [sys.executable, "-m", "benchmarks.shell", wire, name]
        with started(command, cores={setup.cores.subject}, port=_port_of, stops_cleanly=False) as target:
            bare = attrs.evolve(jobs["token"], port=target.port, pids=target.pids)
            setup.do(attrs.evolve(bare, streams=8, seconds=0.1))
            for shape, job in jobs.items():
                report = setup.do(attrs.evolve(job, port=target.port, pids=target.pids))
                reading = _reading(wire, shape, name, report, poured.get(shape))
                yield reading
                floor = pump.setdefault(shape, reading)
                if floor is not reading:
                    yield attrs.evolve(
                        reading, metric="of the pump", unit="times", value=reading.value / floor.value, ceiling=None
                    )


def _reading(wire: str, shape: str, name: str, report: Report, alone: Report | None) -> Reading:
    """Microseconds of CPU time per event for events in lock step, MB/s for what is poured."""
    waited = report.waited / report.seconds
    read = functools.partial(Reading, benchmark=f"{shape}, {wire}", subject=name, waited=waited)
    if shape in LOCKSTEP:
        return read(metric="CPU per event", unit="us", value=report.cpu / report.count * 1e6)
    ceiling = None if alone is None else _throughput(alone)
    return read(metric="throughput", unit="MB/s", value=_throughput(report), ceiling=ceiling)


def _throughput(report: Report) -> float:
    return report.payload / report.seconds / 1e6


def _port_of(line: str) -> int | None:
    return int(line) if line.isdigit() else None


BENCHMARKS = tuple(Benchmark("shell", f"relay-{wire.lower()}", functools.partial(_on_wire, wire)) for wire in WRAPS)


def main(wire: str, name: str) -> None:
    """Be what is measured."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        trio.run(serve, listener, WRAPS[wire], RELAYS[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
