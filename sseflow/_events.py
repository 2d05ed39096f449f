"""What SSE is: events, the parser and the encoder (HTML, section 9.2)."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ._errors import EventTooLong
from ._form import Form, Note
from ._items import End, Eof, Failed, Head
from ._lines import BLANK, DEFAULT_MAX_LINE, _content, by_line
from ._stage import Chain, Cut, Lines, Stage

DEFAULT_MAX_EVENT = 32 * 1024 * 1024
"""As long as the longest line: an event of many lines is no reason to hold more."""

MESSAGE = b"message"

_DIGITS = frozenset(b"0123456789")


@attrs.frozen(slots=False)  # attrs fills a frozen object without slots in half the time, and there is one per token
class Event:
    """One event, as a client dispatches it. All text is bytes: nothing is decoded that nobody asked for."""

    data: bytes
    """The values of the ``data`` lines, joined by LF."""

    type: bytes = MESSAGE
    """The value of the ``event`` line; ``message`` if there was none, or an empty one."""

    id: bytes = b""
    """The last event id in force: it persists from event to event until it is set anew, or reset by an empty one."""

    retry: int | None = None
    """Milliseconds, if the event's block had a ``retry`` line of digits only."""

    # The lines this event was read from. A copy made by `attrs.evolve` has none, and is encoded anew.
    _lines: Lines | None = attrs.field(default=None, init=False, eq=False, repr=False)

    @property
    def cut(self) -> bool:
        """Whether this is a window on an event that was longer than its observer's ``limit``.

        Then ``data`` is the first and the last half of the limit, put together: find fields in it by bytes.
        """
        return False

    @property
    def size(self) -> int:
        """The true length of the data, in bytes."""
        return len(self.data)

    @property
    def text(self) -> str:
        """The data, decoded as the standard has it: UTF-8, with U+FFFD for what is not."""
        return self.data.decode("utf-8", "replace")

    def encode(self) -> bytes:
        """This event in wire form. See `encode`."""
        return encode(self.data, type=None if self.type == MESSAGE else self.type, id=self.id or None, retry=self.retry)


@attrs.frozen(slots=False)
class _CutEvent(Event):
    _true_size: int = attrs.field(default=0, kw_only=True)

    @property
    def cut(self) -> bool:
        return True

    @property
    def size(self) -> int:
        return self._true_size


#: Events of one batch, in order.
Events: TypeAlias = list[Event]


def encode(data: bytes, *, type: bytes | None = None, id: bytes | None = None, retry: int | None = None) -> bytes:
    """Write an event in wire form, with its blank line; what a client reads from it is what was given.

    Line ends inside ``data`` (LF, CRLF, CR) start a new ``data`` line, so a client gets them as LF. ``id=b""`` resets
    the last event id; None leaves it as it is.

    Raises:
        ValueError: ``type`` or ``id`` has a line end, ``id`` has a NUL, or ``retry`` is negative: no line can say so.
    """
    lines = []
    if type is not None:
        lines.append(b"event: " + _one_line("type", type))
    if id is not None:
        if b"\0" in id:
            raise ValueError("id: a NUL would make clients ignore it")
        lines.append(b"id: " + _one_line("id", id))
    if retry is not None:
        if retry < 0:
            raise ValueError(f"retry={retry}: must not be negative")
        lines.append(b"retry: %d" % retry)
    lines += [b"data: " + line for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")]
    return b"\n".join(lines) + b"\n\n"


def encode_comment(text: bytes = b"") -> bytes:
    """Write a comment, without a blank line behind it: some clients dispatch an event at one.

    Line ends inside ``text`` start a new comment line.
    """
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return b"".join(b": " + line + b"\n" if line else b":\n" for line in lines)


def _one_line(name: str, value: bytes) -> bytes:
    if b"\n" in value or b"\r" in value:
        raise ValueError(f"{name}: a line end cannot stand in it")
    return value


def field(line: bytes) -> tuple[bytes, bytes]:
    """The name and the value of a line, with or without its terminator; the name of a comment is empty."""
    name, _, value = line.rstrip(b"\r\n").partition(b":")
    return name, value.removeprefix(b" ")


class _Reader:
    """Read blocks of lines as a client does. The last event id is all that outlives a block."""

    def __init__(self) -> None:
        self.id = b""

    def read(self, lines: Lines) -> Event | None:
        """The event of a block of lines that ends with its blank line, or None if it has no data."""
        line = lines[0]
        if len(lines) == 2 and line.startswith(b"data: "):  # nearly all there are
            return Event(line[6 : _content(line)], MESSAGE, self.id)
        data: list[bytes] = []
        type_ = b""
        retry = None
        for line in lines:
            name, value = field(line)
            if name == b"data":
                data.append(value)
            elif name == b"event":
                type_ = value
            elif name == b"id":
                self.set_id(value)
            elif name == b"retry":
                retry = _retry(value, retry)
        # The blank line is no data line: a field without a name.
        return Event(b"\n".join(data), type_ or MESSAGE, self.id, retry) if data else None

    def set_id(self, value: bytes) -> None:
        if b"\0" not in value:
            self.id = value


def _retry(value: bytes, before: int | None) -> int | None:
    # int() would take signs, underscores and digits of other scripts; str of a huge number would raise.
    if not value or len(value) > 18 or not _DIGITS.issuperset(value):
        return before
    return int(value)


def by_event(*stages: Stage[Events], max_event: int = DEFAULT_MAX_EVENT) -> Stage[Lines]:
    """Make a stage of lines out of stages of events.

    An event that a stage gives back unchanged goes out in the very lines it came in; any other is encoded anew, with
    an ``id`` line where the client's last event id would else be another. Lines that make no event (comments between
    events, blocks without data) pass as they came. So does an unfinished event at the end: it is never dispatched.

    Args:
        max_event: bytes of content that the lines of one event may have, 32 MiB by default. One more fails the stream
            with `EventTooLong`. Inside `Observe` there is no such limit: see there.
    """
    if max_event < 1:
        raise ValueError(f"max_event={max_event}: must be at least 1")
    return _ByEvent(Chain(*stages), max_event)


class _ByEvent(Stage[Lines]):
    def __init__(self, chain: Chain[Events], max_event: int) -> None:
        self._chain = chain
        self._max_event = max_event
        self._reader = _Reader()
        self._lines: Lines = []  # of the unfinished event
        self._dispatched: Lines = []  # of the one before
        self._size = 0  # of the content of the unfinished event
        self._client = _Reader()  # has the last event id of whoever reads what comes out

    def _ask(self, head: Head) -> tuple[Head, bool]:
        return self._chain._ask(head)

    def head(self, head: Head, /) -> Head | None:
        return self._chain.head(head)

    def _observer(self, limit: int) -> Stage[Lines]:
        return _ObserveEvents(Chain(*(stage._observer(limit) for stage in self._chain.stages)), limit)

    def feed(self, batch: Lines, /) -> Lines:
        out: Lines = []
        events: Events = []
        same = not self._lines
        try:
            for line in batch:
                self._lines.append(line)
                if line not in BLANK:
                    self._size += _content(line)
                    if self._size > self._max_event:
                        self._lines.clear()
                        self._give(events, out)
                        raise EventTooLong(self._max_event, self._size)
                    continue
                self._dispatched = lines = self._lines
                self._lines, self._size = [], 0
                event = self._reader.read(lines)
                if event is not None:
                    object.__setattr__(event, "_lines", lines)
                    events.append(event)
                else:
                    same = self._give(events, out) and same
                    events = []
                    self._pass(lines, out)
            same = self._give(events, out) and same
        except Exception as error:
            self._lines = []  # they are behind the fault
            if isinstance(error, Cut):
                raise Cut([*out, *self._encode(_events_of(error))], error.error) from None
            raise Cut(out, error) from None
        return batch if same and not self._lines else out

    def _give(self, events: Events, out: Lines) -> bool:
        """Feed events; say whether they came out as they were."""
        if not events:
            return True
        result = self._chain.feed(events)
        out.extend(self._encode(result))
        return result is events

    def _encode(self, events: Events) -> Lines:
        lines: Lines = []
        for event in events:
            if event._lines is not None:
                self._pass(event._lines, lines)
            else:
                id_ = None if event.id == self._client.id else event.id
                type_ = None if event.type == MESSAGE else event.type
                lines.extend(encode(event.data, type=type_, id=id_, retry=event.retry).splitlines(keepends=True))
                self._client.id = event.id
        return lines

    def _pass(self, lines: Lines, out: Lines) -> None:
        """Let lines out as they came."""
        for line in lines:
            if line.startswith(b"id"):
                name, value = field(line)
                if name == b"id":
                    self._client.set_id(value)
        out.extend(lines)

    def rest(self, piece: bytes, last: bool, /) -> None:
        # It needs whole lines, so this is the LF behind a CR. The event it belongs to may be held further on.
        lines = self._lines or self._dispatched
        lines[-1] += piece

    def end(self, end: End, /) -> tuple[Lines | None, End]:
        events, end = self._chain.end(end)
        return self._encode(events or []) + self._lines, end


class _ObserveEvents(Stage[Lines]):
    """`by_event` for observers: it need not give the lines back, so it keeps windows of long events."""

    needs_whole_lines = False

    def __init__(self, chain: Chain[Events], limit: int) -> None:
        self._chain = chain
        self._limit = limit
        self._reader = _Reader()
        self._lines: Lines = []  # of the unfinished event, as long as they are few
        self._size = 0
        self._form: Form | None = None  # that was learned last
        self._notes: list[Note] = []  # what the chain notes of blocks of that form
        self._window: _Window | None = None  # what is kept of it, once they are not

    def _ask(self, head: Head) -> tuple[Head, bool]:
        return self._chain._ask(head)

    def feed(self, batch: Lines, /) -> Lines:
        events: Events = []
        for line in batch:
            if line in BLANK:
                event = self._dispatch(line)
                if event is not None:
                    events.append(event)
            elif self._window is not None:
                self._window.add(line)
            else:
                self._lines.append(line)
                self._size += len(line)
                if self._size > self._limit:
                    self._widen()
        if events:
            self._chain.feed(events)
        return batch

    def _learn(self, form: Form) -> bool:
        form.most = min(form.most, self._limit)
        others = len(form.notes)
        learned = self._chain._learn(form)
        self._form, self._notes = form, form.notes[others:]
        return learned

    def _feed_open(self, batch: Lines) -> Lines:
        self.feed(batch)
        if self._window is None and self._lines:
            self._widen()
        return batch

    def rest(self, piece: bytes, last: bool, /) -> None:
        if self._window is not None:
            self._window.extend(piece[: _content(piece)] if last else piece)

    def end(self, end: End, /) -> tuple[Lines | None, End]:
        self._chain.end(end)
        return None, end

    def _widen(self) -> None:
        self._window = _Window(self._limit, self._reader)
        for line in self._lines:
            self._window.add(line)
        self._lines = []

    def _dispatch(self, blank: bytes) -> Event | None:
        self._size = 0
        if self._window is not None:
            window, self._window = self._window, None
            return window.event()
        if not self._lines:
            return None
        lines, self._lines = self._lines, []
        lines.append(blank)
        # Blocks of a form may also come among others, and then nobody has taken them before they come here.
        if self._form is not None and self._form.settled and self._form.count(b"".join(lines)):
            for note in self._notes:
                note(1, 0, 0)
            return None
        return self._reader.read(lines)


class _Window:
    """The first and the last half of the data of one event, in linear time and bounded memory."""

    def __init__(self, limit: int, reader: _Reader) -> None:
        self._limit = limit
        self._reader = reader
        self._first = bytearray()
        self._last = bytearray()
        self._half = limit // 2
        self._size = -1  # of the data; each data line but the first begins with the LF that joins it
        self._type = b""
        self._retry: int | None = None
        self._in_data = False

    def add(self, line: bytes) -> None:
        """Take a line, or the beginning of one."""
        name, value = field(line)
        self._in_data = name == b"data"
        if self._in_data:
            if self._size >= 0:
                self.extend(b"\n")
            self._size = max(self._size, 0)
            self.extend(value)
        elif name == b"event":
            self._type = value
        elif name == b"id":
            self._reader.set_id(value)
        elif name == b"retry":
            self._retry = _retry(value, self._retry)

    def extend(self, piece: bytes) -> None:
        """Take a further piece of the line that was added last."""
        if not self._in_data:
            return
        self._size += len(piece)
        room = self._limit - self._half - len(self._first)
        if room:
            self._first += piece[:room]
            piece = piece[room:]
        self._last += piece[-self._half :]
        if len(self._last) > self._limit:
            del self._last[: -self._half]

    def event(self) -> Event | None:
        if self._size < 0:
            return None
        type_ = self._type or MESSAGE
        if self._size <= self._limit:
            return Event(bytes(self._first + self._last), type_, self._reader.id, self._retry)
        data = bytes(self._first + self._last[-self._half :])
        return _CutEvent(data, type_, self._reader.id, self._retry, true_size=self._size)


class EventParser:
    """Read events from chunks of bytes, as a client does (HTML, section 9.2.6).

    It never dispatches an unfinished event. A byte order mark at the beginning is skipped.

    Args:
        max_line: bytes of content of one line, 32 MiB by default.
        max_event: bytes of content of the lines of one event, 32 MiB by default.
    """

    def __init__(self, *, max_line: int = DEFAULT_MAX_LINE, max_event: int = DEFAULT_MAX_EVENT) -> None:
        self._events = _Collector()
        self._stage = by_line(by_event(self._events, max_event=max_event), max_line=max_line)
        self._error: Exception | None = None

    def feed(self, data: bytes) -> Events:
        """Return the events that ``data`` completes.

        Raises:
            LineTooLong, EventTooLong: a limit was passed. Events that came before it are returned first, by the call
                that met it; the error is raised by the next call, and by each one after that.
        """
        if self._error is not None:
            raise self._error
        if data:
            try:
                self._stage.feed(data)
            except Cut as cut:
                self._error = cut.error
        events = self._events.take()
        if self._error is not None and not events:
            raise self._error
        return events

    def end(self) -> None:
        """Say that the stream is over; an unfinished event is dropped. Raises as `feed` does."""
        _, end = self._stage.end(Eof())
        if self._error is None and isinstance(end, Failed):
            self._error = end.error
        if self._error is not None:
            raise self._error


class _Collector(Stage[Events]):
    def __init__(self) -> None:
        self._events: Events = []

    def feed(self, batch: Events, /) -> Events:
        self._events += batch
        return []

    def take(self) -> Events:
        events, self._events = self._events, []
        return events


def _events_of(cut: Cut) -> Events:
    assert isinstance(cut.batch, list)
    return cut.batch
