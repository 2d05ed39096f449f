"""Put an Anthropic message together."""

from __future__ import annotations

import attrs

from ._assembled import Choice, ToolCall, ToolError
from ._growing import as_json, given, grow, grown, index_of, said
from ._json import as_object, decode

_GROWS = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
}
_SERVER_CALLS = frozenset({"server_tool_use", "mcp_tool_use"})

INVALID_JSON = "INVALID_JSON"
"""The key under which ``input`` holds what is not an object: it has to be one, and this is how its API documents it."""


@attrs.define
class _Block:
    """A content block while it grows."""

    fields: dict[str, object]
    json: dict[str, object] = attrs.field(factory=dict)  # pieces of its input
    stopped: bool = False

    @property
    def input(self) -> str:
        """The input, as it came."""
        return said(grown(self.json), "input") or as_json(self.fields.get("input"))


class AnthropicAssembler:
    """Takes the events of a message."""

    def __init__(self) -> None:
        self._message: dict[str, object] = {}
        self._usage: dict[str, object] = {}
        self._blocks: dict[int, _Block] = {}

    def take(self, kind: str, value: dict[str, object]) -> None:
        """Take an event."""
        match kind:
            case "message_start":
                self._message.update(given(as_object(value.get("message"))))
                self._usage.update(given(as_object(self._message.get("usage"))))
            case "message_delta":
                self._message.update(given(as_object(value.get("delta"))))
                self._usage.update(given(as_object(value.get("usage"))))
            case "content_block_start":
                self._blocks[index_of(value)] = _Block(dict(as_object(value.get("content_block")) or {}))
            case "content_block_delta":
                self._grow(index_of(value), as_object(value.get("delta")) or {})
            case "content_block_stop" if index_of(value) in self._blocks:
                self._blocks[index_of(value)].stopped = True

    def _grow(self, index: int, delta: dict[str, object]) -> None:
        kind = said(delta, "type")
        type_, key = _GROWS.get(kind, ("tool_use" if kind == "input_json_delta" else "text", ""))
        block = self._blocks.setdefault(index, _Block({"type": type_}))
        if key:
            grow(block.fields, key, delta.get(key))
        elif kind == "input_json_delta":
            grow(block.json, "input", delta.get("partial_json"))
        elif kind == "citations_delta":
            known = block.fields.get("citations")
            if not isinstance(known, list):
                block.fields["citations"] = known = []
            known.append(delta.get("citation"))

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], dict[str, object]]:
        """What has come, and the same as a body."""
        blocks = [attrs.evolve(block, fields=grown(block.fields)) for block in self._blocks.values()]
        if interrupted:
            answered = {said(block.fields, "tool_use_id") for block in blocks}
            blocks = [block for block in blocks if _says_something(block) and not _is_unanswered(block, answered)]
        finish = said(self._message, "stop_reason") or None
        if finish == "max_tokens" and blocks:
            blocks[-1].stopped = False
        choice = Choice(
            text="".join(said(b.fields, "text") for b in blocks if said(b.fields, "type") == "text"),
            reasoning="\n\n".join(filter(None, (said(b.fields, "thinking") for b in blocks))),
            tool_calls=tuple(
                ToolCall(
                    id=said(block.fields, "id") or None,
                    name=said(block.fields, "name"),
                    arguments=block.input,
                    finished=block.stopped,
                    result=ToolError() if interrupted else None,
                )
                for block in blocks
                if said(block.fields, "type") == "tool_use"
            ),
            finish=finish,
            other=any(said(b.fields, "type") not in ("text", "thinking", "tool_use") for b in blocks),
        )
        about = {"stop_reason": None, "stop_sequence": None, **self._message}
        usage = {"usage": self._usage} if self._usage else {}
        body = {**about, **usage, "content": [_content(block) for block in blocks]}
        return (choice,) if self._blocks or self._message else (), body


def _says_something(block: _Block) -> bool:
    """Whether there is more to a block than its beginning."""
    match said(block.fields, "type"):
        case "text":
            return said(block.fields, "text") != ""
        case "thinking":
            return said(block.fields, "thinking") != "" or said(block.fields, "signature") != ""
        case _:
            return True


def _is_unanswered(block: _Block, answered: set[str]) -> bool:
    """Whether a block is a call that the provider was to run, and has not."""
    return said(block.fields, "type") in _SERVER_CALLS and said(block.fields, "id") not in answered


def _content(block: _Block) -> dict[str, object]:
    pieces = said(grown(block.json), "input")
    if not pieces:
        return block.fields
    whole = decode(pieces.encode("utf-8", "surrogatepass"))
    return {**block.fields, "input": {INVALID_JSON: pieces} if whole is None else whole}
