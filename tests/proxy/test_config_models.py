"""Which provider is meant, how URLs are joined, and which models a type of provider would spoil."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import RequestError
from sseflow.proxy._models import (
    BASE_URLS,
    ModelSpoiled,
    check_model,
    host_of,
    is_provider_name,
    join,
    looks_like_openrouter,
    spoils_model,
)

OPENROUTER = BASE_URLS["openrouter"]


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("https://openrouter.ai/api/v1", "openrouter.ai"),
        ("openrouter.ai", "openrouter.ai"),
        ("openrouter.ai/api/v1", "openrouter.ai"),
        ("openrouter.ai:443", "openrouter.ai"),
        ("https://openrouter.ai:8443/api", "openrouter.ai"),
        ("", ""),
        ("   ", ""),
        ("https://", ""),
        ("https://[::1", ""),
        ("://nothing", ""),
        ("  https://openrouter.ai  ", "openrouter.ai"),
        ("HTTPS://OPENROUTER.AI/api", "openrouter.ai"),
        ("https://openrouter.ai./api", "openrouter.ai"),
        ("https://openrouter.ai@evil.example/api", "evil.example"),
        ("https://user:secret@openrouter.ai/api", "openrouter.ai"),
        ("user@openrouter.ai/api", "openrouter.ai"),
        ("https://evil.example\\@openrouter.ai", "evil.example"),
        ("http://[::1]:8000/v1", "::1"),
        ("http://[0:0:0:0:0:0:0:1]/v1", "::1"),
        ("http://[2001:DB8::A]/v1", "2001:db8::a"),
        ("[::1]:8000", "::1"),
        ("//openrouter.ai/api", "openrouter.ai"),
        ("unix:/run/vllm.sock", "unix"),
        ("127.0.0.1:8000", "127.0.0.1"),
    ],
)
def test_the_host_of_a_base_url(base_url: str, host: str) -> None:
    """In lower case, without port, user name, final dot and brackets, whether or not there is a scheme; or empty."""
    assert host_of(base_url) == host


@given(st.text(max_size=60))
def test_whatever_the_base_url_its_host_is_a_text(base_url: str) -> None:
    """Nothing that stands there raises, and there is no upper case in what comes out."""
    assert host_of(base_url) == host_of(base_url).lower()


@pytest.mark.parametrize(
    ("name", "base_url", "is_it"),
    [
        ("openrouter", "https://api.example.com", True),
        ("OpenRouter", "https://api.example.com", True),
        ("x", "https://openrouter.ai/api/v1", True),
        ("x", "https://eu.openrouter.ai/api/v1", True),
        ("x", "https://OpenRouter.AI./api/v1", True),
        ("x", "openrouter.ai", True),
        ("x", "https://notopenrouter.ai/api/v1", False),
        ("x", "https://openrouter.ai.example.com/api/v1", False),
        ("x", "https://example.com/openrouter.ai", False),
        ("x", "https://openrouter.ai@example.com", False),
        ("openrouter-2", "https://api.example.com", False),
        ("openai", "https://api.openai.com/v1", False),
    ],
)
def test_openrouter_is_known_by_its_name_or_its_host(name: str, base_url: str, is_it: bool) -> None:
    """The whole name, whatever the case; the whole host, or one below it."""
    assert looks_like_openrouter(name, base_url) is is_it


@pytest.mark.parametrize(
    ("type", "name", "base_url", "model", "spoils"),
    [
        ("openai", "x", OPENROUTER, "anthropic/claude-sonnet-4", True),
        ("openai", "openrouter", "https://api.example.com", "a/b", True),
        ("openai", "x", OPENROUTER, "  a/b  ", True),
        ("openai", "x", OPENROUTER, "a/b/c", True),
        ("openai", "x", OPENROUTER, "gpt-5", False),
        ("openai", "x", OPENROUTER, "/b", False),
        ("openai", "x", OPENROUTER, "a/", False),
        ("openai", "x", OPENROUTER, " / ", False),
        ("openai", "x", OPENROUTER, "a/  ", False),
        ("openai", "x", OPENROUTER, "", False),
        ("openai", "x", "https://api.openai.com/v1", "a/b", False),
        ("openai", "x", "https://notopenrouter.ai", "a/b", False),
        ("openrouter", "openrouter", OPENROUTER, "a/b", False),
        ("openai-compat", "openrouter", OPENROUTER, "a/b", False),
        ("anthropic", "openrouter", OPENROUTER, "a/b", False),
    ],
)
def test_only_what_speaks_natively_to_openrouter_spoils_a_model_with_a_slash(
    type: str, name: str, base_url: str, model: str, spoils: bool
) -> None:
    """All three hold, or nothing is refused: the native type, a slash with text on both sides, and OpenRouter."""
    assert spoils_model(type, name, base_url, model) is spoils


def test_a_request_for_a_model_that_would_be_spoilt_is_refused_and_the_type_is_blamed() -> None:
    """The error is the configuration's, is not worth a retry, says which type to choose, and repeats no name."""
    with pytest.raises(ModelSpoiled) as caught:
        check_model("openai", "x", OPENROUTER, "secret-vendor/secret-model")
    error = caught.value
    assert isinstance(error, RequestError)
    assert (error.status, error.close, error.kind, error.retryable) == (400, False, "config", False)
    assert 'type = "openai"' in str(error)
    assert 'type = "openrouter"' in str(error)
    assert "secret" not in str(error)
    check_model("openrouter", "x", OPENROUTER, "secret-vendor/secret-model")


@pytest.mark.parametrize(
    ("base", "rest", "joined"),
    [
        (b"https://openrouter.ai/api/v1", b"/v1/chat/completions", b"https://openrouter.ai/api/v1/chat/completions"),
        (b"https://openrouter.ai/api", b"/v1/chat/completions", b"https://openrouter.ai/api/v1/chat/completions"),
        (b"https://api.anthropic.com", b"/v1/messages", b"https://api.anthropic.com/v1/messages"),
        (b"https://api.anthropic.com/", b"/v1/messages", b"https://api.anthropic.com/v1/messages"),
        (b"https://api.openai.com/v1/", b"/v1/responses", b"https://api.openai.com/v1/responses"),
        (b"https://api.openai.com/v1", b"/chat/completions", b"https://api.openai.com/v1/chat/completions"),
        (b"/v1", b"/v1", b"/v1"),
        (b"/v1", b"/v1?page=2", b"/v1?page=2"),
        (b"/v1", b"/v1/v1/x", b"/v1/v1/x"),
        (b"/v1", b"/v10/x", b"/v1/v10/x"),
        (b"/v1", b"/v1beta/x", b"/v1/v1beta/x"),
        (b"/api-v1", b"/v1/x", b"/api-v1/v1/x"),
        (b"", b"/v1/x", b"/v1/x"),
        (b"/api", b"", b"/api"),
        (b"/api", b"?a=1", b"/api?a=1"),
        (b"/api", b"x", b"/api/x"),
        (b"/v1", b"/", b"/v1/"),
    ],
)
def test_the_version_is_in_a_url_once(base: bytes, rest: bytes, joined: bytes) -> None:
    """A base that ends in /v1, and a path that begins with it, are joined to one /v1; nothing else is taken away."""
    assert join(base, rest) == joined


@pytest.mark.parametrize("name", ["a", "openai", "open-ai-2", "0", "a" * 63])
def test_a_provider_may_be_called_so(name: str) -> None:
    """Lower-case letters and digits, with single hyphens between them."""
    assert is_provider_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a--b", "A", "a_b", "a b", "a/b", "ä", "a.b", "a\n", "a" * 64, "\u0661"]
)
def test_a_provider_may_not_be_called_so(name: str) -> None:
    """Anything else would be something else in a path, in a label or in a line of a log."""
    assert not is_provider_name(name)
