"""The stream of OpenAI's chat completions, and of the many servers that speak like it."""

from __future__ import annotations

import re

from .._events import Event
from .._form import Text
from ._dialect import CONTENT, NOTHING, BegunCall, Dialect, DialectError, Reading
from ._json import (
    WITHIN,
    decode,
    error_of,
    find_name,
    id_at_top,
    keys_at_top,
    model_in,
    name_in,
    object_in,
    string_after,
    usage_at_the_end,
)
from ._usage import Usage, usage_in

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
# A call of a tool has its name where it begins.
_MARK = re.compile(rb'"(?:error|finish_reason|usage)"\s*+:\s*+(?!null)|"name"\s*+:\s*+"(?!")')
_FINISH = string_after(b"finish_reason")
_ID = string_after(b"id")
_NAME = string_after(b"name")
_INDEX = re.compile(rb'"index"\s*:\s*(\d{1,9})')
_ERROR = re.compile(rb'"error"\s*:\s*[{"]')

_DONE_READING = Reading(ended=True, final=True, terminator=True)

_FIGURES = {
    "prompt_tokens": "input",
    "completion_tokens": "output",
    "prompt_tokens_details.cached_tokens": "cache_read",
    "prompt_tokens_details.cache_write_tokens": "cache_write",
    "prompt_cache_hit_tokens": "cache_read",  # DeepSeek
    "prompt_tokens_details.audio_tokens": "prompt_audio",
    "completion_tokens_details.reasoning_tokens": "reasoning",
    "completion_tokens_details.audio_tokens": "completion_audio",
    "completion_tokens_details.accepted_prediction_tokens": "completion_accepted_prediction",
    "completion_tokens_details.rejected_prediction_tokens": "completion_rejected_prediction",
}

_CUT_SHORT = frozenset({"length", "content_filter"})
"""Ends behind which the last call of a tool may not be whole."""


class OpenAIChat(Dialect):
    """OpenAI chat completions: complete when a ``finish_reason`` was seen, or ``[DONE]``.

    ``[DONE]`` is an exact match. JSON is decoded only where a search of the bytes cannot rule it out.
    """

    name = "openai-chat"
    ends_at_eof = False

    def read(self, event: Event, /) -> Reading:
        data = event.data
        if data == _DONE:
            return _DONE_READING
        if event.cut:
            return self._read_window(event)
        if event.type == b"error" or _is_marked(data):
            return self._read_marked(event)
        return CONTENT if _has_content(data) else NOTHING

    def _read_marked(self, event: Event) -> Reading:
        chunk = decode(event.data)
        if chunk is None:
            # It is the client's to complain of; of an error we still say that it is one.
            return Reading(error=DialectError()) if self.is_error(event.type, event.data) else NOTHING
        choices = _choices(chunk)
        ends = [(at, name_in(choice, "finish_reason")) for at, choice in choices if choice.get("finish_reason")]
        error = chunk.get("error") or (chunk if event.type == b"error" else None)
        return Reading(
            content=_has_content(event.data),
            ended=bool(ends),
            finish=next((finish for _, finish in reversed(ends) if finish), None),
            error=error_of(error, around=chunk) if error else None,
            usage=_usage(chunk, choices),
            begun=tuple([call for at, choice in choices for call in _calls(at, choice)]),
            finished=tuple([(at,) for at, finish in ends if finish not in _CUT_SHORT]),
        )

    def _read_window(self, event: Event) -> Reading:
        data = event.data
        finish = find_name(_FINISH, data)
        at, _, call = data.partition(b'"tool_calls"')
        name = find_name(_NAME, call)
        return Reading(
            content=True,
            ended=finish is not None,
            finish=finish,
            error=DialectError() if event.type == b"error" or _begins_with_error(data) else None,
            usage=usage_in(usage_at_the_end(data), _FIGURES, input_has_cached=True),
            begun=() if name is None else (BegunCall(find_name(_ID, call), name, (_index(at), _index(call))),),
            finished=() if finish is None or finish in _CUT_SHORT else ((_index(at),),),
        )

    def response_id(self, event: Event, /) -> str | None:
        data = event.data
        if b'"id"' not in data:  # a server may leave it out in all of them
            return None
        return id_at_top(data, WITHIN if event.cut else len(data))

    def answer_text(self, event: Event, /) -> str:
        choices = [] if event.cut else _choices(decode(event.data) or {})
        delta = next((object_in(choice, "delta") or choice for at, choice in choices if at == 0), {})
        return "".join([part for key in ("content", "refusal", "text") if isinstance(part := delta.get(key), str)])

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
        or b'"name"' in data
        or data.count(b'"finish_reason"') != data.count(b'"finish_reason":null')
        or data.count(b'"usage"') != data.count(b'"usage":null')
    ) and _MARK.search(data) is not None


def _has_content(data: bytes) -> bool:
    # Most chunks can be ruled in by one search; the rest is worth a regular expression.
    at = data.find(_TEXT)
    return (at >= 0 and data[at + len(_TEXT) : at + len(_TEXT) + 1] != b'"') or _CONTENT.search(data) is not None


def _begins_with_error(data: bytes) -> bool:
    """Whether what seems to be the beginning of an object has an error at its top level."""
    return any(_ERROR.match(data, at) for at in keys_at_top(data, b'"error"', WITHIN))


def _choices(chunk: dict[str, object]) -> list[tuple[int, dict[str, object]]]:
    """The choices of a chunk, by their numbers."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return []
    return [(_place(choice), choice) for choice in choices if isinstance(choice, dict)]


def _place(value: dict[str, object]) -> int:
    index = value.get("index")
    return index if type(index) is int else 0


def _calls(at: int, choice: dict[str, object]) -> list[BegunCall]:
    """The calls of tools that a choice names."""
    pieces = object_in(choice, "delta").get("tool_calls")
    found = []
    for piece in pieces if isinstance(pieces, list) else ():
        name = name_in(object_in(piece, "function"), "name") if isinstance(piece, dict) else None
        if name is not None:
            found.append(BegunCall(name_in(piece, "id"), name, (at, _place(piece))))
    return found


def _usage(chunk: dict[str, object], choices: list[tuple[int, dict[str, object]]]) -> Usage | None:
    """What a chunk has used, by itself, or, for Moonshot and Groq, by a part of it."""
    for holder in (chunk, *[choice for _, choice in choices], object_in(chunk, "x_groq")):
        usage = usage_in(holder.get("usage"), _FIGURES, input_has_cached=True)
        if usage is not None:
            return usage
    return None


def _index(data: bytes) -> int:
    found = _INDEX.search(data)
    return 0 if found is None else int(found[1])
