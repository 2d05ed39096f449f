"""Put an OpenAI response together."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from ._assembled import Choice, ToolCall, ToolError
from ._growing import as_json, grow, grown, index_of, objects, said, take_over
from ._json import as_object

# Where the pieces go that an event of this name brings: to a part of an item. Named are the types of the item and of
# the part, the list of parts and what its index is called, and the text that grows.
_PARTS = {
    "output_text": ("message", "output_text", "content", "content_index", "text"),
    "refusal": ("message", "refusal", "content", "content_index", "refusal"),
    "reasoning_text": ("reasoning", "reasoning_text", "content", "content_index", "text"),
    "reasoning_summary_text": ("reasoning", "summary_text", "summary", "summary_index", "text"),
}
# ... or to the item itself: its type, and the text that grows.
_ITEMS = {
    "function_call_arguments": ("function_call", "arguments"),
    "custom_tool_call_input": ("custom_tool_call", "input"),
    "mcp_call_arguments": ("mcp_call", "arguments"),
    "code_interpreter_call_code": ("code_interpreter_call", "code"),
}
_NEW_PARTS = {"content_part": ("content", "content_index"), "reasoning_summary_part": ("summary", "summary_index")}
_LISTS = frozenset({"content", "summary"})
_LAST = frozenset({"completed", "incomplete", "failed"})

_BY_PROVIDER = frozenset(
    {
        "code_interpreter_call",
        "file_search_call",
        "image_generation_call",
        "mcp_call",
        "tool_search_call",
        "web_search_call",
    }
)


@attrs.define
class _Item:
    """An item of the output while it grows."""

    fields: dict[str, object]
    lists: dict[str, dict[int, dict[str, object]]] = attrs.field(factory=lambda: {name: {} for name in _LISTS})
    whole: bool = False  # its arguments are

    def take(self, item: dict[str, object]) -> None:
        """Take what is said of the item as a whole."""
        for key in _LISTS & item.keys():
            self.lists[key] = dict(enumerate(objects(item[key]))) or self.lists[key]
        take_over(self.fields, item)
        self.whole = self.whole or self.fields.get("status") == "completed"

    def grown(self) -> dict[str, object]:
        """The item as it has come."""
        lists = {key: list(map(grown, parts.values())) for key, parts in self.lists.items() if parts}
        return {**grown(self.fields), **lists}


class ResponsesAssembler:
    """Takes the events of a response."""

    def __init__(self) -> None:
        self._response: dict[str, object] = {}
        self._items: dict[int, _Item] = {}
        self._finish: str | None = None

    def take(self, kind: str, value: dict[str, object]) -> None:
        """Take an event."""
        name, _, what = kind.removeprefix("response.").rpartition(".")
        response = as_object(value.get("response"))
        if response is not None:
            self._take_response(response)
            if what in _LAST and not name:
                self._finish = what
        elif what in ("delta", "done", "added"):
            self._take_piece(name, what, value)

    def _take_response(self, response: dict[str, object]) -> None:
        output = list(objects(response.get("output")))
        self._response.update({key: part for key, part in response.items() if key != "output"})
        if output:  # it is the whole, and the last word
            self._items = {index: _Item({}) for index in range(len(output))}
            for index, item in self._items.items():
                item.take(output[index])

    def _take_piece(self, name: str, what: str, value: dict[str, object]) -> None:
        item = self._items.setdefault(index_of(value, "output_index"), _Item({}))
        if name == "output_item":
            item.take(as_object(value.get("item")) or {})
        elif name in _NEW_PARTS:
            key, index = _NEW_PARTS[name]
            part = item.lists[key].setdefault(index_of(value, index), {})
            take_over(part, as_object(value.get("part")) or {})
        elif name in _PARTS:
            type_, part_type, key, index, text = _PARTS[name]
            item.fields.setdefault("type", type_)
            part = item.lists[key].setdefault(index_of(value, index), {"type": part_type})
            _grow_or_set(part, text, what, value)
        elif name in _ITEMS:
            type_, text = _ITEMS[name]
            item.fields.setdefault("type", type_)
            _grow_or_set(item.fields, text, what, value)
            item.whole = item.whole or what == "done"
        elif name == "output_text.annotation":
            part = item.lists["content"].get(index_of(value, "content_index"), {})
            known = part.setdefault("annotations", [])
            if isinstance(known, list):
                known.append(value.get("annotation"))

    def finish(self, *, interrupted: bool) -> tuple[tuple[Choice, ...], dict[str, object]]:
        """What has come, and the same as a body."""
        items = [(item.grown(), item.whole) for item in self._items.values() if item.fields]
        if interrupted:
            items = [(item, whole) for item, whole in items if not (_is_unanswered(item) or _says_nothing(item))]
        messages = [item for item, _ in items if said(item, "type") == "message"]
        thoughts = (thought for item, _ in items for thought in _thoughts(item))
        answers = [item for item in messages if not _is_commentary(item)]
        choice = Choice(
            text="".join(_texts(answers, "text")),
            reasoning="\n\n".join(filter(None, thoughts)),
            refusal="".join(_texts(answers, "refusal")),
            tool_calls=tuple(
                _tool_call(item, whole, interrupted=interrupted) for item, whole in items if _is_call(item)
            ),
            finish=self._finish,
            other=any(
                said(item, "type") not in ("", "message", "reasoning") and not _is_call(item) for item, _ in items
            ),
        )
        body = {**self._response, "output": [item for item, _ in items]}
        return (choice,) if self._items or self._response else (), body


def _grow_or_set(target: dict[str, object], key: str, what: str, value: dict[str, object]) -> None:
    if what == "delta":
        grow(target, key, value.get("delta"))
    elif said(value, key):
        target[key] = value[key]


def _texts(items: list[dict[str, object]], key: str) -> Iterator[str]:
    for item in items:
        for part in objects(item.get("content")):
            yield said(part, key)


def _is_commentary(item: dict[str, object]) -> bool:
    """Whether a message is not meant as an answer, but says what the model is about to do."""
    return said(item, "phase") == "commentary"


def _thoughts(item: dict[str, object]) -> Iterator[str]:
    if said(item, "type") == "reasoning":
        for key in ("summary", "content"):
            yield from (said(part, "text") for part in objects(item.get(key)))
    elif _is_commentary(item):
        yield "".join(_texts([item], "text"))


def _says_nothing(item: dict[str, object]) -> bool:
    """Whether an item is no more than the beginning of a message."""
    texts = (text for key in ("text", "refusal") for text in _texts([item], key))
    return said(item, "type") in ("", "message") and not any(texts)


def _is_call(item: dict[str, object]) -> bool:
    """Whether an item is a call that whoever asked is to run."""
    type_ = said(item, "type")
    return type_.endswith("_call") and type_ not in _BY_PROVIDER


def _is_unanswered(item: dict[str, object]) -> bool:
    """Whether an item is a call that the provider was to run, and has not."""
    return said(item, "type") in _BY_PROVIDER and said(item, "status") not in ("completed", "failed", "incomplete")


def _tool_call(item: dict[str, object], whole: bool, *, interrupted: bool) -> ToolCall:
    return ToolCall(
        id=said(item, "call_id") or said(item, "id") or None,
        name=said(item, "name") or said(item, "type"),
        # The action is of calls that are neither a function's nor a custom tool's.
        arguments=said(item, "arguments") or said(item, "input") or as_json(item.get("action")),
        finished=whole,
        result=ToolError() if interrupted else None,
    )
