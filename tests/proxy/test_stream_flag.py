"""Whether a request asks for a stream is found in pieces as in the whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.proxy._stream_flag import StreamFlag, asks_for_stream

names = st.sampled_from(["stream", "streams", "a", '"stream"', "b\\", "stream\\"])
leaves = st.sampled_from([True, False, None, 1.5, "stream", '\\"stream\\": true', 'a"b{', "}],:", "\\", "ü"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)


def asked(body: bytes, size: int) -> bool:
    flag = StreamFlag()
    for at in range(0, len(body), size):
        flag.feed(body[at : at + size])
    return flag.asked


@given(values | st.dictionaries(names, values), st.sampled_from([None, 2]), st.integers(1, 9))
def test_it_agrees_with_a_parser(value: Any, indent: int | None, size: int) -> None:
    """For whatever JSON, in whatever pieces: true at the top level, and nothing else."""
    body = json.dumps(value, indent=indent, ensure_ascii=False).encode()
    expected = isinstance(value, dict) and value.get("stream") is True
    assert asked(body, size) == asked(body, 10_000) == asks_for_stream(body) == expected


@given(st.binary(), st.integers(1, 9))
def test_what_is_no_json_does_no_harm(body: bytes, size: int) -> None:
    """It is the upstream's to refuse."""
    asks_for_stream(body)
    assert asked(body, size) == asked(body, 10_000)


@pytest.mark.parametrize("body", [b"", b" ", b"[]", b'"stream":true', b'{"stream":"true"}', b'[{"stream":true}]'])
def test_what_asks_for_nothing(body: bytes) -> None:
    """Only an object can ask."""
    assert not asked(body, 100)
    assert not asks_for_stream(body)


def test_a_body_that_is_too_deep_asks_for_nothing() -> None:
    """Whatever a client sends, reading it is no error of ours."""
    assert not asks_for_stream(b'{"stream":true,"a":' + b"[" * 30_000)
    assert not asks_for_stream(b'{"stream":true,"a":' + b"9" * 30_000 + b"}")


def test_it_holds_nothing() -> None:
    """However long the strings of a body are."""
    flag = StreamFlag()
    flag.feed(b'{"' + b"x" * 100_000)
    flag.feed(b'":"' + b"x" * 100_000)
    assert len(flag._text) < 100
    assert len(flag._key) < 100
