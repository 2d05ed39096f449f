"""Put an answer together from the events of its stream, whole or cut anywhere between two events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from .._events import Event
from ._anthropic import AnthropicMessages
from ._assemble_anthropic import AnthropicAssembler
from ._assemble_chat import ChatAssembler
from ._assemble_responses import ResponsesAssembler
from ._assembled import Assembled, Choice
from ._dialect import Dialect
from ._growing import said
from ._json import as_object, decode
from ._openai_chat import OpenAIChat
from ._openai_responses import OpenAIResponses


class _JsonAssembler(Protocol):
    """What puts the objects of one dialect together."""

    def take(self, kind: str, value: dict[str, object], /) -> None: ...

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], dict[str, object]]: ...


def assemble(dialect: Dialect, events: Iterable[Event], *, interrupted: bool, truncated: bool = False) -> Assembled:
    """Put together what the events of a stream say: the same shape for a whole answer and for a part of one.

    All of the JSON is read, which takes some ten microseconds for each event: it is for when a stream is over. It
    never fails: what is no JSON, or not what the dialect has in that place, is left out. What was begun is kept: text,
    reasoning, and tool calls with as much of their arguments as came.

    Args:
        dialect: what the stream speaks. Of one that is none of those of this package, or inherits from none, the data
            of all events is the text, joined by LF, as with `PlainSSE`.
        events: of the stream, in order.
        interrupted: no more will come, and nobody will run the tools that were asked for: their calls get an error for
            a result. Calls that the provider was to run, and has not, are left out.
        truncated: some events are missing.
    """
    assembler = _assembler_for(dialect)
    ended = False
    for event in events:
        ended = ended or dialect.read(event).ended
        truncated = truncated or event.cut
        assembler.take(event)
    choices, body = assembler.finish(interrupted=interrupted)
    about = body or {}
    return Assembled(
        choices=choices,
        usage=as_object(about.get("usage")),
        response_id=said(about, "id") or None,
        model=said(about, "model") or None,
        complete=ended or (dialect.ends_at_eof and not interrupted),
        truncated=truncated,
        body=body,
    )


class _Plain:
    """Takes events whose data is text."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def take(self, event: Event) -> None:
        self._texts.append(event.text)

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], None]:
        return ((Choice(text="\n".join(self._texts)),) if self._texts else ()), None


class _OfJson:
    """Takes events whose data is JSON."""

    def __init__(self, assembler: _JsonAssembler) -> None:
        self._assembler = assembler

    def take(self, event: Event) -> None:
        value = decode(event.data)
        if value is not None:
            self._assembler.take(said(value, "type") or event.type.decode("latin-1"), value)

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], Mapping[str, object]]:
        return self._assembler.finish(interrupted=interrupted)


def _assembler_for(dialect: Dialect) -> _Plain | _OfJson:
    match dialect:
        case OpenAIChat():
            return _OfJson(ChatAssembler())
        case OpenAIResponses():
            return _OfJson(ResponsesAssembler())
        case AnthropicMessages():
            return _OfJson(AnthropicAssembler())
        case _:
            return _Plain()
