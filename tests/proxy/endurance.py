"""What has to hold for long: connections that come and go, and a steady load.

``python -m tests.proxy.endurance churn COUNT`` opens so many connections to a proxy of its own, drops each at a random
moment of its exchange, and looks at what is left: memory, descriptors, tasks. ``... soak SECONDS`` keeps 50 streams
running for so long, and looks at the slope of the memory: of the bytes, and of the blocks that Python has allocated,
which no fragmentation adds to. Exit status: 0 if nothing is left, 1 if something is.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from sseflow.http import Address, Origin, listen
from sseflow.proxy._app import App
from sseflow.proxy._log import make_logger
from sseflow.testing import ScriptedUpstream

from .rig import settings_for
from .test_answer import ASK

AT_ONCE = 50
STREAMS = """
head
comment ping
token Hello
wait 0.01
token  world
comment ping
wait 0.01
repeat 20
    token  and
    wait 0.002
stop
done
end
"""
MAX_GROWTH = 1 << 20
"""Bytes by which memory may grow between the second and the last quarter of a run of 20 samples or more: what the
allocator keeps."""

MAX_BLOCKS = 5000
"""The same for allocated blocks: how the streams happen to stand, and four for each sample. An object that each
exchange left behind would be many more within minutes."""


class Counted(io.StringIO):
    """A log that counts verdicts, and is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.verdicts: dict[str, int] = {}
        self.complaints: list[str] = []

    def write(self, text: str) -> int:
        for line in text.splitlines():
            said = json.loads(line)
            if said["event"] == "exchange":
                self.verdicts[said["verdict"]] = self.verdicts.get(said["verdict"], 0) + 1
            if said["level"] == "error":
                self.complaints.append(line)
        return len(text)


def memory() -> int:
    """Bytes of this process that are its own, behind a collection, and without what malloc keeps of freed ones."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc's; musl has none
        libc.malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))


async def drop(port: int, rng: random.Random) -> None:
    """One connection that ends at a random moment."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        with trio.move_on_after(rng.choice([0, 0.001, 0.005, 0.02, 0.05, 0.2])):
            await stream.send_all(ASK[: rng.choice([len(ASK)] * 6 + [rng.randrange(len(ASK))])])
            while await stream.receive_some():
                pass
        if rng.random() < 0.5:
            stream.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER: by a reset


async def read(port: int, rng: random.Random) -> None:
    """One stream that is read to its end."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(ASK)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            data = await stream.receive_some()
            assert data, "a stream was cut"
            received += data


async def run(
    one: Callable[[int, random.Random], Awaitable[None]], more: Callable[[int], bool], seed: int, interval: float
) -> int:
    """Run `one` again and again, so many at once, as long as there is to be more; return the exit status."""
    rng, log = random.Random(seed), Counted()
    samples: list[tuple[float, int, int]] = []
    async with trio.open_nursery() as nursery:
        upstream = ScriptedUpstream(STREAMS)
        await nursery.start(upstream.run)
        settings = settings_for(Origin.parse(upstream.url), max_idle_time=1.0)
        listeners = listen(Address("127.0.0.1", 0))
        app = App(settings, make_logger(log, json=True))
        await nursery.start(app.run, listeners)
        port, begun, count = listeners[0].address.port, time.monotonic(), 0

        async def worker(number: int) -> None:
            nonlocal count
            mine = random.Random(f"{seed} {number}")
            while more(count):
                count += 1
                await one(port, mine)
                upstream.requests.clear()

        async def sample() -> None:
            while more(count):
                samples.append((time.monotonic() - begun, memory(), sys.getallocatedblocks()))
                await trio.sleep(interval)

        await read(port, rng)
        before = descriptors(), trio.lowlevel.current_statistics().tasks_living
        async with trio.open_nursery() as workers:
            workers.start_soon(sample)
            for number in range(AT_ONCE):
                workers.start_soon(worker, number)
        await trio.sleep(5)  # for the proxy to notice who has left, and for what is idle to be closed
        after = descriptors(), trio.lowlevel.current_statistics().tasks_living
        nursery.cancel_scope.cancel()
    return judge(count, samples, before, after, log)


def means(samples: list[tuple[float, int, int]]) -> tuple[float, float]:
    """The bytes and the blocks of these samples, on average."""
    count = max(len(samples), 1)
    return sum(size for _, size, _ in samples) / count, sum(blocks for _, _, blocks in samples) / count


def judge(
    count: int, samples: list[tuple[float, int, int]], before: tuple[int, int], after: tuple[int, int], log: Counted
) -> int:
    """Print what became of it, and say whether that is all right."""
    quarter = max(len(samples) // 4, 1)
    early, early_blocks = means(samples[quarter : 2 * quarter])
    late, late_blocks = means(samples[-quarter:])
    print(f"exchanges: {count}, {dict(sorted(log.verdicts.items()))}, in {samples[-1][0]:.0f} s")
    print(f"descriptors and tasks before: {before}, after: {after}")
    print(f"memory, second quarter: {early / 2**20:.2f} MiB, last quarter: {late / 2**20:.2f} MiB")
    print(f"allocated blocks, second quarter: {early_blocks:.0f}, last quarter: {late_blocks:.0f}")
    for error in log.complaints[:3]:
        print(error)
    # The first connection to the upstream was idle before, and is not any more.
    grew = len(samples) >= 20 and (late - early > MAX_GROWTH or late_blocks - early_blocks > MAX_BLOCKS)
    good = after[0] <= before[0] and after[1] <= before[1] and not grew and not log.complaints
    print("nothing is left" if good else "SOMETHING IS LEFT")
    return 0 if good else 1


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["churn", "soak"])
    parser.add_argument("amount", type=float, help="connections, or seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    print(f"seed: {options.seed}")
    if options.what == "churn":
        return trio.run(run, drop, lambda count: count < options.amount, options.seed, 0.1)
    end = time.monotonic() + options.amount
    return trio.run(run, read, lambda count: time.monotonic() < end, options.seed, 1.0)


if __name__ == "__main__":
    sys.exit(main())
