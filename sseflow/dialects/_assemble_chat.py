"""Put an OpenAI chat completion together."""

from __future__ import annotations

import attrs

from ._assembled import Choice, ToolCall, ToolError
from ._growing import given, grow, grown, index_of, objects, said
from ._json import as_object

_GROWING = frozenset(
    {"arguments", "content", "data", "input", "reasoning", "reasoning_content", "refusal", "text", "transcript"}
)
_OF_THE_CHUNK = frozenset({"choices", "error", "object", "obfuscation"})
_OF_THE_CHOICE = frozenset({"delta", "index", "message"})
_CUT = frozenset({"length", "content_filter"})
_NOT_OTHER = frozenset({"role", "content", "reasoning", "reasoning_content", "refusal", "tool_calls"})


@attrs.define
class _Part:
    """A choice while it grows."""

    message: dict[str, object] = attrs.field(factory=lambda: {"role": "assistant", "content": None})
    calls: list[dict[str, object]] = attrs.field(factory=list)
    by_index: dict[int, dict[str, object]] = attrs.field(factory=dict)
    thoughts: list[str] = attrs.field(factory=list)
    rest: dict[str, object] = attrs.field(factory=dict)

    def call(self, delta: dict[str, object]) -> dict[str, object]:
        """The call that a piece belongs to: that with its index, unless that has another id."""
        index = delta.get("index")
        known = self.by_index.get(index) if isinstance(index, int) else self.calls[-1] if self.calls else None
        if known is None or (said(delta, "id") and said(known, "id") not in ("", delta["id"])):
            known = {}
            self.calls.append(known)
        if isinstance(index, int):
            self.by_index[index] = known
        return known


class ChatAssembler:
    """Takes the chunks of a chat completion."""

    def __init__(self) -> None:
        self._about: dict[str, object] = {}
        self._parts: dict[int, _Part] = {}

    def take(self, kind: str, chunk: dict[str, object]) -> None:
        """Take a chunk; its type says nothing."""
        self._about.update({key: part for key, part in given(chunk).items() if key not in _OF_THE_CHUNK})
        for choice in objects(chunk.get("choices")):
            part = self._parts.setdefault(index_of(choice), _Part())
            delta = dict(as_object(choice.get("delta")) or {})
            for piece in objects(delta.pop("tool_calls", None)):
                _merge(part.call(piece), {key: value for key, value in piece.items() if key != "index"})
            # Some servers send both, and they are the same.
            part.thoughts.append(said(delta, "reasoning") or said(delta, "reasoning_content"))
            _merge(part.message, delta)
            _merge(part.rest, {key: value for key, value in choice.items() if key not in _OF_THE_CHOICE})

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], dict[str, object]]:
        """What has come, and the same as a body."""
        choices: list[Choice] = []
        bodies: list[object] = []
        for index, part in self._parts.items():
            message, rest = grown(part.message), grown(part.rest)
            calls = [grown(call) for call in part.calls]
            finish = said(rest, "finish_reason") or None
            whole = finish is not None and finish not in _CUT
            choices.append(
                Choice(
                    index=index,
                    text=_text(message.get("content")),
                    reasoning="".join(part.thoughts),
                    refusal=said(message, "refusal"),
                    tool_calls=tuple(_tool_call(call, whole, interrupted=interrupted) for call in calls),
                    finish=finish,
                    other=any(part for key, part in message.items() if key not in _NOT_OTHER),
                )
            )
            if calls:
                message["tool_calls"] = calls
            bodies.append({"index": index, "message": message, "finish_reason": finish, **rest})
        return tuple(choices), {**self._about, "object": "chat.completion", "choices": bodies}


def _merge(into: dict[str, object], delta: dict[str, object], depth: int = 1) -> None:
    """Let an object grow by a piece of it."""
    for key, part in given(delta).items():
        known = into.get(key)
        if key in _GROWING and isinstance(part, str):
            grow(into, key, part)
        elif isinstance(part, list) and isinstance(known, list):
            known += part
        elif isinstance(part, dict) and isinstance(known, dict) and depth:
            _merge(known, part, depth - 1)
        elif isinstance(part, dict) and depth:
            begun: dict[str, object] = {}
            into[key] = begun
            _merge(begun, part, depth - 1)
        else:
            into[key] = part


def _text(content: object) -> str:
    # Some servers send a list of parts.
    return content if isinstance(content, str) else "".join(said(part, "text") for part in objects(content))


def _tool_call(call: dict[str, object], whole: bool, *, interrupted: bool) -> ToolCall:
    inner = call.get("function") or call.get("custom")
    return ToolCall(
        id=said(call, "id") or None,
        name=said(inner, "name"),
        arguments=said(inner, "arguments") or said(inner, "input"),
        finished=whole,
        result=ToolError() if interrupted else None,
    )
