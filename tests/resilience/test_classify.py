"""What an error means, by what is known of it first and by its words last."""

from __future__ import annotations

import concurrent.futures

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sseflow import (
    ConfigurationError,
    CutMidEvent,
    EmptyStream,
    HeldTooMuch,
    IdleTimeout,
    ProgressTimeout,
    RequestError,
    Truncated,
    UpstreamLost,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamTimeout,
)
from sseflow.resilience import Classification, Kind, carry, classify, empty_answer


def refused(
    status: int, said: str | None = None, *, type: str | None = None, code: str | None = None, wait: float | None = None
) -> UpstreamRefused:
    return UpstreamRefused("the upstream refused", status=status, said=said, type=type, code=code, retry_after=wait)


def check(error: Exception, kind: Kind, retryable: bool) -> None:
    found = classify(error)
    assert (found.kind, found.retryable) == (kind, retryable)


STATUSES = {
    400: (Kind.CONFIG, False),
    401: (Kind.AUTH, False),
    402: (Kind.USAGE_LIMIT, False),
    403: (Kind.AUTH, False),
    404: (Kind.CONFIG, False),
    408: (Kind.TIMEOUT, True),
    413: (Kind.CONFIG, False),
    422: (Kind.CONFIG, False),
    429: (Kind.RATE_LIMIT, True),
    500: (Kind.GENERIC, True),
    501: (Kind.GENERIC, False),
    502: (Kind.TIMEOUT, True),
    503: (Kind.TIMEOUT, True),
    504: (Kind.TIMEOUT, True),
    529: (Kind.OVERLOADED, True),
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items(), ids=map(str, STATUSES))
def test_a_status_is_a_kind(status: int, expected: tuple[Kind, bool]) -> None:
    """408, 429, 500, 502, 503, 504 and 529 are worth another attempt; it is all the same where the status stands."""
    check(refused(status), *expected)
    found = classify(refused(status))
    assert found.status == status
    if status in {401, 403, 408, 429, 500, 502, 503, 504, 529}:
        check(ValueError(f"POST /v1/x: status code {status}"), *expected)


CODES = {
    "overloaded_error": (Kind.OVERLOADED, True),
    "insufficient_quota": (Kind.USAGE_LIMIT, False),
    "billing_error": (Kind.USAGE_LIMIT, False),
    "authentication_error": (Kind.AUTH, False),
    "invalid_api_key": (Kind.AUTH, False),
    "missing_api_key": (Kind.MISSING_KEY, False),
    "permission_error": (Kind.AUTH, False),
    "rate_limit_error": (Kind.RATE_LIMIT, True),
    "rate_limit_exceeded": (Kind.RATE_LIMIT, True),
    "provider_disabled": (Kind.PROVIDER_DISABLED, False),
    "timeout_error": (Kind.TIMEOUT, True),
    "content_filter": (Kind.CONTENT_FILTER, False),
    "context_length_exceeded": (Kind.CONFIG, False),
    "model_not_found": (Kind.CONFIG, False),
}


@pytest.mark.parametrize(("code", "expected"), CODES.items(), ids=CODES)
def test_a_dialects_error_is_a_kind(code: str, expected: tuple[Kind, bool]) -> None:
    """As type or as code, under a status that says little, and in the JSON of a text."""
    check(refused(502, type=code), *expected)
    check(refused(503, code=code), *expected)
    check(ValueError(f'503: {{"error": {{"message": "no", "code": "{code}"}}}}'), *expected)


ERRORS = {
    "lost": (UpstreamLost("authentication of the peer failed", reason="tls_error"), Kind.TIMEOUT, True),
    "malformed": (UpstreamProtocolError("", reason="http_protocol_error"), Kind.TIMEOUT, True),
    "late": (UpstreamTimeout("", reason="connection_timeout"), Kind.TIMEOUT, True),
    "idle": (IdleTimeout("", reason="connection_read_timeout"), Kind.STREAM_SILENCE_TIMEOUT, True),
    "no progress": (ProgressTimeout("", reason="connection_read_timeout"), Kind.STREAM_SILENCE_TIMEOUT, True),
    "truncated": (Truncated("the stream ended before message_stop"), Kind.TIMEOUT, True),
    "cut": (CutMidEvent(), Kind.TIMEOUT, True),
    "empty": (EmptyStream(), Kind.GENERIC, True),
    "our limit": (HeldTooMuch(1, 2), Kind.GENERIC, False),
    "request": (RequestError(408, "timeout"), Kind.CONFIG, False),
    "option": (ConfigurationError("timeout"), Kind.CONFIG, False),
    "reset": (ConnectionResetError(), Kind.TIMEOUT, True),
    "broken": (trio.BrokenResourceError(), Kind.TIMEOUT, True),
    "end": (EOFError(), Kind.TIMEOUT, True),
    "too slow": (trio.TooSlowError(), Kind.TIMEOUT, True),
    "deadline": (TimeoutError("invalid model"), Kind.TIMEOUT, True),
    "somebody else's cancellation": (concurrent.futures.CancelledError(), Kind.TIMEOUT, True),
    "unknown": (ValueError("what?"), Kind.GENERIC, False),
    "without words": (ValueError(), Kind.GENERIC, False),
}


@pytest.mark.parametrize(("error", "kind", "retryable"), ERRORS.values(), ids=ERRORS)
def test_an_exception_is_a_kind(error: Exception, kind: Kind, retryable: bool) -> None:
    """Its class decides, whatever its words: cut and silent streams are worth another attempt."""
    check(error, kind, retryable)


WORDS = {
    "chat interrupted": (Kind.GENERIC, False),
    "request interrupted by user, status 503": (Kind.GENERIC, False),
    "operation interrupted: overloaded": (Kind.GENERIC, False),
    "the model is overloaded": (Kind.OVERLOADED, True),
    "Overloaded: you exceeded your quota": (Kind.OVERLOADED, True),
    "You exceeded your current quota": (Kind.USAGE_LIMIT, False),
    "Your credit balance is too low": (Kind.USAGE_LIMIT, False),
    "Payment Required": (Kind.USAGE_LIMIT, False),
    "429: check your plan and billing details": (Kind.USAGE_LIMIT, False),
    "billing of unauthorized user": (Kind.USAGE_LIMIT, False),
    "missing api key": (Kind.MISSING_KEY, False),
    "authentication failed with 429": (Kind.AUTH, False),
    "Unauthorized": (Kind.AUTH, False),
    "Incorrect API key provided": (Kind.AUTH, False),
    "Forbidden": (Kind.AUTH, False),
    "forbidden: model not found": (Kind.CONFIG, False),
    "Rate limit reached": (Kind.RATE_LIMIT, True),
    "Too Many Requests": (Kind.RATE_LIMIT, True),
    "status 429: invalid model": (Kind.CONFIG, False),
    "status 503: provider disabled": (Kind.PROVIDER_DISABLED, False),
    "request timed out": (Kind.TIMEOUT, True),
    "timeout: unknown model": (Kind.CONFIG, False),
    "context deadline exceeded: unknown model": (Kind.TIMEOUT, True),
    "unexpected EOF": (Kind.TIMEOUT, True),
    "write: broken pipe": (Kind.TIMEOUT, True),
    "connection reset by peer": (Kind.TIMEOUT, True),
    "connection refused": (Kind.TIMEOUT, True),
    "http2: server sent GOAWAY and closed the connection": (Kind.TIMEOUT, True),
    "http2: stream closed": (Kind.TIMEOUT, True),
    "http2: client connection lost": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; NO_ERROR; received from peer": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; INTERNAL_ERROR; received from peer": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; REFUSED_STREAM; received from peer": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; CANCEL; received from peer": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; ENHANCE_YOUR_CALM; received from peer": (Kind.TIMEOUT, True),
    "stream error: stream ID 5; PROTOCOL_ERROR; received from peer": (Kind.GENERIC, False),
    "stream error: stream ID 5; CANCEL": (Kind.GENERIC, False),
    "stream closed before message_stop": (Kind.TIMEOUT, True),
    "stream closed before response.completed": (Kind.TIMEOUT, True),
    "The model `gpt-9` does not exist": (Kind.CONFIG, False),
    "This model's maximum context length is 8192 tokens": (Kind.CONFIG, False),
    "internal server error": (Kind.GENERIC, True),
    "500: invalid model": (Kind.CONFIG, False),
    "context canceled": (Kind.GENERIC, False),
    "No tool output found for function call call_1": (Kind.GENERIC, False),
    "Item 'rs_1' of type 'reasoning' was provided without its required following item.": (Kind.GENERIC, False),
}


@pytest.mark.parametrize(("text", "expected"), WORDS.items(), ids=WORDS)
def test_words_are_a_kind_in_order(text: str, expected: tuple[Kind, bool]) -> None:
    """The first rule that applies, of: interrupted, overloaded, quota, credentials, limit, disabled, time, request."""
    check(ValueError(text), *expected)
    check(ValueError(text.upper()), *expected)


KNOWN_FIRST = {
    "an empty account under any status": (refused(429, code="insufficient_quota"), Kind.USAGE_LIMIT, False),
    "an empty account that is called a bad request": (
        refused(400, "Your credit balance is too low", type="invalid_request_error"),
        Kind.USAGE_LIMIT,
        False,
    ),
    "a limit that speaks of authentication": (refused(429, "authentication"), Kind.RATE_LIMIT, True),
    "credentials that speak of limits": (refused(401, "rate limit, overloaded"), Kind.AUTH, False),
    "a limit that means the model": (refused(429, "model not found"), Kind.CONFIG, False),
    "a ban that means the model": (refused(403, "model not found"), Kind.CONFIG, False),
    "a bad gateway that means the model": (refused(502, "unknown model"), Kind.CONFIG, False),
    "a bad request is not worth a retry by words": (refused(400, "timeout must be positive"), Kind.CONFIG, False),
    "nor is it for an overload in its words": (refused(404, "no such model: overloaded-7b"), Kind.CONFIG, False),
    "a 503 that means overloaded": (refused(503, "The model is overloaded"), Kind.OVERLOADED, True),
    "a 503 that means disabled": (refused(503, "provider is disabled"), Kind.PROVIDER_DISABLED, False),
    "a 500 that means a deadline": (refused(500, "deadline exceeded"), Kind.TIMEOUT, True),
    "a 524 that means a time-out": (refused(524, "a timeout occurred"), Kind.TIMEOUT, True),
}


@pytest.mark.parametrize(("error", "kind", "retryable"), KNOWN_FIRST.values(), ids=KNOWN_FIRST)
def test_what_is_known_counts_before_words(error: Exception, kind: Kind, retryable: bool) -> None:
    """Words may only say more where a status says little, or what else a request is wrong in."""
    check(error, kind, retryable)


STATUS_IN_TEXT = {
    "status 503": 503,
    "status code: 429": 429,
    "status_code=404": 404,
    "HTTP/1.1 502 Bad Gateway": 502,
    "HTTP 418": 418,
    "got 529 back": 529,
    "(504)": 504,
    "it was 503.": 503,
    "dial tcp 10.0.0.1:503": None,
    "dial tcp [::1]:503": None,
    "localhost:429 said 502": 502,
    "stream ID 503; PROTOCOL_ERROR": None,
    "stream 429": None,
    "took 0.503 s": None,
    "id-x503": None,
    "5030 tokens": None,
    "418 teapots": None,
}


@pytest.mark.parametrize(("text", "status"), STATUS_IN_TEXT.items(), ids=STATUS_IN_TEXT)
def test_a_status_is_found_in_a_text(text: str, status: int | None) -> None:
    """Behind the words, or one of those that matter alone; not a port, and not the number of a stream."""
    assert classify(ValueError(text)).status == status


PROVIDERS = {
    "openai-compat at azure": "openai-compat",
    "Azure OpenAI": "azure",
    "openrouter: openai/gpt": "openrouter",
    "bedrock anthropic": "bedrock",
    "Vercel for openai": "vercel",
    "Anthropic like OpenAI": "anthropic",
    "google or openai": "google",
    "api.openai.com": "openai",
    "somebody": None,
}


@pytest.mark.parametrize(("text", "provider"), PROVIDERS.items(), ids=PROVIDERS)
def test_a_provider_is_found_in_a_text(text: str, provider: str | None) -> None:
    """The longest name wins over `openai`; who is known is not looked for."""
    assert classify(ValueError(text)).provider == provider
    assert classify(ValueError(text), provider="mine").provider == "mine"


def test_an_error_that_carries_a_classification_keeps_it() -> None:
    """Whoever knows better says so once, whatever class, status and words say."""
    known = Classification(kind=Kind.CONTENT_FILTER, retryable=False)
    assert classify(carry(refused(503, "overloaded"), known)) is known
    assert classify(ExceptionGroup("", [carry(ValueError(), known)])) is known


def test_one_error_in_a_group_counts() -> None:
    """That is how a nursery raises it; of several nobody knows which one."""
    one = ExceptionGroup("", [ExceptionGroup("", [refused(429)])])
    check(one, Kind.RATE_LIMIT, True)
    check(ExceptionGroup("several", [refused(429), refused(429)]), Kind.GENERIC, False)


def test_errors_of_other_libraries_are_understood() -> None:
    """By the names that their attributes usually have; what is no status is none."""

    class SDKError(Exception):
        status_code: object = 429
        code = "insufficient_quota"

    check(SDKError("no"), Kind.USAGE_LIMIT, False)
    assert classify(SDKError("no")).status == 429
    SDKError.status_code = "429"
    assert classify(SDKError("no")).status is None
    SDKError.status_code = 200
    assert classify(SDKError("no")).status is None


CHAINS = {
    "code": refused(400, type="invalid_request_error", code="previous_response_not_found"),
    "words": refused(400, "Previous response with id 'resp_1' not found."),
    "foreign": ValueError("PREVIOUS RESPONSE WITH ID 'x' NOT FOUND"),
    "body": ValueError('400: {"error": {"message": "gone", "code": "previous_response_not_found"}}'),
}


@pytest.mark.parametrize("error", CHAINS.values(), ids=CHAINS)
def test_a_broken_chain_is_worth_another_attempt(error: Exception) -> None:
    """By its code or its words, though its status is one that is not tried again; it is OpenAI's, unless known."""
    found = classify(error)
    assert (found.kind, found.retryable, found.chain_broken) == (Kind.GENERIC, True, True)
    assert found.provider == "openai"
    assert classify(error, provider="mine").provider == "mine"


def test_other_errors_break_no_chain() -> None:
    """Both parts of the words have to be there."""
    for text in ("previous response with id 'x' is fine", "response not found"):
        assert not classify(refused(404, text)).chain_broken


def test_the_detail_is_what_the_upstream_said() -> None:
    """Its own words, or the message of the JSON that it sent; 500 code points of it and an ellipsis."""
    assert classify(refused(500, "It broke.")).detail == "It broke."
    assert classify(ValueError('POST /x: 500 {"error": {"message": "It broke."}}')).detail == "It broke."
    assert classify(ValueError("500 {not json}")).detail == "500 {not json}"
    assert classify(refused(500, "é" * 500)).detail == "é" * 500
    assert classify(refused(500, "é" * 501)).detail == "é" * 500 + "…"
    huge = '{"error": {"message": "x", "pad": "%s"}}' % ("p" * 65536)
    assert classify(ValueError(huge)).detail == huge[:500] + "…"


def test_the_detail_of_a_diagnosis_of_the_protocol_names_no_item() -> None:
    """What the items are called is between us and the provider."""
    for text in ("No tool output found for function call call_1.", "'rs_1' without its required 'reasoning' item"):
        detail = classify(refused(400, text)).detail
        assert detail.endswith("is missing in the conversation.")
        assert "_1" not in detail


def test_a_user_is_told_in_plain_words() -> None:
    """Each kind has its message; the wait is passed on."""
    found = classify(refused(429, "x", wait=7))
    assert found.message == "The provider is limiting the rate of requests."
    assert found.retry_after == 7
    assert [classify(refused(429, wait=wait)).retry_after for wait in (-1, float("nan"), 0)] == [None, None, 0]
    assert len({Classification(kind=kind, retryable=False).message for kind in Kind}) == len(Kind)


@given(st.text(), st.integers(-1, 1000) | st.none(), st.text() | st.none(), st.text() | st.none())
def test_anything_is_classified(text: str, status: int | None, type: str | None, code: str | None) -> None:
    """No words and no status raise, and the detail is bounded."""
    for error in (ValueError(text), refused(status or 502, text, type=type, code=code)):
        assert len(classify(error).detail) <= 501


@pytest.mark.parametrize("text", ["model " * 10_000, "http2 " * 10_000, "{" * 60_000, "cancel " * 9_000, ":5" * 30_000])
def test_long_texts_are_read_in_passing(text: str) -> None:
    """Nobody can write words that take long to read: it would be the faulthandler that ends this test."""
    assert attrs.evolve(classify(ValueError(text)), detail="").kind is Kind.GENERIC


@pytest.mark.parametrize("finish_reason", [None, "", "tool_calls", "content_filter", "what?"])
def test_an_answer_of_nothing_is_a_failure(finish_reason: str | None) -> None:
    """An unknown end, or one that promises tool calls, with nothing to show, is tried again; the detail names it."""
    error = empty_answer(finish_reason, text=" \n", tool_calls=0)
    assert error is not None
    check(error, Kind.GENERIC, True)
    assert repr(finish_reason) in classify(error).detail
    assert empty_answer(finish_reason, text="Hi", tool_calls=0) is None
    assert empty_answer(finish_reason, text="", tool_calls=1) is None


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_a_model_may_say_nothing(finish_reason: str) -> None:
    """A regular end is accepted with nothing in it."""
    assert empty_answer(finish_reason, text="", tool_calls=0) is None
