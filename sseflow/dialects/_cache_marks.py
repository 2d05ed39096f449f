"""Where Anthropic's Messages are marked for the prompt cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_MARK = {"type": "ephemeral"}
# The API refuses marks on these.
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})


def mark_for_cache(messages: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Mark the last message of the system, and the last two messages of all.

    With that the next turn finds all but its own messages in the cache. At most three marks of the four that the API
    allows are set; a message whose content cannot be marked (none, or nothing but thinking) is left as it is.

    Args:
        messages: each with ``role`` (``system``, ``user``, ``assistant``) and ``content``, a string or a list of
            blocks. They are not changed: what is marked is copied.
    """
    systems = [index for index, message in enumerate(messages) if message.get("role") == "system"]
    marked = {*systems[-1:], *range(len(messages))[-2:]}
    return [_marked(message) if index in marked else dict(message) for index, message in enumerate(messages)]


def _marked(message: Mapping[str, object]) -> dict[str, object]:
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) and content else content
    if isinstance(blocks, list):
        for at in range(len(blocks) - 1, -1, -1):
            if isinstance(blocks[at], dict) and blocks[at].get("type") not in _UNMARKABLE:
                block = {**blocks[at], "cache_control": dict(_MARK)}
                return {**message, "content": [*blocks[:at], block, *blocks[at + 1 :]]}
    return dict(message)
