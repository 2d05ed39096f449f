"""The stream of OpenAI's chat completions, and of the many servers that speak like it."""

from __future__ import annotations

import re

from .._events import Event
from .._form import Text
from ._dialect import Dialect, DialectError, Reading
from ._json import as_object, decode, error_of, model_in

_DONE = b"[DONE]"

# A quote inside a JSON string is escaped, so none of these matches in what a model wrote.
_CONTENT = re.compile(
    rb'"(?:content|reasoning|reasoning_content|refusal|text|arguments|name)"\s*:\s*"(?!")|"tool_calls"\s*:\s*\[\s*\{'
)
_TEXT = b'"content":"'
# What follows shows that the string is a value, as it has to be: a key would be one of the marks.
_STRING = re.compile(
    rb'"(?:content|reasoning|reasoning_content|refusal|text|arguments)"\s*:\s*"((?:[^"\\]|\\.)++)"(?=[,}])'
)
# Sent so that the length of a packet does not tell that of its text: it is of another length each time.
_PADDING = re.compile(rb'"(?:obfuscation|p)"\s*:\s*"((?:[^"\\]|\\.)*+)(?="[,}])')
_MARK = re.compile(rb'"(?:error|finish_reason|usage)"\s*+:\s*+(?!null)')
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"')
_ERROR_VALUE = re.compile(rb'\s*:\s*[{"]')
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[][{}]')

_ERROR_WITHIN = 1024
"""Bytes in which an error is looked for where the whole cannot be decoded: it is what such an object begins with."""

_READ_CONTENT = Reading(content=True)
_READ_NOTHING = Reading()
_READ_DONE = Reading(ended=True, final=True, terminator=True)


class OpenAIChat(Dialect):
    """OpenAI chat completions: complete when a ``finish_reason`` was seen, or ``[DONE]``.

    ``[DONE]`` is an exact match. JSON is decoded only where a search of the bytes cannot rule it out.
    """

    name = "openai-chat"
    ends_at_eof = False

    def read(self, event: Event, /) -> Reading:
        data = event.data
        if data == _DONE:
            return _READ_DONE
        if event.cut:
            return self._read_window(event)
        if event.type == b"error" or _is_marked(data):
            return self._read_marked(event)
        return _READ_CONTENT if _has_content(data) else _READ_NOTHING

    def _read_marked(self, event: Event) -> Reading:
        chunk = decode(event.data)
        if chunk is None:
            # It is the client's to complain of; of an error we still say that it is one.
            return Reading(error=DialectError()) if self.is_error(event.type, event.data) else _READ_NOTHING
        choices = chunk.get("choices")
        error = chunk.get("error") or (chunk if event.type == b"error" else None)
        return Reading(
            content=_has_content(event.data),
            ended=isinstance(choices, list) and any(isinstance(c, dict) and c.get("finish_reason") for c in choices),
            error=error_of(error) if error else None,
            usage=as_object(chunk.get("usage")),
        )

    def _read_window(self, event: Event) -> Reading:
        return Reading(
            content=True,
            ended=_FINISH.search(event.data) is not None,
            error=DialectError() if event.type == b"error" or _begins_with_error(event.data) else None,
        )

    def model(self, data: bytes, /) -> str | None:
        return model_in(data)

    def text(self, event: Event, /) -> Text | None:
        # What has a mark may be read in another way if another text makes JSON of it, or the other way round.
        found = None if _MARK.search(event.data) else _STRING.search(event.data)
        if found is None:
            return None
        start, stop = found.span(1)
        padding = _PADDING.search(event.data, stop)
        if padding is None:
            return Text(start, stop, string=True)
        return Text(start, padding.end(), string=True, filler=event.data[stop : padding.start(1)])

    def is_terminator(self, data: bytes, /) -> bool:
        return data == _DONE

    def is_error(self, type: bytes, data: bytes, /) -> bool:
        if type == b"error":
            return True
        if b'"error"' not in data:
            return False
        chunk = decode(data)
        # None is the beginning of a long line, or no object at all.
        return _begins_with_error(data) if chunk is None else bool(chunk.get("error"))

    def error_event(self, error: DialectError, /, *, request_id: str) -> bytes:
        # As OpenAI sends it: without a type, which not every client of this dialect looks at.
        return b"data: " + self.error_body(error, request_id=request_id) + b"\n\n"


def _is_marked(data: bytes) -> bool:
    """Whether there may be more to an event than content."""
    # Most chunks can be ruled out by these; the rest is worth a regular expression.
    return (
        b'"error"' in data
        or data.count(b'"finish_reason"') != data.count(b'"finish_reason":null')
        or data.count(b'"usage"') != data.count(b'"usage":null')
    ) and _MARK.search(data) is not None


def _has_content(data: bytes) -> bool:
    # Most chunks can be ruled in by one search; the rest is worth a regular expression.
    at = data.find(_TEXT)
    return (at >= 0 and data[at + len(_TEXT) : at + len(_TEXT) + 1] != b'"') or _CONTENT.search(data) is not None


def _begins_with_error(data: bytes) -> bool:
    """Whether what seems to be the beginning of an object has an error at its top level."""
    if not data.lstrip().startswith(b"{"):
        return False
    depth = 0
    for found in _STRUCTURE.finditer(data, 0, _ERROR_WITHIN):
        match found[0]:
            case b"{" | b"[":
                depth += 1
            case b"}" | b"]":
                depth -= 1
            case b'"error"' if depth == 1 and _ERROR_VALUE.match(data, found.end()):
                return True
    return False
