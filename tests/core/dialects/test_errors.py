"""Errors in the form that each dialect's clients notice, and what upstreams' errors say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sseflow import EventParser
from sseflow.dialects import (
    AnthropicMessages,
    Dialect,
    DialectError,
    OpenAIChat,
    OpenAIResponses,
    PlainSSE,
    Reading,
    error_in,
)

DIALECTS = [PlainSSE(), OpenAIChat(), OpenAIResponses(), AnthropicMessages()]
ERROR = DialectError("it\nbroke\u2028off", "api_error", "upstream_lost")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_an_error_event_is_one_event_and_an_error(dialect: Dialect) -> None:
    """Whatever is in the message; nothing of it ends the answer, or is content."""
    parser = EventParser()
    (event,) = parser.feed(dialect.error_event(ERROR, request_id="r"))
    if not isinstance(dialect, PlainSSE):
        reading = dialect.read(event)
        assert reading.error is not None
        assert reading.error.message == ERROR.message
        assert reading == Reading(error=reading.error)
        assert dialect.is_error(event.type, event.data)
    else:
        assert event.type == b"error"
    error = json.loads(event.data)["error"]
    assert (error["message"], error["type"]) == (ERROR.message, "api_error")


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_keep_alive_says_nothing(dialect: Dialect) -> None:
    """It is no content and no end, and behind an ``id`` it dispatches nothing that a client could trip over."""
    parser = EventParser()
    events = parser.feed(b"id: 1\ndata: x\n\n" + dialect.keep_alive + b"data: y\n\n")
    assert [event.data for event in events if event.data in (b"x", b"y")] == [b"x", b"y"]
    for event in events[1:-1]:
        reading = dialect.read(event)
        assert reading == Reading(keep_alive=True)
        assert event.data


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (PlainSSE(), {"error": {"message": "m", "type": "t", "param": None, "code": "c"}, "request_id": "r"}),
        (OpenAIChat(), {"error": {"message": "m", "type": "t", "param": None, "code": "c"}, "request_id": "r"}),
        (
            AnthropicMessages(),
            {"type": "error", "error": {"type": "t", "message": "m", "code": "c"}, "request_id": "r"},
        ),
        (
            OpenAIResponses(),
            {
                "type": "error",
                "code": "c",
                "message": "m",
                "param": None,
                "error": {"message": "m", "type": "t", "param": None, "code": "c"},
                "request_id": "r",
            },
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Dialect) else "",
)
def test_the_body_of_an_error(dialect: Dialect, expected: dict[str, Any]) -> None:
    """As the API documents it."""
    assert json.loads(dialect.error_body(DialectError("m", "t", "c"), request_id="r")) == expected


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DialectError(), None),
        (DialectError(code="429"), 429),
        (DialectError(code="200"), None),
        (DialectError(code="600"), None),
        (DialectError(code="4290"), None),
        (DialectError(code="٤٢٩"), None),
        (DialectError(type="overloaded_error"), 529),
        (DialectError(type="rate_limit_error", code="context_length_exceeded"), 400),
        (DialectError(type="rate_limit_error", code="whatever"), 429),
        (DialectError(type="whatever"), None),
    ],
)
def test_the_status_of_an_error(error: DialectError, status: int | None) -> None:
    """Its code says more than its type; and no error has a status that is none."""
    assert error.status == status
    refusal = error.refusal("x")
    assert refusal.status == (status or 502)
    assert (refusal.said, refusal.type, refusal.code) == (error.message, error.type, error.code)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":{"message":"m","type":"t","code":1}}', DialectError("m", "t", "1")),
        (b'{"error":"m"}', DialectError("m")),
        (b'{"type":"error","error":{"type":"t","message":"m"}}', DialectError("m", "t")),
        (b'{"type":"error","message":"m","code":"c"}', DialectError("m", "error", "c")),
        (b'{"error":null}', None),
        (b"{}", None),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_what_an_error_body_says(body: bytes, error: DialectError | None) -> None:
    """The forms that upstreams are known to send."""
    assert error_in(body) == error
