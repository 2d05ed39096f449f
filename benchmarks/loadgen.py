"""Play upstream and client at once, in one loop of its own process: the load generator.

``python -m benchmarks.loadgen`` says on a line of JSON where its upstream listens, then takes a `Job` per line and
answers each with a `Report`. Plain Python over epoll and non-blocking sockets, without an event loop of anybody's:
requests and chunks are made before the clock starts, and per event there is one comparison of memory, one `recv` and
one `send`. What this reaches alone, with its client connected to its own upstream, is measured like any target.
"""

from __future__ import annotations

import gc
import json
import socket
import sys
from collections.abc import Iterator

import attrs

from .jobs import Job, Report
from .play import Play
from .processes import Wrong

KIND = "python, epoll"


def do(job: Job, listener: socket.socket) -> Report:
    """Do a job; what goes wrong is in the report."""
    gc.disable()
    try:
        return Play(job, listener).run()
    except (Wrong, OSError, ValueError) as error:
        return Report(wrong=f"{type(error).__name__}: {error}")
    finally:
        gc.enable()
        gc.collect()


def _jobs() -> Iterator[Job]:
    for line in sys.stdin:
        fields = json.loads(line)
        yield Job(**{**fields, "pids": tuple(fields["pids"])})


def main() -> None:
    """Say where the upstream listens; then do what is asked until nothing more is."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        for job in _jobs():
            print(json.dumps(attrs.asdict(do(job, listener))), flush=True)


if __name__ == "__main__":
    main()
