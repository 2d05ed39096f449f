"""``python -m benchmarks``: choose, run or read, show, and say with the exit status whether every byte was there."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import compare, core, goals, page, pictures, proxy, shell
from .bench import Benchmark, Setup
from .loadgen import KIND
from .peers import PEERS, Peer
from .processes import Wrong, allow_descriptors, is_supported
from .progress import progress
from .results import Malformed, Results, load, show

BENCHMARKS: tuple[Benchmark, ...] = (*core.BENCHMARKS, *shell.BENCHMARKS, *proxy.BENCHMARKS)

DEFAULT_RUNS = 3

SOAK_SECONDS = 600.0

_EPILOG = """\
Numbers are medians over the runs, with quartiles; in each run every benchmark comes once, so that what the machine
does meanwhile hits all alike. What is measured has a core of its own, and so has the load generator.

With --show nothing is measured: --compare, --draw and --page then take what was measured before.

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
    results.smoke = smoke
    possible = [benchmark for benchmark in benchmarks if supported or not benchmark.needs_linux]
    with Setup(smoke=smoke, peers=peers, soak=soak) as setup, progress(runs, len(possible)) as shown:
        for number in range(1, runs + 1):
            for benchmark in possible:
                shown.begin(number, f"{benchmark.group}, {benchmark.name}")
                try:
                    for reading in benchmark.run(setup):
                        results.add(benchmark.group, reading)
                        shown.measured(reading.subject)
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
        "--show", type=Path, nargs="+", metavar="FILE", help="measure nothing, show what --json has written"
    )
    parser.add_argument("--compare", type=Path, metavar="FILE", help="hold it against what --json has written before")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="write pictures there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the tables into a page, between its markers")
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
    asked = (
        options.only,
        options.runs is not None,
        options.smoke,
        options.json,
        options.peers is not None,
        options.soak,
    )
    if options.show and any(asked):
        parser.error("--show: nothing is measured, so it is of no use to say what, how often, or where to write it")
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
    # What can be wrong with files is to be said before an hour is spent, not behind it.
    try:
        before = load([options.compare]) if options.compare else None
        if options.draw:
            pictures.check()
        if options.page:
            page.read(options.page)
        results = load(options.show) if options.show else None
    except (Malformed, OSError, page.NoPlace, pictures.Missing) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    if results is None:
        results = measure(options)
    else:
        show(results)
    judgement(results)
    if before is not None:
        compare.table(results, before).print()
        for remark in compare.remarks(results, before):
            print(remark, file=sys.stderr)
    if options.draw:
        for path in pictures.draw(results, options.draw):
            print(f"written: {path}")
    if options.page:
        page.update(options.page, results)
        print(f"written: {options.page}")
    return 1 if results.problems else 0


def measure(options: argparse.Namespace) -> Results:
    """Run, show, and write down."""
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
        text = json.dumps(results.as_json(runs=runs, smoke=options.smoke, seconds=round(seconds, 1)), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return results


def judgement(results: Results) -> None:
    """Print what of the goals is reached, where there is anything to measure them by."""
    if goals.has_peers(results):
        rulings = goals.judge(results)
        goals.table(rulings).print()
        print(goals.summary(rulings))


if __name__ == "__main__":
    sys.exit(main())
