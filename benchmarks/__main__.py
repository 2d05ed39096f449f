"""``python -m benchmarks``: choose, run, show, and say with the exit status whether every byte was there."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from . import core, proxy, shell
from .bench import Benchmark, Setup
from .loadgen import KIND
from .peers import PEERS, Peer
from .processes import Wrong, allow_descriptors, is_supported
from .results import Results, show

BENCHMARKS: tuple[Benchmark, ...] = (*core.BENCHMARKS, *shell.BENCHMARKS, *proxy.BENCHMARKS)

DEFAULT_RUNS = 3

SOAK_SECONDS = 600.0

_EPILOG = """\
Numbers are medians over the runs, with quartiles; in each run every benchmark comes once, so that what the machine
does meanwhile hits all alike. What is measured has a core of its own, and so has the load generator.

exit status: 0; 1 if anything was wrong, and a byte that was lost is wrong; 2 for wrong options
"""


def choose(names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks that are called so, or that are in a group that is; all of them for no names.

    Those that take long only by their own name.

    Raises:
        ValueError: there is none of a name.
    """
    known = {name for benchmark in BENCHMARKS for name in (benchmark.name, benchmark.group)}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no benchmark {name!r}; there are: {', '.join(sorted(known))}")
    return [b for b in BENCHMARKS if b.name in names or (not b.only_named and (not names or b.group in names))]


def choose_peers(names: Sequence[str] | None) -> list[Peer]:
    """The peers that are called so; all of them for an empty list, and none for none at all.

    Raises:
        ValueError: there is none of a name.
    """
    for name in names or ():
        if name not in PEERS:
            raise ValueError(f"there is no peer {name!r}; there are: {', '.join(PEERS)}")
    return [] if names is None else [peer for peer in PEERS.values() if not names or peer.name in names]


def run(
    benchmarks: Sequence[Benchmark], *, runs: int, smoke: bool, peers: Sequence[Peer] = (), soak: float = SOAK_SECONDS
) -> Results:
    """Run each benchmark once per run; what goes wrong with one is noted, and the others go on."""
    results = Results()
    supported = is_supported()
    if supported:
        allow_descriptors()
    with Setup(smoke=smoke, peers=peers, soak=soak) as setup:
        for number in range(1, runs + 1):
            for benchmark in benchmarks:
                if benchmark.needs_linux and not supported:
                    continue
                print(f"run {number} of {runs}: {benchmark.group}, {benchmark.name}", file=sys.stderr, flush=True)
                try:
                    for reading in benchmark.run(setup):
                        results.add(benchmark.group, reading)
                except (Wrong, OSError, subprocess.SubprocessError) as error:
                    results.problems.append(f"{benchmark.name}: {error}")
    return results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(dict.fromkeys(name for b in BENCHMARKS for name in (b.group, b.name)))
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help=f"some of: {names}")
    parser.add_argument("--runs", type=int, metavar="N", help=f"how often (default: {DEFAULT_RUNS}, or 1 with --smoke)")
    parser.add_argument("--smoke", action="store_true", help="measure next to nothing: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values of all runs there")
    parser.add_argument(
        "--peers",
        nargs="*",
        metavar="NAME",
        help=f"what to measure beside sseflow (default: nothing; without a name: all): {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--soak",
        type=float,
        metavar="SECONDS",
        help=f"measure memory over so long a time, too (default for --only soak: {SOAK_SECONDS:g})",
    )
    options = parser.parse_args(arguments)
    if options.runs is not None and options.runs < 1:
        parser.error("--runs: must be at least 1")
    if options.soak is not None and not options.soak > 0:
        parser.error("--soak: must be more than 0")
    try:
        options.benchmarks = choose(options.only)
        options.peers = choose_peers(options.peers)
    except ValueError as error:
        parser.error(str(error))
    if options.soak is not None:
        options.benchmarks += [b for b in choose(["soak"]) if b not in options.benchmarks]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    options = parse(arguments)
    runs = options.runs or (1 if options.smoke else DEFAULT_RUNS)
    started = time.monotonic()
    results = run(
        options.benchmarks, runs=runs, smoke=options.smoke, peers=options.peers, soak=options.soak or SOAK_SECONDS
    )
    seconds = time.monotonic() - started
    show(results)
    if not is_supported():
        print("What needs epoll, /proc and two cores was left out: this system does not have them.")
    print(f"{runs} run{'s'[: runs > 1]} in {seconds:.0f} s; load generator: {KIND}, on a core of its own")
    if options.json is not None:
        written = results.as_json(
            runs=runs,
            smoke=options.smoke,
            seconds=round(seconds, 1),
            missing=[attrs.asdict(missing) for missing in results.missing],
            series=[attrs.asdict(series) for series in results.series],
        )
        text = json.dumps(written, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if results.problems else 0


if __name__ == "__main__":
    sys.exit(main())
