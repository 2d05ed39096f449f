"""Marks for the prompt cache."""

from __future__ import annotations

from sseflow.dialects import mark_for_cache


def test_the_last_system_message_and_the_last_two_are_marked() -> None:
    """And no other; what was given is not changed."""
    roles = ["system", "system", "user", "assistant", "user"]
    messages: list[dict[str, object]] = [{"role": role, "content": "x"} for role in roles]
    marked = mark_for_cache(messages)
    assert ["cache_control" in str(message) for message in marked] == [False, True, False, True, True]
    assert "cache_control" not in str(messages)
    assert marked[1] == {
        "role": "system",
        "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
    }


def test_a_mark_stands_on_the_last_block_that_may_have_one() -> None:
    """Thinking may not, and a message without content has no place for it."""
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "thinking", "thinking": "c"}]
    (marked,) = mark_for_cache([{"role": "assistant", "content": blocks}])
    text = {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}
    assert marked["content"] == [blocks[0], text, blocks[2]]
    for empty in ("", [], None, [{"type": "redacted_thinking"}]):
        assert mark_for_cache([{"role": "user", "content": empty}]) == [{"role": "user", "content": empty}]


def test_nothing_has_no_marks() -> None:
    """An empty prompt stays empty."""
    assert mark_for_cache([]) == []
