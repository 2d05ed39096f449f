"""Errors in the form that each dialect's clients notice, and what upstreams' errors say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sseflow import Event, EventParser
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


def test_an_error_without_a_code_has_none_for_anthropic() -> None:
    """Its API knows no code: it stands there only if somebody gave one."""
    body = json.loads(AnthropicMessages().error_body(DialectError("m", "t"), request_id="r"))
    assert body == {"type": "error", "error": {"type": "t", "message": "m"}, "request_id": "r"}


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
        (DialectError(code="previous_response_not_found"), 400),
        (DialectError(code="slow_down"), 503),
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


@pytest.mark.parametrize(("came_with", "status"), [(None, 529), (200, 529), (302, 529), (418, 418), (599, 599)])
def test_no_error_has_the_status_of_a_success(came_with: int | None, status: int) -> None:
    """An error that came with a 200, or inside one, becomes what it says it is."""
    assert DialectError(type="overloaded_error").refusal("x", status=came_with).status == status
    assert DialectError().refusal("x", status=204).status == 502


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        ({"retry_after": 7}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": 250, "retry_after": 9}, 0.25),
        ({"metadata": {"headers": {"Retry-After": "13", "X-RateLimit-Reset": "1741305600000"}}}, 13.0),
        ({"metadata": {"headers": {"retry-after-ms": "500"}, "provider_name": "P"}}, 0.5),
        ({"metadata": {"retry_after_seconds": 4}}, 4.0),
        ({"headers": {"Retry-After": 3}}, 3.0),
        ({"message": "Please try again in 1.5s."}, None),
        ({"retry_after": 1e300}, 24 * 3600.0),
        ({"retry_after": -1}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": 10**400}, None),
        ({"retry_after": True}, None),
        ({"retry_after": None, "metadata": ["x"]}, None),
        ({"metadata": {"metadata": {"metadata": {"metadata": {"retry_after": 1}}}}}, None),
    ],
)
def test_how_long_an_error_asks_to_wait(error: dict[str, Any], seconds: float | None) -> None:
    """It stands in the error, beside it, or where a gateway puts its upstream's headers; words are no figures."""
    body = json.dumps({"error": error})
    assert error_in(body.encode()) == DialectError(error.get("message"), retry_after=seconds)
    beside = json.dumps({"error": {"code": 429}, **error})
    assert error_in(beside.encode()) == DialectError(code="429", retry_after=seconds)
    refusal = OpenAIChat().read(Event(body.encode())).error
    assert refusal is not None
    assert refusal.refusal("x").retry_after == seconds


@pytest.mark.parametrize(
    ("dialect", "value"),
    [
        (OpenAIChat(), {"error": {"message": "m", "code": 429}, "retry_after": 7}),
        (AnthropicMessages(), {"type": "error", "error": {"message": "m", "code": 429}, "retry_after": 7}),
        (OpenAIResponses(), {"type": "error", "error": {"message": "m", "code": 429, "retry_after": 7}}),
        (
            OpenAIResponses(),
            {"type": "response.failed", "response": {"error": {"message": "m", "code": 429}}, "retry_after": 7},
        ),
    ],
)
def test_an_error_in_a_stream_says_how_long_to_wait(dialect: Dialect, value: dict[str, Any]) -> None:
    """In the error, or beside it."""
    assert dialect.read(Event(json.dumps(value).encode())).error == DialectError("m", code="429", retry_after=7.0)


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
