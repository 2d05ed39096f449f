"""The language of the scripted upstream: one step a line, read into values before anything is served."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from .._errors import ConfigurationError

#: How a body says where it ends: by chunks, by a length, or by the end of the connection.
Framing: TypeAlias = Literal["chunked", "length", "close"]

_FRAMINGS: tuple[Framing, ...] = ("chunked", "length", "close")
_CODINGS = ("gzip", "deflate", "br", "zstd")
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MISSING = 1000
"""Bytes that a body with a length lacks if its script never ends it."""

_PIECE = b"x" * 65536


class ScriptError(ConfigurationError):
    """A script that cannot be played. The message has one line for each problem, with the number of its line.

    Attributes:
        problems: pairs of a line number, from 1, and what is wrong there.
    """

    def __init__(self, problems: Sequence[tuple[int, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"line {line}: {what}" for line, what in problems))


@attrs.frozen
class HeadStep:
    """Send a head. A length of None is that of the body that follows."""

    status: int
    framing: Framing | None
    length: int | None
    content_type: str
    coding: str | None
    fields: tuple[tuple[str, str], ...]


@attrs.frozen
class Send:
    """Send bytes; those of a body are framed as its head said."""

    data: bytes
    raw: bool = False


@attrs.frozen
class Line:
    """Send a data line so many bytes long, and the blank line behind it."""

    size: int

    def pieces(self) -> Iterator[bytes]:
        """The bytes, in pieces of 64 KiB at most."""
        yield b"data: "
        left = self.size - len(b"data: ")
        while left > 0:
            yield _PIECE[:left]
            left -= len(_PIECE)
        yield b"\n\n"


@attrs.frozen
class Drip:
    """Send bytes one by one, each behind a wait."""

    seconds: float
    data: bytes
    raw: bool = False


@attrs.frozen
class Wait:
    """Wait so many seconds, or for as long as the peer stays."""

    seconds: float


@attrs.frozen
class Hold:
    """Wait until the test releases what has this name."""

    name: str


@attrs.frozen
class Finish:
    """End the body as its framing has it, with trailer fields if there are any."""

    trailers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class Close:
    """End the connection: orderly, without TLS's close_notify, or by a reset."""

    how: Literal["close", "cut", "reset"]


@attrs.frozen
class After:
    """Play a step where so many bytes of the answer, its head and its framing included, have been sent."""

    size: int
    step: Step


@attrs.frozen
class Call:
    """Call a function: what an upstream wants to know about how far its answer got."""

    function: Callable[[], object]


@attrs.frozen
class Repeat:
    """Play steps so many times; None: for ever."""

    times: int | None
    steps: tuple[Step, ...]


Step: TypeAlias = HeadStep | Send | Line | Drip | Wait | Hold | Finish | Close | After | Call | Repeat


@attrs.frozen
class Section:
    """What to play for a request.

    Attributes:
        path: the path it is for, without a query; None: any.
        read: how much of the request to read before: all of it, its head, or nothing.
    """

    path: str | None = None
    read: Literal["all", "head", "nothing"] = "all"
    steps: tuple[Step, ...] = ()


@attrs.frozen
class Script:
    """What an upstream plays: sections, used up in their order, the last one that fits again and again."""

    sections: tuple[Section, ...]

    @classmethod
    def parse(cls, text: str) -> Script:
        """Read a script; the language is in docs/reference/faulty-upstream.md.

        Raises:
            ScriptError: with all that is wrong, not only the first.
        """
        return _Parser(text).parse()


def body_size(steps: Sequence[Step]) -> int:
    """The length of the body that ``steps``, those behind a head, send; more than that if they never end it."""
    size = 0
    for step in steps:
        match step:
            case Send(data, raw=False) | Drip(_, data, raw=False):
                size += len(data)
            case Line():
                size += step.size + 2
            case Repeat():
                size += body_size(step.steps) * (step.times or 1 << 20)
            case Finish():
                return size
            case _:
                pass
    return size + _MISSING


def as_data(text: str) -> bytes:
    """An event of nothing but that data."""
    return b"data: " + text.encode() + b"\n\n"


def _token(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return as_data(json.dumps({"object": "chat.completion.chunk", "choices": [delta]}))


_STOP = as_data('{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}')
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


def _unescape(text: str) -> bytes:
    def one(match: re.Match[bytes]) -> bytes:
        name = match[1]
        if name[:1] == b"x" and len(name) == 3:
            return bytes([int(name[1:], 16)])
        if name not in _ESCAPES:
            raise ValueError(rf"\{name.decode(errors='replace')} is no escape; there are \n \r \t \0 \\ and \xHH")
        return _ESCAPES[name]

    return _ESCAPE.sub(one, text.encode())


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{text!r} is no number of seconds")
    return value


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)(KiB|MiB|GiB|)", text)
    if match is None:
        raise ValueError(f"{text!r} is no size; write it like 100, 64KiB or 32MiB")
    return int(match[1]) * _UNITS[match[2]]


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise ValueError(f"{text!r} is no field; write it like 'Retry-After: 3', with the quotes")
    return name, value.strip()


def _head(argument: str) -> HeadStep:
    words = shlex.split(argument)
    status = words.pop(0) if words and words[0].isdigit() else "200"
    if len(status) != 3:
        raise ValueError(f"{status!r} is no status")
    framing: Framing | None = None
    length: int | None = None
    content_type, coding, fields = "text/event-stream", None, []
    for word in words:
        name, equals, value = word.partition("=")
        if word in _FRAMINGS:
            framing = next(one for one in _FRAMINGS if one == word)
        elif word in _CODINGS:
            coding = word
        elif equals and name == "length":
            framing, length = "length", _size(value)
        elif equals and name == "type":
            content_type = value
        elif ":" in word:
            fields.append(_field(word))
        else:
            known = ", ".join([*_FRAMINGS, "length=N", "type=TYPE", *_CODINGS])
            raise ValueError(f"a head knows nothing about {word!r}; it takes {known} and 'Name: value'")
    return HeadStep(int(status), framing, length, content_type, coding, tuple(fields))


def _drip(argument: str) -> Drip:
    seconds, _, text = argument.partition(" ")
    raw = text.startswith("raw ")
    return Drip(_seconds(seconds), _unescape(text.removeprefix("raw ")), raw)


def _info(argument: str) -> Send:
    if not re.fullmatch(r"1\d\d", argument):
        raise ValueError(f"{argument!r} is no status between 100 and 199")
    return Send(f"HTTP/1.1 {argument} Informational\r\n\r\n".encode(), raw=True)


def _named(argument: str) -> Send:
    name, _, text = argument.partition(" ")
    return Send(b"event: " + name.encode() + b"\n" + as_data(text))


def _after(argument: str) -> After:
    size, _, step = argument.partition(" ")
    name, _, rest = step.strip().partition(" ")
    if name not in _INTERRUPTIONS:
        raise ValueError(f"after how many bytes what? One of {', '.join(_INTERRUPTIONS)}")
    return After(_size(size), _STEPS[name][1](rest.strip()))


_INTERRUPTIONS = ("stall", "wait", "hold", "close", "cut", "reset")

#: Each step by its name, with what makes it out of the rest of its line; True: that rest must not be empty.
_STEPS: Mapping[str, tuple[bool, Callable[[str], Step]]] = {
    "head": (False, _head),
    "info": (True, _info),
    "event": (True, lambda text: Send(as_data(text))),
    "named": (True, _named),
    "comment": (False, lambda text: Send(f": {text}\n\n".encode())),
    "token": (True, lambda text: Send(_token(text))),
    "stop": (False, lambda _: Send(_STOP)),
    "done": (False, lambda _: Send(as_data("[DONE]"))),
    "data": (True, lambda text: Send(_unescape(text))),
    "send": (True, lambda text: Send(_unescape(text), raw=True)),
    "line": (True, lambda text: Line(_size(text))),
    "drip": (True, _drip),
    "wait": (True, lambda text: Wait(_seconds(text))),
    "stall": (False, lambda _: Wait(math.inf)),
    "hold": (True, Hold),
    "after": (True, _after),
    "end": (False, lambda text: Finish(tuple(_field(word) for word in shlex.split(text)))),
    "close": (False, lambda _: Close("close")),
    "cut": (False, lambda _: Close("cut")),
    "reset": (False, lambda _: Close("reset")),
}


class _Parser:
    """Reads lines; what is wrong is kept, so that one run shows everything."""

    def __init__(self, text: str) -> None:
        self._problems: list[tuple[int, str]] = []
        numbered = enumerate(text.splitlines(), 1)
        self._lines = [
            (number, len(line) - len(line.lstrip(" ")), line.strip())
            for number, line in numbered
            if line.strip() and not line.lstrip().startswith("#")
        ]
        self._next = 0

    def parse(self) -> Script:
        sections: list[Section] = []
        while self._next < len(self._lines):
            number, indent, line = self._lines[self._next]
            head = Section()
            if line.split()[0] == "on":
                self._next += 1
                head = self._on(number, line.split()[1:])
                indent = self._lines[self._next][1] if self._next < len(self._lines) else 0
            elif sections:
                self._problems.append((number, "its indentation fits no line above"))
            sections.append(attrs.evolve(head, steps=self._block(indent)))
        if not self._problems and not any(section.steps for section in sections):
            self._problems.append((1, "there is no step in it"))
        if self._problems:
            raise ScriptError(sorted(self._problems))
        return Script(tuple(sections))

    def _on(self, number: int, words: list[str]) -> Section:
        section = Section()
        for word in words:
            if word.startswith("/"):
                section = attrs.evolve(section, path=word)
            elif word == "head":
                section = attrs.evolve(section, read="head")
            elif word == "accept":
                section = attrs.evolve(section, read="nothing")
            else:
                what = f"a section knows nothing about {word!r}; write on [/PATH] [head|accept]"
                self._problems.append((number, what))
        return section

    def _block(self, indent: int) -> tuple[Step, ...]:
        steps: list[Step] = []
        while self._next < len(self._lines):
            number, depth, line = self._lines[self._next]
            name, _, argument = line.partition(" ")
            if depth < indent or name == "on":
                break
            self._next += 1
            if depth > indent:
                self._problems.append((number, "it is indented, and there is no repeat above it"))
            elif name == "repeat":
                steps.append(self._repeat(number, indent, argument.strip()))
            else:
                steps.extend(self._step(number, name, argument.strip()))
        return tuple(steps)

    def _repeat(self, number: int, indent: int, argument: str) -> Repeat:
        if argument != "forever" and not argument.isdigit():
            self._problems.append((number, f"repeat {argument!r}: write how often, or forever"))
            argument = "0"
        depth = self._lines[self._next][1] if self._next < len(self._lines) else 0
        steps = self._block(depth) if depth > indent else ()
        if not steps:
            self._problems.append((number, "there is nothing to repeat: indent what belongs to it"))
        return Repeat(None if argument == "forever" else int(argument), steps)

    def _step(self, number: int, name: str, argument: str) -> Iterator[Step]:
        if name not in _STEPS:
            self._problems.append((number, f"there is no step {name!r}; there are {', '.join(['repeat', *_STEPS])}"))
            return
        needs, make = _STEPS[name]
        if needs and not argument:
            self._problems.append((number, f"{name} of what?"))
            return
        try:
            yield make(argument)
        except ValueError as error:
            self._problems.append((number, str(error)))
