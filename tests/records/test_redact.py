"""What is secret by its name does not stay, and nothing else is touched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow.records import redact_json, redacting

SECRET = (
    "client_secret",
    "PASSWORD",
    "dbPasswordHash",
    "Proxy-Authorization",
    "aws_credentials",
    "token",
    "access_token",
    "accessToken",
    "refresh_token",
    "id_token",
    "api_token",
    "api_key",
    "apikey",
    "api-key",
    "apiKey",
    "X-API-Key",
    "auth_token",
    "bearer_token",
    "sessionToken",
    "security_token",
    "private_key",
    "signing_key",
    "secret_key",
)
NOT_SECRET = (
    "max_tokens",
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "tokens",
    "token_count",
    "key",
    "text",
    "keyword",
    "monkey",
)

VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SECRET, *NOT_SECRET]), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", SECRET)
def test_a_value_with_a_secret_name_is_redacted(name: str) -> None:
    """Whatever it is, at any depth; the rest keeps its bytes."""
    for value in ("x", 12, None, ["x"], {"a": {"b": "x"}}):
        data = f'[ {{"a":1.50 , {json.dumps(name)} : {json.dumps(value)} , "b":"\\u0041"}} ]'
        expected = f'[ {{"a":1.50 , {json.dumps(name)} : "[REDACTED]" , "b":"\\u0041"}} ]'
        assert redact_json(data.encode()) == expected.encode()


@pytest.mark.parametrize("name", NOT_SECRET)
def test_counters_and_texts_are_not_redacted(name: str) -> None:
    """The very object is returned."""
    data = json.dumps({name: 1, "text": "my password: token"}).encode()
    assert redact_json(data) is data


def test_a_name_that_is_spelled_with_escapes_is_known() -> None:
    """As a reader of JSON reads it."""
    assert redact_json(b'{"\\u0074oken": "x"}') == b'{"\\u0074oken": "[REDACTED]"}'


@pytest.mark.parametrize("data", [b"", b'{"token": "x"', b'{"token": "x"} {}', b'{"a": "\xff"}', b"[" * 200_000])
def test_what_is_no_json_is_not_kept(data: bytes) -> None:
    """It cannot be said what in it is secret."""
    assert json.loads(redact_json(data)) == {"redacted": "it was said to be JSON, and is none"}


def _redacted(value: object) -> object:
    if isinstance(value, dict):
        return {name: "[REDACTED]" if name in SECRET else _redacted(inner) for name, inner in value.items()}
    return [_redacted(inner) for inner in value] if isinstance(value, list) else value


@given(VALUES, st.booleans())
def test_redaction_is_the_same_for_every_value(value: object, ascii: bool) -> None:
    """It finds what a walk through the decoded value finds, and redacting twice changes nothing more."""
    data = json.dumps(value, ensure_ascii=ascii).encode(errors="replace")
    redacted = redact_json(data)
    assert json.loads(redacted) == _redacted(json.loads(data))
    assert redact_json(redacted) == redacted


def test_what_fits_a_pattern_is_taken_out_of_texts() -> None:
    """Of what a string says, however it is written; names and everything else stay as they came."""
    redact = redacting([r"\b\d{3}-\d{2}-\d{4}\b", "caf\u00e9"])
    data = b'{ "123-45-6789" : "is 123-45-6789.", "n": [1.50, "caf\\u00e9"], "token": "t" }'
    assert redact(data) == (b'{ "123-45-6789" : "is [REDACTED].", "n": [1.50, "[REDACTED]"], "token": "[REDACTED]" }')


def test_what_fits_no_pattern_is_the_same_object() -> None:
    """Also with patterns, nothing is written anew for nothing."""
    data = b'{"a": "b"}'
    assert redacting(["x"])(data) is data
    assert redacting([])(data) is data
