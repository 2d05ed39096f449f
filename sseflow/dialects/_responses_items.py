"""The items of OpenAI's Responses: what went in, what came out, and how the one becomes the other again."""

# A chain of responses is kept by the provider, and goes on from an id. Who has kept the items of each link can put
# them in the id's place. The API then refuses what is orphaned: a call whose result is not there, a result without its
# call, reasoning without what followed from it. So of a history such items are left out, both halves of a pair
# together. Nothing is made up in their place: a result that never was would be read by the model as one.
#
# Items go as the bytes they came in; only those whose fields must go are edited, and they keep the rest.

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from ._json import decode
from ._request import RequestBody, elements

# What the API takes back, and the fields of it that it does not: ids and states of what it kept itself. Calls of tools
# that it hosts are only complete with theirs.
_TAKEN_BACK: dict[str, tuple[str, ...]] = {
    "message": ("id", "status"),
    "reasoning": ("status",),
    "function_call": ("id", "status"),
    "custom_tool_call": ("id", "status"),
    "computer_call": (),
    "file_search_call": (),
    "web_search_call": (),
    "code_interpreter_call": (),
    "image_generation_call": (),
    "compaction": ("created_by",),
}
_ANSWERED = frozenset({"function_call", "custom_tool_call", "computer_call"})
_NOT_TAKEN_BACK = ("shell_", "local_shell_", "apply_patch_", "mcp_")


@attrs.frozen
class CompleteResponse:
    """What one complete exchange adds to a chain. Made by `of` from a complete response, and in no other way.

    Items are JSON, each as it came.
    """

    id: str
    previous_id: str | None
    input: tuple[bytes, ...] = attrs.field(repr=False)
    output: tuple[bytes, ...] = attrs.field(repr=False)

    @classmethod
    def of(cls, request: RequestBody, data: bytes) -> CompleteResponse | None:
        """Join a request and its answer.

        Args:
            request: what the answer answers: its ``previous_response_id`` counts, and its input.
            data: of the event ``response.completed``, or a response that came as one JSON body.

        Returns:
            None if the response is not complete (``incomplete`` and ``failed`` are not), has no id, or stands on what
            is known to the provider only: a conversation, a prompt template, a reference to an item.
        """
        response = _completed(data)
        given = input_items(request)
        if response is None or given is None:
            return None
        id = response.get("id")
        output = elements(response.raw("output") or b"[]")
        if not isinstance(id, str) or not id or output is None:
            return None
        return cls(id, request.previous_response_id, tuple(given), tuple(output))

    @property
    def conversation(self) -> list[bytes]:
        """Its input, and its output as input."""
        return [*self.input, *as_input(self.output)]


def _completed(data: bytes) -> RequestBody | None:
    body = RequestBody.parse(data)
    if body is not None and body.get("type") == "response.completed":
        body = RequestBody.parse(body.raw("response") or b"")
    elif body is not None and body.get("object") != "response":
        return None
    return body if body is not None and body.get("status") in ("completed", None) else None


def input_items(request: RequestBody) -> list[bytes] | None:
    """The input items of a request for a response, each as it came; a string is one message of the user.

    Returns:
        None if the input is neither a string nor an array of objects, or leaves something to what only the provider
        knows: ``conversation``, ``prompt``, a reference to an item.
    """
    if request.get("conversation") is not None or request.get("prompt") is not None:
        return None
    raw = request.raw("input") or b"[]"
    if raw.startswith(b'"'):
        return [b'{"type":"message","role":"user","content":' + raw + b"}"]
    items = elements(raw)
    if items is None:
        return None
    return None if any(_is_reference(decode(item)) for item in items) else list(items)


def _is_reference(item: dict[str, object] | None) -> bool:
    """Whether it is a reference to an item, or no item at all."""
    return item is None or (item.get("type") in (None, "item_reference") and "role" not in item)


def as_input(output: Iterable[bytes]) -> list[bytes]:
    """Output items as the input items of a later request.

    Messages, reasoning, calls of functions and of custom tools, calls of hosted tools and compactions are taken back,
    without the fields that the API does not take. Shell, patch and MCP items are left out, and so are items of kinds
    that are not known here, reasoning that is not there but by its id (without ``encrypted_content``), and reasoning
    directly before an item that is left out.
    """
    taken: list[bytes] = []
    waiting: list[bytes] = []  # reasoning is only taken with what follows from it
    for raw in output:
        item = RequestBody.parse(raw)
        kind = item.get("type") if item is not None else None
        if item is None or not isinstance(kind, str) or kind not in _TAKEN_BACK:
            waiting.clear()
            continue
        edited = item.edit(dict.fromkeys(_TAKEN_BACK[kind]))
        if kind == "reasoning":
            waiting += [edited] if _is_whole_reasoning(item.get("encrypted_content")) else []
            continue
        taken += [*waiting, edited]
        waiting.clear()
    return taken


def _is_whole_reasoning(encrypted: object) -> bool:
    return isinstance(encrypted, str) and bool(encrypted)


def rebuilt(request: RequestBody, history: Sequence[bytes]) -> bytes | None:
    """The request with the recorded conversation in the place of ``previous_response_id``.

    Its own input items follow the history's, as they came, and every other byte stays. Of the history such items are
    left out as the API would refuse: a call without its result, a result without its call, reasoning without what
    followed from it.

    Args:
        request: the request whose chain is broken.
        history: the items of the whole conversation before it, from its beginning.

    Returns:
        None if the request cannot be rebuilt: its input is not to be read, or answers a call that is not in the
        history (one that the API does not take back), so that what the client says now would be lost.
    """
    own = input_items(request)
    if own is None:
        return None
    said = [_Said.of(item) for item in own]
    past = [_Said.of(item) for item in history]
    calls = {item.call for item in [*past, *said] if item.call is not None}
    answers = {item.answer for item in [*past, *said] if item.answer is not None}
    if any(item.is_lost or (item.answer is not None and item.answer not in calls) for item in said):
        return None
    kept = _without_orphans(past, calls, answers)
    items = b"[" + b",".join([*kept, *own]) + b"]"
    return request.edit({"previous_response_id": None, "input": items})


@attrs.frozen
class _Said:
    """An item, and what it needs beside it."""

    raw: bytes
    kind: str
    call: tuple[str, str] | None = None
    """The call that it is: its kind and its id."""

    answer: tuple[str, str] | None = None
    """The call that it is the result of."""

    is_reasoning: bool = False
    is_lost: bool = False
    """It is a kind that is not taken back."""

    @classmethod
    def of(cls, raw: bytes) -> _Said:
        item = decode(raw) or {}
        kind = item.get("type")
        kind = kind if isinstance(kind, str) else "message"
        called = kind.removesuffix("_output")
        pair = (called, str(item.get("call_id")))
        return cls(
            raw,
            kind,
            call=pair if kind in _ANSWERED else None,
            answer=pair if kind != called and called in _ANSWERED else None,
            is_reasoning=kind == "reasoning" and _is_whole_reasoning(item.get("encrypted_content")),
            is_lost=kind.startswith(_NOT_TAKEN_BACK),
        )


def _without_orphans(items: Iterable[_Said], calls: set[tuple[str, str]], answers: set[tuple[str, str]]) -> list[bytes]:
    kept: list[bytes] = []
    waiting: list[bytes] = []
    for item in items:
        if item.is_reasoning:
            waiting.append(item.raw)
            continue
        whole = (item.call is None or item.call in answers) and (item.answer is None or item.answer in calls)
        if whole and not item.is_lost and item.kind != "reasoning":
            kept += [*waiting, item.raw]
        waiting.clear()
    return kept
