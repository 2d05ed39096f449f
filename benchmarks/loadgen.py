"""Play upstream and client at once, in one loop of its own process: the load generator.

``python -m benchmarks.loadgen`` says on a line of JSON where its upstream listens, then takes a `Job` per line and
answers each with a `Report`. Plain Python over epoll and non-blocking sockets, without an event loop of anybody's:
requests and chunks are made before the clock starts, and per event there is one comparison of memory, one `recv` and
one `send`. What this reaches alone, with its client connected to its own upstream, is measured like any target.
"""

# The upstream and the client of a stream are the two ends of whatever stands between them. With HTTP the client
# connects, and the request tells the upstream which stream it is; on bare sockets a target accepts two connections per
# stream: the first is read, the second is written to.

from __future__ import annotations

import collections
import contextlib
import gc
import itertools
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import attrs

from .checking import LAST_CHUNK, RECV, Check, Script
from .processes import Schedule, Wrong, memory, peak_memory, reset_peak, schedule
from .shapes import SHAPES

KIND = "python, epoll"

SMALL_RECV = 64 * 1024
"""A larger buffer is allocated anew for each small event, and costs more than the event does."""

BATCH = 100
"""Connections that are opened before the first of them must have arrived."""

SETTLE_SECONDS = 0.3
"""How long streams stand still before their memory is measured."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'{"model":"demo-1","stream":true,"messages":[{"role":"user","content":"Hello."}]}'

Handler: TypeAlias = Callable[[], None]

_NUMBERS = itertools.count(1)


@attrs.frozen(kw_only=True)
class Job:
    """What to do: ``lockstep``, ``pour``, ``requests``, ``paced`` or ``idle``."""

    mode: str
    shape: str
    port: int | None
    """Of the target; None: no target, the client connects to the upstream."""

    pids: tuple[int, ...] = ()
    """Whose CPU time and memory count."""

    http: bool = True
    stripped: bool = False
    streams: int = 1
    seconds: float = 1.0
    """Of the measurement; a fifth of it goes before, unmeasured."""

    repeat: int = 1
    """How often the body is sent for ``pour``, and how many pieces of it to each stream for ``paced``."""

    rate: float = 0.0
    """Events per second, all streams together."""

    spin: bool = False
    """Look at the sockets without a pause, so that no time is lost by waking up."""

    limit: float = 60.0
    """Seconds for all of it."""


@attrs.frozen(kw_only=True)
class Report:
    """What came of it."""

    wrong: str | None = None
    """What was wrong; nothing else counts then."""

    count: float = 0
    """Events, or requests, in the time measured."""

    payload: int = 0
    """Bytes of event streams in the time measured."""

    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of CPU time of the target in that time."""

    waited: float = 0.0
    """Seconds of that time that target and generator together would have run, had nothing else had their cores."""

    median: float = 0.0
    """Of the times of single events or requests, in seconds."""

    p99: float = 0.0
    grown: int = 0
    """Bytes that the target's memory grew by."""


class Loop:
    """Call handlers of sockets that are ready."""

    def __init__(self, limit: float, *, spin: bool) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._sockets: list[socket.socket] = []
        self._wait = 0.0 if spin else 0.2
        self._deadline = time.monotonic() + limit

    def add(self, sock: socket.socket, handler: Handler | None = None) -> None:
        """Own a socket, and call ``handler`` when it can be read."""
        self._sockets.append(sock)
        if handler is not None:
            self.change(sock, handler)

    def change(self, sock: socket.socket, handler: Handler, events: int = select.EPOLLIN) -> None:
        """From now on call this for a socket that was added."""
        fd = sock.fileno()
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            sock.setblocking(False)
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def drop(self, sock: socket.socket) -> None:
        """Close a socket that was added."""
        if sock.fileno() >= 0:
            self._epoll.unregister(sock.fileno())
            del self._handlers[sock.fileno()]
            sock.close()

    def run(self, until: Callable[[], object], waiting_for: str) -> None:
        """Call handlers until ``until`` is true.

        Raises:
            Wrong: the time is over.
        """
        poll = self._epoll.poll
        handlers = self._handlers
        while not until():
            for fd, _ in poll(self._wait):
                handlers[fd]()
            if time.monotonic() > self._deadline:
                raise Wrong(f"the time was over while waiting for {waiting_for}")

    def run_for(self, seconds: float) -> float:
        """Call handlers for some time, once at least; returns how long it really was."""
        poll = self._epoll.poll
        handlers = self._handlers
        clock = time.perf_counter
        start = clock()
        left = seconds
        while True:
            for fd, _ in poll(min(self._wait, max(left, 0.0))):
                handlers[fd]()
            now = clock()
            left = start + seconds - now
            if left <= 0:
                return now - start

    def close(self) -> None:
        """Close everything."""
        for sock in self._sockets:
            sock.close()
        self._epoll.close()


class Upstream:
    """The listening end: tells of each request which stream it is for.

    Args:
        mark: what stands before the number of the stream in a request. A proxy may still hold requests of an earlier
            job, whose client has gone; those get no answer.
    """

    def __init__(
        self, listener: socket.socket, loop: Loop, mark: bytes, on_request: Callable[[socket.socket, int], None]
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._mark = mark
        self._on_request = on_request

    def accept(self) -> None:
        """Take the connections that wait."""
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._loop.add(sock, self._reader(sock))

    def _reader(self, sock: socket.socket) -> Handler:
        held = b""
        recv = sock.recv
        on_request = self._on_request
        mark = self._mark

        def read() -> None:
            nonlocal held
            try:
                data = recv(SMALL_RECV)
            except ConnectionResetError:
                data = b""
            if not data:
                self._loop.drop(sock)
                return
            if held:
                data = held + data
            if not data.endswith(BODY):
                held = data
                return
            held = b""
            at = data.find(mark) + len(mark)
            if at >= len(mark):
                on_request(sock, int(data[at : data.index(b" ", at)]))

        return read


@attrs.define(eq=False)
class Stream:
    """One stream: where the upstream writes, where the client reads, and what must come there."""

    index: int
    source: socket.socket
    sink: socket.socket
    check: Check


class Play:
    """One job."""

    def __init__(self, job: Job, listener: socket.socket) -> None:
        shape = SHAPES[job.shape]()
        self.job = job
        self.script = Script(shape, http=job.http, stripped=job.stripped and job.port is not None)
        self.loop = Loop(job.limit, spin=job.spin)
        self._listener = listener
        self._port = listener.getsockname()[1]
        path = "/v1/chat/completions" if shape.chat else "/events"
        self._mark = b"?job=%d&stream=" % next(_NUMBERS)
        self._request = (
            f"POST {path}{self._mark.decode()}%d HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer benchmark\r\nAccept: text/event-stream\r\nContent-Length: {len(BODY)}\r\n\r\n"
        ).encode() + BODY

    def run(self) -> Report:
        """Do it."""
        modes = {
            "lockstep": self.lockstep,
            "pour": self.pour,
            "requests": self.requests,
            "paced": self.paced,
            "idle": self.idle,
        }
        try:
            return modes[self.job.mode]()
        finally:
            self.loop.close()

    def mark(self) -> tuple[Schedule, Schedule]:
        """Now, for `since`: what the target and this process have used."""
        return schedule(self.job.pids), schedule((os.getpid(),))

    def since(self, mark: tuple[Schedule, Schedule]) -> tuple[float, float]:
        """CPU time of the target, and what it and this process have waited for their cores."""
        target, own = self.mark()
        return (target - mark[0]).cpu, (target - mark[0]).waited + (own - mark[1]).waited

    # Connections.

    def connect(self, port: int | None = None) -> socket.socket:
        """A connection to the target; to the upstream if there is none."""
        sock = socket.create_connection(("127.0.0.1", port or self.job.port or self._port), timeout=self.job.limit)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def listen(self, on_request: Callable[[socket.socket, int], None]) -> None:
        """Be the upstream; ``on_request`` is told of each request."""
        self.loop.add(self._listener.dup(), Upstream(self._listener, self.loop, self._mark, on_request).accept)

    def open(self) -> list[Stream]:
        """All streams, with their requests sent and arrived."""
        pieces = self.job.repeat * len(self.script.pieces) if self.job.mode == "pour" else None
        ends = self._open_http() if self.job.http else [self._open_bare() for _ in range(self.job.streams)]
        return [Stream(i, source, sink, Check(self.script, pieces)) for i, (source, sink) in enumerate(ends)]

    def _open_http(self) -> list[tuple[socket.socket, socket.socket]]:
        sources: dict[int, socket.socket] = {}
        self.listen(lambda sock, index: sources.update({index: sock}))
        sinks = []
        for index in range(self.job.streams):
            sink = self.connect()
            sinks.append(sink)
            self.loop.add(sink)
            sink.sendall(self._request % index)
            if index % BATCH == BATCH - 1 or index == self.job.streams - 1:
                self.loop.run(lambda: len(sources) == len(sinks), "requests to arrive at the upstream")
        return [(sources[index], sink) for index, sink in enumerate(sinks)]

    def _open_bare(self) -> tuple[socket.socket, socket.socket]:
        if self.job.port is not None:
            source, sink = self.connect(), self.connect()
        else:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                sink = self.connect(listener.getsockname()[1])
                source, _ = listener.accept()
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.add(source)
        self.loop.add(sink)
        return source, sink

    def watch(self, stream: Stream, take: Callable[[bytes], None], then: Handler) -> None:
        """Read the head of an answer, if there is one; give what is behind it to ``take``, and go on with ``then``."""
        held = b""

        def read_head() -> None:
            nonlocal held
            held += stream.sink.recv(SMALL_RECV)
            head, blank, rest = held.partition(b"\r\n\r\n")
            if not held or (blank and not head.startswith(b"HTTP/1.1 200 ")):
                raise Wrong(f"a stream began with {head[:80]!r}")
            if blank:
                self.loop.change(stream.sink, then)
                if rest:
                    take(rest)

        self.loop.change(stream.sink, read_head if self.job.http else then)

    @property
    def _first(self) -> bytes:
        return HEAD if self.job.http else b""

    # One event after the other.

    def play(self, streams: Sequence[Stream], on_piece: Callable[[int], None]) -> list[Callable[[], None]]:
        """Read events from streams that get one piece at a time; ``on_piece`` is told the stream each one came from.

        Returns what ends each stream: call it when the last piece that was sent has come.
        """
        return [self._play_one(stream, on_piece) for stream in streams]

    def _play_one(self, stream: Stream, on_piece: Callable[[int], None]) -> Callable[[], None]:
        script, check, index = self.script, stream.check, stream.index
        expected, ring = script.expected, len(script.expected)
        recv = stream.sink.recv
        came = at = 0
        exact = True
        ended = False

        def take(data: bytes) -> None:
            nonlocal came, at, exact
            if data == expected[at] and exact:
                came += 1
                at = came % ring
                on_piece(index)
                return
            if exact:
                exact = False
                check.skip(came)
            if not data:
                check.eof()
                self.loop.drop(stream.sink)
                return
            check.take(data)
            while not ended and check.payload >= script.payload_size(came + 1):
                came += 1
                on_piece(index)

        def read() -> None:
            nonlocal came, at
            data = recv(SMALL_RECV)
            if data == expected[at] and exact:
                came += 1
                at = at + 1 if at + 1 < ring else 0
                on_piece(index)
            else:
                take(data)

        def end() -> None:
            nonlocal ended, exact
            if exact:
                exact = False
                check.skip(came)
            ended = True
            check.end(came)
            stream.source.sendall(script.tail)
            if not script.http:
                stream.source.shutdown(socket.SHUT_WR)

        self.watch(stream, take, read)
        return end

    def finish(self, streams: Sequence[Stream]) -> None:
        """Wait until all streams have ended, and ended well."""
        http = self.job.http
        self.loop.run(
            lambda: all(stream.check.done and (http or stream.sink.fileno() < 0) for stream in streams),
            "the ends of streams",
        )

    def lockstep(self) -> Report:
        """Each stream gets its next event when the last one has come: nothing can coalesce."""
        streams = self.open()
        pieces, ring = self.script.pieces, len(self.script.pieces)
        sends = [stream.source.send for stream in streams]
        sent = [1] * len(streams)
        resting: set[int] = set()
        total = 0
        stopping = False

        def on_piece(index: int) -> None:
            nonlocal total
            total += 1
            if stopping:
                resting.add(index)
            else:
                at = sent[index]
                sends[index](pieces[at % ring])
                sent[index] = at + 1

        ends = self.play(streams, on_piece)
        for send in sends:
            send(self._first + pieces[0])
        self.loop.run_for(self.job.seconds / 5)
        before, mark = total, self.mark()
        seconds = self.loop.run_for(self.job.seconds)
        cpu, waited = self.since(mark)
        done = total - before
        stopping = True
        self.loop.run(lambda: len(resting) == len(streams), "the last events")
        for end in ends:
            end()
        self.finish(streams)
        count = done * self.script.events_per_piece
        payload = done * self.script.payload_ends[-1] // ring
        return Report(count=count, payload=payload, seconds=seconds, cpu=cpu, waited=waited)

    def paced(self) -> Report:
        """Streams get events in turn, at a steady rate."""
        streams = self.open()
        pieces, ring = self.script.pieces, len(self.script.pieces)
        sent: list[collections.deque[float]] = [collections.deque() for _ in streams]
        times: list[float] = []
        clock = time.perf_counter

        def on_piece(index: int) -> None:
            times.append(clock() - sent[index].popleft())

        ends = self.play(streams, on_piece)
        total = self.job.repeat * len(streams)
        # The heads are no part of the pace: they cost a proxy much more than an event does.
        for index, stream in enumerate(streams):
            sent[index].append(clock())
            stream.source.send(self._first + pieces[0])
        self.loop.run(lambda: len(times) == len(streams), "the first events")
        start, mark = clock(), self.mark()
        for at in range(len(streams), total):
            self.loop.run_for(start + (at - len(streams)) / self.job.rate - clock())
            index, turn = at % len(streams), at // len(streams)
            sent[index].append(clock())
            streams[index].source.send(pieces[turn % ring])
        self.loop.run(lambda: len(times) == total, "the last events")
        seconds = clock() - start
        cpu, waited = self.since(mark)
        for end in ends:
            end()
        self.finish(streams)
        median, p99 = _quantiles(times[len(streams) :])
        return Report(count=total, seconds=seconds, cpu=cpu, waited=waited, median=median, p99=p99)

    def idle(self) -> Report:
        """Streams get one event, and then stand still."""
        before = memory(self.job.pids)
        streams = self.open()
        came = 0

        def on_piece(index: int) -> None:
            nonlocal came
            came += 1

        ends = self.play(streams, on_piece)
        for stream in streams:
            stream.source.send(self._first + self.script.pieces[0])
        self.loop.run(lambda: came == len(streams), "the first events")
        self.loop.run_for(SETTLE_SECONDS)
        grown = memory(self.job.pids) - before
        for end in ends:
            end()
        self.finish(streams)
        return Report(count=len(streams), grown=grown)

    # As fast as it goes.

    def pour(self) -> Report:
        """Streams get all at once what their sockets take."""
        streams = self.open()
        buffer = memoryview(bytearray(RECV))
        for stream in streams:
            self._sip(stream, buffer)
        before = memory(self.job.pids)
        reset_peak(self.job.pids)
        mark, start = self.mark(), time.perf_counter()
        for stream in streams:
            self.loop.change(stream.source, self._pourer(stream), select.EPOLLOUT)
        self.finish(streams)
        seconds = time.perf_counter() - start
        cpu, waited = self.since(mark)
        payload = sum(stream.check.payload for stream in streams)
        count = self.job.repeat * len(self.script.pieces) * self.script.events_per_piece * len(streams)
        return Report(
            count=count,
            payload=payload,
            seconds=seconds,
            cpu=cpu,
            waited=waited,
            grown=peak_memory(self.job.pids) - before,
        )

    def _sip(self, stream: Stream, buffer: memoryview) -> None:
        check = stream.check
        recv_into = stream.sink.recv_into

        def read() -> None:
            size = recv_into(buffer)
            if size:
                check.take(buffer[:size])
            else:
                check.eof()
                self.loop.drop(stream.sink)

        self.watch(stream, check.take, read)

    def _pourer(self, stream: Stream) -> Handler:
        script = self.script
        ring = memoryview(script.ring)
        left = self.job.repeat * script.ring_size
        at = 0
        ending = memoryview(script.tail)
        head = memoryview(self._first)
        send = stream.source.send

        def write() -> None:
            nonlocal left, at, ending, head
            if head:
                head = head[send(head) :]
            elif left:
                sent = send(ring[at : at + min(left, RECV)])
                left -= sent
                at = (at + sent) % script.ring_size
            elif ending:
                ending = ending[send(ending) :]
            else:
                if not self.job.http:
                    stream.source.shutdown(socket.SHUT_WR)
                self.loop.change(stream.source, lambda: None, 0)

        return write

    # Many short ones.

    def requests(self) -> Report:
        """Connections make one request after the other; each answer is a whole, short stream."""
        body = self.script.ring[: self.script.ring_size] + self.script.tail
        answer = HEAD + body
        self.listen(lambda sock, _: _send_whole(sock, answer))
        times: list[float] = []
        resting: set[int] = set()
        stopping = False

        def answered(index: int, seconds: float) -> bool:
            times.append(seconds)
            if stopping:
                resting.add(index)
            return not stopping

        sinks = [self.connect() for _ in range(self.job.streams)]
        for index, sink in enumerate(sinks):
            self.loop.add(sink, self._requester(sink, index, body, answered))
        for index, sink in enumerate(sinks):
            _send_whole(sink, self._request % index)
        self.loop.run(lambda: len(times) >= 2 * len(sinks), "the first answers")
        self.loop.run_for(self.job.seconds / 5)
        before, mark = len(times), self.mark()
        seconds = self.loop.run_for(self.job.seconds)
        cpu, waited = self.since(mark)
        measured = times[before:]
        stopping = True
        self.loop.run(lambda: len(resting) == len(sinks), "the last answers")
        median, p99 = _quantiles(measured)
        payload = len(measured) * self.script.payload_size(len(self.script.pieces))
        return Report(
            count=len(measured), payload=payload, seconds=seconds, cpu=cpu, waited=waited, median=median, p99=p99
        )

    def _requester(
        self, sink: socket.socket, index: int, body: bytes, answered: Callable[[int, float], bool]
    ) -> Handler:
        """Reads answers; ``answered`` is told whose, and after what time, and says whether to go on."""
        request = self._request % index
        clock = time.perf_counter
        recv, send = sink.recv, sink.send
        pieces = len(self.script.pieces)
        held = b""
        started = first = clock()

        def read() -> None:
            nonlocal held, started, first
            data = recv(SMALL_RECV)
            if not held:
                first = clock()
            held += data
            if not held.endswith(LAST_CHUNK):
                if not data:
                    raise Wrong(f"an answer ended behind {held[-80:]!r}")
                return
            head, _, rest = held.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Wrong(f"an answer began with {head[:80]!r}")
            if rest != body:
                check = Check(self.script, pieces)
                check.take(rest)
                check.eof()
            held = b""
            if answered(index, first - started):
                started = clock()
                send(request)

        return read


def _send_whole(sock: socket.socket, data: bytes) -> None:
    if sock.send(data) != len(data):
        raise Wrong("a socket did not take a few hundred bytes at once")


def _quantiles(times: list[float]) -> tuple[float, float]:
    if not times:
        raise Wrong("nothing came in the time that was measured")
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


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
