"""The invariants of the core, as properties of random nestings of stages.

1. Pass-through is exact: identity stages at every level, any bytes, any cuts: the output is the input.
2. Cuts do not matter: the joined output and the ending are the same for every cut of the input.
3. Lines are whole: what stages of lines see, joined, is the input; each but the last has its terminator; no batch is
   empty.
4. One ending: each stage is ended exactly once, in order, whatever stages raise; the driver lets out one ending, last.
5. Head first: at most one head, before any byte; a failure behind a shut gate lets out nothing but itself.
6. Identity: a chunk that nobody changed is the same object.
7. Linear: twice the drip, twice the work; counted, not timed.
8. Bounded: no stage holds more than its limit plus one chunk.
9. Documented errors only: random bytes raise nothing but what the error tree names.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import (
    Cancelled,
    Closed,
    CutMidEvent,
    EmptyStream,
    End,
    Eof,
    EventParser,
    EventTooLong,
    Failed,
    Head,
    HeldTooMuch,
    Lines,
    LineTooLong,
    Observe,
    Pipeline,
    Stage,
    StandardPipeline,
    Truncated,
    UpstreamRefused,
    by_event,
    by_line,
)
from sseflow.dialects import OpenAIChat, PlainSSE
from sseflow.stages import CommentStripper, CommitGate, DataCounter, Tee, Watch, WholeEvents

from .strategies import ENDS, HEAD, LOST, TERMINATORS, any_bytes, chunked, drive, event_streams, run
from .wild import AnyStage, Behaviour, Build, Log, Wild, nestings

ends = st.sampled_from(ENDS)


class Lineal(Stage[Lines]):
    """Note what a stage of lines is shown."""

    def __init__(self, *, needs_whole_lines: bool) -> None:
        self.needs_whole_lines = needs_whole_lines
        self.batches: list[Lines] = []
        self.seen: list[bytes] = []

    def feed(self, batch: Lines, /) -> Lines:
        self.batches.append(batch)
        self.seen += batch
        return batch

    def rest(self, piece: bytes, last: bool, /) -> None:
        assert piece
        assert last == piece.endswith((b"\n", b"\r"))
        self.seen[-1] += piece


# 1


@given(chunked(), nestings(kind="identity"))
@settings(max_examples=250)
def test_pass_through_is_exact(chunks: list[bytes], build: Build) -> None:
    """What stages that change nothing let out is what went in, whatever is nested and whatever observers do."""
    out, ending = run(build(Log(), False), chunks=chunks)
    assert out == b"".join(chunks)
    assert ending == Eof()


# 2


@given(st.data(), nestings(kind="shipped"), ends)
@settings(max_examples=250)
def test_cuts_do_not_matter(data: st.DataObject, build: Build, end: End) -> None:
    """Two ways of cutting the same bytes have the same head, the same joined output and the same kind of ending."""
    chunks = data.draw(chunked(event_streams() | any_bytes))
    whole = b"".join(chunks)

    def result(chunks: list[bytes]) -> tuple[object, ...]:
        *items, ending = drive(Pipeline(build(Log(), False)), chunks, end)
        kind = type(ending.error) if isinstance(ending, Failed) else type(ending)
        head = items[0] if items and isinstance(items[0], Head) else None
        return head, b"".join(item for item in items if isinstance(item, bytes)), kind

    expected = result([whole] if whole else [])
    assert result(chunks) == expected
    assert result([whole[at : at + 1] for at in range(len(whole))]) == expected


# 3


@given(chunked(), st.booleans(), st.sampled_from([64, 1000]))
@settings(max_examples=250)
def test_lines_are_whole(chunks: list[bytes], needs_whole_lines: bool, whole: int) -> None:
    """Joined, the lines are the input without its byte order mark; only the last may lack its terminator."""
    spy = Lineal(needs_whole_lines=needs_whole_lines)
    run(by_line(spy, whole=whole), chunks=chunks)
    expected = b"".join(chunks).removeprefix(b"\xef\xbb\xbf")
    assert spy.seen == expected.splitlines(keepends=True)
    assert all(batch and all(batch) for batch in spy.batches)
    if needs_whole_lines:
        assert all(line.endswith((b"\n", b"\r")) for batch in spy.batches[:-1] for line in batch)


# 4


@given(chunked(), nestings(), ends, st.booleans())
@settings(max_examples=600)
def test_one_ending(chunks: list[bytes], build: Build, end: End, has_head: bool) -> None:
    """Each stage is ended once, in order; one ending comes out, last, and it hides no failure; nothing else raises."""
    log = Log()
    pipeline = Pipeline(build(log, False), max_held=500)
    items = drive(pipeline, chunks, end, HEAD if has_head else None)

    assert log.ended == log.stages
    assert log.faults == []
    ending = items[-1]
    assert type(ending) in (Eof, Failed, Closed, Cancelled)
    assert not isinstance(ending, Eof) or (end == Eof() and not log.raised)
    assert pipeline.ending is ending
    assert pipeline.end(Eof()) == []

    heads = [item for item in items if isinstance(item, Head)]
    assert heads == [item for item in items[:1] if isinstance(item, Head)]
    assert pipeline.committed == (heads != [])
    assert all(type(item) is bytes and item for item in items[len(heads) : -1])


@given(st.lists(nestings("lines", depth=1), min_size=1, max_size=4), chunked(), ends)
@settings(max_examples=150)
def test_observers_touch_nothing(builds: list[Build], chunks: list[bytes], end: End) -> None:
    """Whatever observers do, what comes out, when, and the ending are what they are without them."""
    log = Log()
    watched = Pipeline(by_line(Observe(*[build(log, True) for build in builds], limit=40), whole=64))
    alone = Pipeline(by_line(Lineal(needs_whole_lines=False), whole=64))
    for pipeline in (watched, alone):
        assert pipeline.head(HEAD) == [HEAD]
    for chunk in chunks:
        assert watched.feed(chunk) == alone.feed(chunk)
    assert watched.end(end) == alone.end(end)
    assert log.ended == log.stages
    assert log.faults == []


# 5


@given(chunked(), nestings("lines", depth=2), ends)
@settings(max_examples=250)
def test_head_first(chunks: list[bytes], build: Build, end: End) -> None:
    """Behind a gate that never opens, an ending other than a clean one lets out nothing but itself."""
    gate = Wild(Behaviour(head="shut", needs_whole_lines=False), Log(), True)
    items = drive(Pipeline(by_line(build(Log(), False), gate, whole=64)), chunks, end)
    if items[-1] != Eof():
        assert len(items) == 1
    else:
        assert isinstance(items[0], Head)


# 6


@given(event_streams(), st.sampled_from(TERMINATORS))
@settings(max_examples=150)
def test_identity(stream: bytes, end: bytes) -> None:
    """A chunk of whole events in which nothing is to be changed comes out as the same object, from every stage."""
    chunk = b"".join(line + end for line in stream.removeprefix(b"\xef\xbb\xbf").splitlines() if line[:1] != b":")
    chunk += b"data: x" + end + end
    first = b"data: first" + end + end
    watch = Watch(PlainSSE())
    stages: list[Callable[[], Stage[bytes]]] = [
        lambda: by_line(whole=64),
        lambda: by_line(Lineal(needs_whole_lines=True)),
        lambda: by_line(Wild(Behaviour(feed="copy"), Log(), False)),
        lambda: by_line(CommentStripper(), DataCounter(), CommitGate(), whole=64),
        lambda: by_line(WholeEvents(), whole=1000),
        lambda: by_line(by_event()),
        lambda: by_line(by_event(Wild(Behaviour(feed="copy"), Log(), False))),
        lambda: by_line(Observe(by_event(watch)), whole=64),
        Tee,
    ]
    for make in stages:
        pipeline = Pipeline(make())
        for data in (first, chunk, chunk):
            (item,) = pipeline.feed(data)
            assert item is data


# 7


class _Work:
    """Count what Python calls, and the bytes of the objects whose methods are called."""

    def __init__(self) -> None:
        self.calls = 0
        self.bytes = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            looked_at = getattr(arg, "__self__", None)
            if isinstance(looked_at, bytes) and getattr(arg, "__name__", "") in (
                "find",
                "splitlines",
                "partition",
                "count",
            ):
                self.bytes += len(looked_at)
            elif getattr(arg, "__name__", "") == "join":
                self.bytes += sum(len(part) for part in _joined(frame))


def _joined(frame: FrameType) -> list[bytes]:
    """The bytes that wait to be joined where a join is called."""
    parts = frame.f_locals.get("out", getattr(frame.f_locals.get("self"), "_fragments", None))
    return [part for part in parts if isinstance(part, bytes)] if isinstance(parts, list) else []


_LINEAR: dict[str, Callable[[], Stage[bytes]]] = {
    "held-line": lambda: by_line(Lineal(needs_whole_lines=True)),
    "judged-line": lambda: by_line(CommentStripper(), WholeEvents(), DataCounter(), whole=64),
    "event": lambda: by_line(by_event()),
    "observed": lambda: by_line(Observe(by_event(Watch(OpenAIChat())), limit=300)),
    "tee": lambda: Tee(first=100, last=100),
}
_DRIPS: dict[str, Callable[[int], list[bytes]]] = {
    "one-long-line": lambda n: [b"data: ", *[b"ab"] * n, b"\n\n"],
    "one-chunk-of-long-lines": lambda n: [(b"data: " + b"x" * 70 + b"\n") * (n // 20)],
    "one-chunk-of-long-lines-cr": lambda n: [(b"data: " + b"x" * 70 + b"\r") * (n // 20)],
    "one-event-of-short-lines": lambda n: [*[b"data: a\n"] * n, b"\n"],
    "comments-only": lambda n: [b":\n"] * n,
    "cr-only": lambda n: [b"\r"] * n,
    "crlf-cut": lambda n: [b"data: a\r", b"\n\r", b"\n"] * n,
    "bom-after-bom": lambda n: [b"\xef", b"\xbb", b"\xbf"] * n,
}


@pytest.mark.parametrize("make", _LINEAR.values(), ids=_LINEAR)
@pytest.mark.parametrize("drip", _DRIPS.values(), ids=_DRIPS)
def test_linear(make: Callable[[], Stage[bytes]], drip: Callable[[int], list[bytes]]) -> None:
    """Twice the stream takes twice the calls, and twice the bytes looked at or joined."""

    def work(n: int) -> _Work:
        pipeline = Pipeline(make())
        chunks = drip(n)
        work = _Work()
        before = sys.getprofile()
        sys.setprofile(work)
        try:
            for chunk in chunks:
                pipeline.feed(chunk)
            pipeline.end(Eof())
        finally:
            sys.setprofile(before)
        return work

    once, twice = work(500), work(1000)
    assert twice.calls <= 2.1 * once.calls + 100
    assert twice.bytes <= 2.1 * once.bytes + 4000


# 8


def held(stage: object) -> int:
    """The bytes of all that a stage holds, in itself and in the stages inside it."""
    seen: set[int] = set()
    todo: list[object] = [stage]
    size = 0
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, type) or callable(value):
            continue
        seen.add(id(value))
        if isinstance(value, bytes | bytearray):
            size += len(value)
        elif isinstance(value, list | tuple | dict) or type(value).__module__.startswith("sseflow."):
            todo += gc.get_referents(value)
    return size


_CONSTANTS = 200
"""Bytes of names and the like that stages have."""

_BOUNDED: dict[str, tuple[Callable[[], AnyStage], int]] = {
    "by_line": (lambda: by_line(Stage[Lines](), max_line=300), 300),
    "by_line-judged": (lambda: by_line(CommentStripper(), whole=64, max_line=300), 64),
    "WholeEvents": (lambda: by_line(WholeEvents(whole=200), whole=64), 200 + 64 + 64),
    "by_event": (lambda: by_line(by_event(max_event=300), max_line=100), 300 + 300 + 100),
    "Observe": (lambda: by_line(Observe(by_event(Watch(PlainSSE())), limit=200), whole=64), 2 * 200 + 64 + 64),
    "Tee": (lambda: Tee(first=100, last=100), 100 + 200),
    "gate": (lambda: by_line(CommitGate(limit=100), whole=64), 64),
}


@pytest.mark.parametrize(("make", "limit"), _BOUNDED.values(), ids=_BOUNDED)
@given(st.lists(any_bytes.map(lambda data: data.replace(b"\n\n", b"\n")), max_size=12))
@settings(max_examples=60)
def test_bounded(make: Callable[[], AnyStage], limit: int, chunks: list[bytes]) -> None:
    """No stage holds more than its limit plus one chunk (terminators, which no limit counts, left aside)."""
    stage = make()
    pipeline = Pipeline(stage)
    for chunk in chunks:
        if pipeline.ending is None:
            pipeline.feed(chunk)
            terminators = sum(map(chunk.count, TERMINATORS)) * 12
            assert held(stage) <= limit + len(chunk) + terminators + _CONSTANTS


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=20), st.sampled_from([0, 1, 300]))
@settings(max_examples=60)
def test_what_is_held_behind_a_head_is_bounded(chunks: list[bytes], limit: int) -> None:
    """A pipeline whose head is held back keeps up to ``max_held``, and one byte more ends the stream."""
    pipeline = Pipeline(Wild(Behaviour(head="shut"), Log(), True), max_held=limit)
    pipeline.head(HEAD)
    fed = 0
    for chunk in chunks:
        items = pipeline.feed(chunk)
        fed += len(chunk)
        if items:
            (ending,) = items
            assert isinstance(ending, Failed)
            assert isinstance(ending.error, HeldTooMuch)
            assert (ending.error.limit, ending.error.seen) == (limit, fed)
            assert held(pipeline) < 500
            return
        assert fed <= limit
    assert pipeline.end(LOST) == [LOST]


# 9


@given(
    chunked(any_bytes | event_streams()),
    ends,
    st.sampled_from([PlainSSE(), OpenAIChat()]),
    st.sampled_from([50, 10**6]),
)
@settings(max_examples=250)
def test_documented_errors_only(chunks: list[bytes], end: End, dialect: PlainSSE | OpenAIChat, max_line: int) -> None:
    """Whatever bytes come, the default pipeline fails with documented errors only, and its watch never raises."""
    broken: list[Exception] = []
    pipeline = StandardPipeline(dialect, max_line=max_line, max_held=300, on_watch_error=broken.append)
    *_, ending = drive(pipeline, chunks, end)
    assert broken == []
    if isinstance(ending, Failed) and ending != end:
        documented = (EmptyStream, Truncated, CutMidEvent, LineTooLong, HeldTooMuch, UpstreamRefused)
        assert type(ending.error) in documented


@given(chunked(), st.sampled_from([1, 5, 60, 10**6]), st.sampled_from([1, 5, 60, 10**6]))
@settings(max_examples=250)
def test_a_parser_raises_documented_errors_only(chunks: list[bytes], max_line: int, max_event: int) -> None:
    """Whatever bytes come, a parser raises nothing but `LineTooLong` and `EventTooLong`, and goes on raising it."""
    parser = EventParser(max_line=max_line, max_event=max_event)
    raised: list[Exception] = []
    calls: list[Callable[[], object]] = [*(partial(parser.feed, chunk) for chunk in chunks), parser.end]
    for call in calls:
        try:
            call()
        except (LineTooLong, EventTooLong) as error:
            raised.append(error)
        else:
            assert raised == []
    assert all(error is raised[0] for error in raised)
