"""Play upstream and client of a job at once: one way of playing for each mode."""

from __future__ import annotations

import collections
import os
import select
import socket
import time
from collections.abc import Callable, Sequence

import attrs

from .checking import LAST_CHUNK, RECV, Check, Count, Script
from .ends import SMALL_RECV, Ends, Requests, Stream, send_whole
from .jobs import Job, Report
from .loop import Handler, Loop
from .processes import Schedule, Wrong, memory, peak_memory, reset_peak, schedule
from .shapes import SHAPES

SETTLE_SECONDS = 0.3
"""How long streams stand still before their memory is measured."""

SAMPLES = 120
"""How often memory is looked at in a soak, if that is not more than twice a second."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@attrs.frozen
class Mark:
    """A moment: what the target and this process have used until then."""

    target: Schedule
    own: Schedule
    idle: float


@attrs.define(eq=False)
class Slot:
    """A place in a soak, which one stream has after the other."""

    stream: Stream
    end: Handler
    pieces: int
    """How many its stream gets."""

    sent: int = 0
    came: int = 0


class Play:
    """One job."""

    def __init__(self, job: Job, listener: socket.socket) -> None:
        shape = SHAPES[job.shape]()
        self.job = job
        self.script = Script(shape, http=job.http, stripped=job.stripped and job.port is not None)
        self.loop = Loop(job.limit, spin=job.spin)
        self._requests = Requests(chat=shape.chat, prefix=job.prefix)
        self.ends = Ends(job, listener, self.loop, self._requests)

    def run(self) -> Report:
        """Do it."""
        modes = {
            "lockstep": self.lockstep,
            "pour": self.pour,
            "requests": self.requests,
            "paced": self.paced,
            "idle": self.idle,
            "soak": self.soak,
        }
        try:
            return modes[self.job.mode]()
        finally:
            self.loop.close()

    def mark(self) -> Mark:
        """Now, for `since`."""
        return Mark(schedule(self.job.pids), schedule((os.getpid(),)), self.loop.idle)

    def since(self, mark: Mark) -> Report:
        """What has been used since then; what came of it is to be added."""
        now = self.mark()
        target, own = now.target - mark.target, now.own - mark.own
        return Report(cpu=target.cpu, waited=target.waited + own.waited, idle=now.idle - mark.idle)

    def check(self, pieces: int | None = None) -> Check | Count:
        """What holds one stream against what must come."""
        return Count(self.script, pieces) if self.job.rewritten else Check(self.script, pieces)

    def open(self) -> list[Stream]:
        """All streams, with their requests sent and arrived."""
        pieces = self.job.repeat * len(self.script.pieces) if self.job.mode == "pour" else None
        return [Stream(i, source, sink, self.check(pieces)) for i, (source, sink) in enumerate(self.ends.open())]

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
        exact = isinstance(check, Check)
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
            while not ended and check.has(came + 1):
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
        left = list(streams)

        def all_have() -> bool:
            while left and left[-1].check.done and (http or left[-1].sink.fileno() < 0):
                left.pop()
            return not left

        self.loop.run(all_have, "the ends of streams")

    def lockstep(self) -> Report:
        """Each stream gets its next event when the last one has come: nothing can coalesce."""
        streams = self.open()
        pieces, ring = self.script.pieces, len(self.script.pieces)
        sends = [stream.source.send for stream in streams]
        sent = [1] * len(streams)
        resting: set[int] = set()
        total = 0
        stopping = True

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
        # The heads are no part of it: they cost a proxy much more than an event does.
        for send in sends:
            send(self._first + pieces[0])
        self.loop.run(lambda: len(resting) == len(streams), "the first events")
        stopping = False
        resting.clear()
        for send in sends:
            send(pieces[1 % ring])
        sent = [2] * len(streams)
        self.loop.run_for(self.job.seconds / 5)
        before, mark, start = total, self.mark(), time.perf_counter()
        self.loop.run_for(self.job.seconds)
        self.loop.run(lambda: total > before, "a single event")
        used, seconds = self.since(mark), time.perf_counter() - start
        done = total - before
        stopping = True
        self.loop.run(lambda: len(resting) == len(streams), "the last events")
        for end in ends:
            end()
        self.finish(streams)
        count = done * self.script.events_per_piece
        payload = done * self.script.payload_ends[-1] // ring
        return attrs.evolve(used, count=count, payload=payload, seconds=seconds)

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
        used = self.since(mark)
        for end in ends:
            end()
        self.finish(streams)
        median, p99 = _quantiles(times[len(streams) :])
        return attrs.evolve(used, count=total, seconds=seconds, median=median, p99=p99)

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

    def soak(self) -> Report:
        """Streams get events in turn, at a steady rate; behind its last one each is followed by a new one.

        The memory is that of the time, and the streams end well, like all others.
        """
        job, pieces, ring = self.job, self.script.pieces, len(self.script.pieces)
        slots: list[Slot] = []

        def on_piece(index: int) -> None:
            slots[index].came += 1

        def fill(stream: Stream, pieces: int) -> Slot:
            return Slot(stream, self._play_one(stream, on_piece), pieces)

        # At first each has another number of pieces to come, so that they do not all end at once.
        slots += [fill(stream, 1 + job.repeat * stream.index // job.streams) for stream in self.open()]
        clock = time.perf_counter
        start, mark = clock(), self.mark()
        samples: list[tuple[float, int]] = []
        count = 0
        while (now := clock() - start) < job.seconds:
            if now >= len(samples) * max(job.seconds / SAMPLES, 0.5):
                samples.append((round(now, 3), memory(job.pids)))
            self.loop.run_for(count / job.rate - now)
            index = count % len(slots)
            slot = slots[index]
            slot.stream.source.send((b"" if slot.sent else self._first) + pieces[slot.sent % ring])
            slot.sent += 1
            count += 1
            if slot.sent == slot.pieces:
                self._end_slot(slot)
                source, sink = self.ends.open_one(index)
                slots[index] = fill(Stream(index, source, sink, self.check()), job.repeat)
        used, seconds = self.since(mark), clock() - start
        for slot in slots:
            if not slot.sent:
                slot.stream.source.send(self._first + pieces[0])
                slot.sent = 1
            self._end_slot(slot)
        return attrs.evolve(used, count=count, seconds=seconds, samples=tuple(samples))

    def _end_slot(self, slot: Slot) -> None:
        self.loop.run(lambda: slot.came == slot.sent, "the last event of a stream")
        slot.end()
        self.finish([slot.stream])
        self.loop.drop(slot.stream.sink)

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
        used = self.since(mark)
        payload = sum(stream.check.payload for stream in streams)
        count = self.job.repeat * len(self.script.pieces) * self.script.events_per_piece * len(streams)
        grown = peak_memory(self.job.pids) - before
        return attrs.evolve(used, count=count, payload=payload, seconds=seconds, grown=grown)

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
        self.ends.listen(lambda sock, _: send_whole(sock, answer))
        times: list[float] = []
        resting: set[int] = set()
        stopping = False

        def answered(index: int, seconds: float) -> bool:
            times.append(seconds)
            if stopping:
                resting.add(index)
            return not stopping

        sinks = [self.ends.connect(index) for index in range(self.job.streams)]
        for index, sink in enumerate(sinks):
            self.loop.change(sink, self._requester(sink, index, body, answered))
        for index, sink in enumerate(sinks):
            send_whole(sink, self._requests[index])
        self.loop.run(lambda: len(times) >= 2 * len(sinks), "the first answers")
        self.loop.run_for(self.job.seconds / 5)
        before, mark, start = len(times), self.mark(), time.perf_counter()
        self.loop.run_for(self.job.seconds)
        self.loop.run(lambda: len(times) > before, "a single answer")
        used, seconds = self.since(mark), time.perf_counter() - start
        measured = times[before:]
        stopping = True
        self.loop.run(lambda: len(resting) == len(sinks), "the last answers")
        median, p99 = _quantiles(measured)
        payload = len(measured) * self.script.payload_size(len(self.script.pieces))
        return attrs.evolve(used, count=len(measured), payload=payload, seconds=seconds, median=median, p99=p99)

    def _requester(
        self, sink: socket.socket, index: int, body: bytes, answered: Callable[[int, float], bool]
    ) -> Handler:
        """Reads answers; ``answered`` is told whose, and after what time, and says whether to go on."""
        request = self._requests[index]
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
                check = self.check(pieces)
                check.take(rest)
                check.eof()
            held = b""
            if answered(index, first - started):
                started = clock()
                send(request)

        return read


def _quantiles(times: list[float]) -> tuple[float, float]:
    if not times:
        raise Wrong("nothing came in the time that was measured")
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
