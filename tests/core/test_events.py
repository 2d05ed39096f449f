"""Event, by_event, the parser, and events under observation."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sseflow import (
    Cut,
    End,
    Eof,
    Event,
    EventParser,
    Events,
    EventTooLong,
    Failed,
    Head,
    LineTooLong,
    Observe,
    Pipeline,
    Stage,
    by_event,
    by_line,
)
from sseflow.testing import every_split

from .strategies import HEAD, TERMINATORS, chunked, event_streams, run

ERROR = ValueError("broken")


class Spy(Stage[Events]):
    """Note the events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def feed(self, batch: Events, /) -> Events:
        self.events += batch
        return batch


class Change(Stage[Events]):
    """Change each event as told, or drop it."""

    def __init__(self, change: Callable[[Event], Event | None]) -> None:
        self._change = change

    def feed(self, batch: Events, /) -> Events:
        return [changed for event in batch if (changed := self._change(event)) is not None]


def upper(event: Event) -> Event:
    return attrs.evolve(event, data=event.data.upper())


def through(change: Callable[[Event], Event | None], stream: bytes) -> bytes:
    """What comes of a stream whose events are changed, for every cut the same."""
    expected, ending = run(by_line(by_event(Change(change))), chunks=[stream])
    assert ending == Eof()
    assert run(by_line(by_event(Change(change))), chunks=[stream[i : i + 1] for i in range(len(stream))])[0] == expected
    return expected


# Event


def test_event_text() -> None:
    """Text is decoded as the standard has it, and only when it is asked for."""
    assert Event("grün".encode()).text == "grün"
    assert Event(b"a\xffb").text == "a\ufffdb"


def test_event_size() -> None:
    """An event that was seen whole is not cut, and its size is that of its data."""
    event = Event(b"abc")
    assert (event.size, event.cut) == (3, False)


def test_events_compare_by_what_they_say() -> None:
    """Where an event was read from does not matter."""
    (read,) = EventParser().feed(b"data:  a\r\r")
    assert read == Event(b" a")
    assert hash(read) == hash(Event(b" a"))


@pytest.mark.parametrize(
    ("event", "wire"),
    [
        (Event(b"a"), b"data: a\n\n"),
        (Event(b"a", b"t"), b"event: t\ndata: a\n\n"),
        (Event(b"a\nb", id=b"1", retry=5), b"id: 1\nretry: 5\ndata: a\ndata: b\n\n"),
    ],
    ids=["data", "type", "all"],
)
def test_event_encode(event: Event, wire: bytes) -> None:
    """An event writes itself, without what is the default."""
    assert event.encode() == wire
    assert EventParser().feed(wire) == [event]


# by_event


def test_an_unchanged_event_leaves_in_its_own_lines() -> None:
    """Field order, spaces, comments and line ends of an event that nobody changed stay as they were."""
    stream = b": c\r\ndata:a\revent:  t\nfoo\n\r\n:x\n\nid:1\n\ndata\n\ndata: tail"
    assert through(lambda event: event, stream) == stream


def test_a_changed_event_is_encoded_anew() -> None:
    """And only that: its neighbours, blocks without data and an unfinished event stay as they came."""
    stream = b"data:a\n\nevent:t\nretry: 3\r\ndata: b\ndata: c\r\n\r\n: c\n\ndata:d\n\ndata: tail"

    def change(event: Event) -> Event:
        return upper(event) if event.type == b"t" else event

    assert through(change, stream) == (b"data:a\n\nevent: t\nretry: 3\ndata: B\ndata: C\n\n: c\n\ndata:d\n\ndata: tail")


def test_a_dropped_event_is_gone() -> None:
    """With all its lines, also where its last LF comes later; blocks without data stay."""
    stream = b"data: a\r\n\r\n: c\r\n\r\nid: 4\r\n\r\ndata: b\r\n\r\n"
    assert through(lambda event: None, stream) == b": c\r\n\r\nid: 4\r\n\r\n"


def client_ids(stream: bytes) -> list[bytes]:
    return [event.id for event in EventParser().feed(stream)]


@pytest.mark.parametrize(
    ("stream", "drop", "out"),
    [
        pytest.param(b"id: 1\ndata: a\n\ndata: b\n\n", b"", b"id: 1\ndata: A\n\ndata: B\n\n", id="persists"),
        pytest.param(b"id: 1\ndata: a\n\nid\ndata: b\n\n", b"", b"id: 1\ndata: A\n\nid: \ndata: B\n\n", id="reset"),
        pytest.param(b"id: 1\n\ndata: b\n\n", b"", b"id: 1\n\ndata: B\n\n", id="from-a-block-without-data"),
        pytest.param(b"id: 1\ndata: a\n\ndata: b\n\n", b"a", b"id: 1\ndata: B\n\n", id="of-a-dropped-event"),
        pytest.param(
            b"id: 1\ndata: a\n\ndata: =\n\ndata: b\n\n",
            b"a",
            b"data: =\n\nid: 1\ndata: B\n\n",
            id="over-an-unchanged-event",
        ),
        pytest.param(b"id: 1\ndata: a\n\n: c\n\ndata: b\n\n", b"a", b": c\n\nid: 1\ndata: B\n\n", id="over-a-comment"),
        pytest.param(b"id: \0\nid: 2\nid: 3\0\ndata: b\n\n", b"", b"id: 2\ndata: B\n\n", id="nul"),
        pytest.param(b"idle: 9\ndata: =\n\ndata: b\n\n", b"", b"idle: 9\ndata: =\n\ndata: B\n\n", id="no-id-at-all"),
    ],
)
def test_ids_of_changed_events(stream: bytes, drop: bytes, out: bytes) -> None:
    """A changed event writes its id where the client's last event id would else be another, and only there."""

    def change(event: Event) -> Event | None:
        return None if event.data == drop else event if event.data == b"=" else upper(event)

    assert through(change, stream) == out


def test_an_event_that_a_stage_made() -> None:
    """New events may stand anywhere; what cannot be written fails the stream."""
    assert through(lambda event: Event(b"x\r\ny"), b"data: a\n\n") == b"data: x\ndata: y\n\n"
    for bad in (Event(b"", b"a\nb"), Event(b"", id=b"a\rb"), Event(b"", id=b"\0"), Event(b"", retry=-1)):
        _, ending = run(by_line(by_event(Change(lambda event, bad=bad: bad))), chunks=[b"data: a\n\n"])  # type: ignore[misc]
        assert isinstance(ending, Failed)
        assert isinstance(ending.error, ValueError)


def test_stages_of_events_may_hold() -> None:
    """What a stage gives back at the ending is written, before the unfinished event."""

    class Hold(Stage[Events]):
        def __init__(self) -> None:
            self.held: Events = []

        def feed(self, batch: Events, /) -> Events:
            self.held += batch
            return []

        def end(self, end: End, /) -> tuple[Events | None, End]:
            return self.held, end

    stream = b"id: 1\r\ndata: a\r\n\r\ndata: b\r\n\r\ndata: t"
    for chunks in every_split(stream):
        assert run(by_line(by_event(Hold())), chunks=chunks) == (stream, Eof())


def test_stages_of_events_see_the_head() -> None:
    """They are asked for it like any other."""

    class Shut(Stage[Events]):
        def head(self, head: Head, /) -> None:
            return None

    assert by_event(Shut()).head(HEAD) is None
    assert by_event().head(HEAD) is HEAD
    assert Observe(by_event(Shut())).head(HEAD) is HEAD
    pipeline = Pipeline(by_line(by_event(Shut())))
    assert pipeline.head(HEAD) == []


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "raise"])
def test_a_stage_of_events_that_fails(cut: bool) -> None:
    """What came before the fault leaves, for a `Cut` to the event; nothing behind it does, however it was cut."""

    class Bad(Stage[Events]):
        def feed(self, batch: Events, /) -> Events:
            for i, event in enumerate(batch):
                if event.data == b"bad":
                    raise Cut(batch[:i], ERROR) if cut else ERROR
            return batch

    stream = b"data: a\n\n: c\n\ndata: b\n\ndata: bad\n\ndata: tail\ndata"
    for chunks in every_split(stream) if cut else [[stream]]:
        out, ending = run(by_line(by_event(Bad())), chunks=chunks)
        assert ending == Failed(ERROR)
        assert out == (b"data: a\n\n: c\n\ndata: b\n\n" if cut else b"data: a\n\n: c\n\n")


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
def test_max_event_is_exact(end: bytes) -> None:
    """Content of all lines of an event, without terminators: ``max_event`` passes, one byte more fails, for any cut."""
    event = b"data: a" + end + b": c" + end + b"id: 1" + end + end
    stream = b"data: x" + end + end + event
    for chunks in every_split(stream):
        assert run(by_line(by_event(max_event=15)), chunks=chunks) == (stream, Eof())
        out, ending = run(by_line(by_event(max_event=14)), chunks=chunks)
        assert out == b"data: x" + end + end
        assert isinstance(ending, Failed)
        error = ending.error
        assert isinstance(error, EventTooLong)
        assert (error.limit, error.knob, error.seen) == (14, "max_event", 15)


def test_max_event_is_of_one_event() -> None:
    """Blank lines and blocks without data begin anew."""
    stream = b"data: a\n\n" * 5 + b": c\n\n" * 5 + b"\n" * 20
    assert run(by_line(by_event(max_event=7)), chunks=[stream]) == (stream, Eof())


def test_a_limit_that_cannot_be() -> None:
    """A limit that makes no sense is refused, with its name and value."""
    with pytest.raises(ValueError, match="max_event=0"):
        by_event(max_event=0)


# Under observation


def observed(stream: bytes, limit: int, whole: int = 64) -> list[Event]:
    """What observers see of a stream, for every cut the same."""
    expected: list[Event] | None = None
    for chunks in ([stream], [stream[i : i + 1] for i in range(len(stream))], [stream[:70], stream[70:]]):
        spy = Spy()
        chunks = [chunk for chunk in chunks if chunk]
        assert run(by_line(Observe(by_event(spy), limit=limit), whole=whole), chunks=chunks) == (stream, Eof())
        assert expected is None or expected == spy.events
        expected = spy.events
    assert expected is not None
    return expected


def test_observers_see_short_events_whole() -> None:
    """They are what a parser reads."""
    stream = b"data: a\n\n: c\n\nid: 1\n\nevent: t\r\nretry: 4\rdata: b\ndata\r\n\r\n\ndata: tail"
    assert observed(stream, 1000) == EventParser().feed(stream)


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("limit", [2, 3, 10, 11, 100, 200, 201, 300])
def test_observers_see_windows_of_long_events(end: bytes, limit: int) -> None:
    """Of an event longer than ``limit`` the first and the last half, with its true size; all else is exact."""
    values = [b"a" * 60, b"b" * 100 + b"B", b"", b"c" * 30 + b"C"]
    lines = [
        b"event: t",
        b"id: 7",
        b"retry: 9",
        b": comment",
        *(b"data: " + value for value in values),
        b"x: y",
        b"",
        b"",
    ]
    data = b"\n".join(values)
    event, after = observed(end.join(lines) + b"data: after" + end + end, limit)
    assert (event.type, event.id, event.retry, event.size) == (b"t", b"7", 9, len(data))
    assert event.cut == (len(data) > limit)
    half = limit // 2
    assert event.data == (data[: limit - half] + data[-half:] if event.cut else data)
    assert (after.data, after.id, after.size) == (b"after" if limit >= 5 else after.data, b"7", 5)


def test_a_long_line_that_is_no_data() -> None:
    """A long comment, or a long unknown field, is no part of an event, and makes none."""
    for field in (b": ", b"x: "):
        long = field + b"c" * 200 + b"\n"
        assert observed(long + b"data: a\n\n" + long + b"\n", 100) == [Event(b"a")]


def test_a_long_event_without_an_end() -> None:
    """It is never dispatched, as in a client."""
    assert observed(b"data: " + b"x" * 300, 100) == []


@given(st.data(), st.sampled_from([10, 50, 100, 5000]), st.sampled_from([64, 100, 10**6]))
@settings(max_examples=150)
def test_observers_agree_with_the_parser(data: st.DataObject, limit: int, whole: int) -> None:
    """Whatever the stream, the cuts and the limits: the events that a parser reads, or windows on them."""
    chunks = data.draw(chunked(event_streams()))
    spy = Spy()
    run(by_line(Observe(by_event(spy), limit=limit), whole=whole), chunks=chunks)
    parsed = EventParser().feed(b"".join(chunks))
    for seen, true in zip(spy.events, parsed, strict=True):
        assert (seen.type, seen.id, seen.retry, seen.size) == (true.type, true.id, true.retry, true.size)
        if seen.cut:
            assert seen.data == true.data[: limit - limit // 2] + true.data[-(limit // 2) :]
        else:
            assert seen == true


# The parser


def test_a_parser_gives_events_as_they_are_complete() -> None:
    """An event is returned by the call that brings its blank line; none by an empty one."""
    parser = EventParser()
    assert parser.feed(b"data: a\n") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: b\n\ndata") == [Event(b"a"), Event(b"b")]
    assert parser.feed(b": c\n") == []
    parser.end()


def test_a_parser_does_not_wait_behind_a_cr() -> None:
    """A CR that ends an event ends it at once; the LF behind it is no further line end."""
    parser = EventParser()
    assert parser.feed(b"data: a\r\n\r") == [Event(b"a")]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [Event(b"b")]


@pytest.mark.parametrize(
    ("limits", "error"),
    [({"max_line": 7}, LineTooLong), ({"max_event": 7}, EventTooLong)],
    ids=["line", "event"],
)
def test_a_parser_raises_behind_the_events_before(limits: dict[str, int], error: type[Exception]) -> None:
    """Events before a limit are returned first, however the stream is cut; then the error is raised by every call."""
    stream = b"data: a\n\ndata: b\n\ndata: long\n\ndata: c\n\n"
    for chunks in every_split(stream):
        parser = EventParser(**limits)
        events: list[Event] = []
        raised: list[Exception] = []
        for chunk in [*chunks, b"", b"data: d\n\n"]:
            try:
                events += parser.feed(chunk)
            except error as caught:
                raised.append(caught)
        assert events == [Event(b"a"), Event(b"b")]
        assert raised[1:]
        assert all(each is raised[0] for each in raised)
        with pytest.raises(error):
            parser.end()


def test_a_parser_raises_at_once_if_nothing_came_before() -> None:
    """An error is not put off when there is no event to return."""
    parser = EventParser(max_line=5)
    with pytest.raises(LineTooLong, match="max_line=5"):
        parser.feed(b"data: a\n\n")


def test_a_parser_judges_the_tail() -> None:
    """An unfinished event that is longer than the limit is an error at the end, too."""
    parser = EventParser(max_event=10)
    assert parser.feed(b"data: a\ndata: b") == []
    with pytest.raises(EventTooLong):
        parser.end()
    with pytest.raises(EventTooLong):
        parser.feed(b"data: a\n\n")
