"""Head and the endings."""

from __future__ import annotations

import attrs
import pytest

from sseflow import Cancelled, Closed, Eof, Failed, Head, is_event_stream

HEAD = Head(200, ((b"Content-Type", b"text/plain"), (b"X", b"1"), (b"x", b"2")))


def test_head_get() -> None:
    """A field is found without regard to case; the first of several counts; None if there is none."""
    assert HEAD.get(b"content-TYPE") == b"text/plain"
    assert HEAD.get(b"x") == b"1"
    assert HEAD.get(b"y") is None


def test_head_without() -> None:
    """All fields of a name go, whatever their case; the others keep their order; nothing to drop: the same object."""
    assert HEAD.without(b"X", b"nothing") == Head(200, ((b"Content-Type", b"text/plain"),))
    assert HEAD.without() is HEAD
    assert HEAD.without(b"nothing") is HEAD


def test_values_are_values() -> None:
    """Heads and endings compare by value, and cannot be changed."""
    error = ValueError()
    assert (Head(200), Eof(), Closed(), Cancelled()) == (Head(200, ()), Eof(), Closed(), Cancelled())
    assert Failed(error) == Failed(error)
    assert len({Eof(), Closed(), Cancelled(), Failed(error)}) == 4
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        HEAD.status = 500  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "content_type", "answer"),
    [
        pytest.param(200, b"text/event-stream", True, id="plain"),
        pytest.param(299, b"text/event-stream", True, id="any-2xx"),
        pytest.param(200, b"Text/Event-Stream ; charset=utf-8", True, id="parameters-and-case"),
        pytest.param(200, b" text/event-stream\t", True, id="spaces"),
        pytest.param(300, b"text/event-stream", False, id="3xx"),
        pytest.param(199, b"text/event-stream", False, id="1xx"),
        pytest.param(500, b"text/event-stream", False, id="5xx"),
        pytest.param(200, b"text/event-streams", False, id="longer"),
        pytest.param(200, b"x; text/event-stream", False, id="as-a-parameter"),
        pytest.param(200, b"application/json", False, id="another"),
        pytest.param(200, None, False, id="none"),
    ],
)
def test_is_event_stream(status: int, content_type: bytes | None, answer: bool) -> None:
    """An event stream is a 2xx answer whose media type is exactly ``text/event-stream``."""
    fields = () if content_type is None else ((b"content-type", content_type),)
    assert is_event_stream(Head(status, fields)) is answer
