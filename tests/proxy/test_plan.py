"""Which attempts a route allows for one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

import pytest
import trustme

from sseflow import EmptyStream, UpstreamLost, UpstreamRefused
from sseflow.dialects import AnthropicMessages, Dialect, OpenAIChat, OpenAIResponses, PlainSSE
from sseflow.http import Origin, connect
from sseflow.proxy._build import build
from sseflow.proxy._config import load
from sseflow.proxy._probe import ENOUGH, Probe
from sseflow.proxy._routing import Path, Plan, Provider, Routing
from sseflow.proxy._settings import Route, Upstream
from sseflow.resilience import BreakerOptions, CircuitOpen, KeysExhausted, RetryPolicy, Secret

LIMITED = UpstreamRefused("limited", status=429, retry_after=5)
BROKEN = UpstreamRefused("broken", status=503)
WRONG = UpstreamRefused("wrong", status=400)
LOST = UpstreamLost("lost", reason="connection_terminated")


def upstream(name: str, *keys: str, **options: Any) -> Upstream:
    return Upstream(name=name, origin=Origin("http", name, 80), keys=tuple(map(Secret, keys)), **options)


def path(*upstreams: Upstream, **options: Any) -> Path:
    route = Route(upstreams=upstreams, **options)
    return Path(route, [Provider(one, dial=connect) for one in upstreams])


def plan(path: Path, **options: Any) -> Plan:
    return Plan(path, path.in_order(), endpoint="openai-chat", **{"model": "m", **options})


def walk(path: Path, *errors: Exception, now: float = 0.0, **options: Any) -> list[str]:
    """The attempts of a plan in which one after another fails."""
    made = plan(path, **options)
    tried = []
    for error in errors:
        attempt = made.next(now)
        if attempt is None:
            break
        tried.append(attempt.provider.settings.name + ("" if attempt.key is None else f":{attempt.key.reveal()}"))
        made.failed(attempt, error, now)
    return tried


def test_all_keys_of_a_provider_come_before_the_next_provider() -> None:
    """As long as it is the keys that are the matter."""
    route = path(upstream("a", "k0", "k1"), upstream("b", "k2"))
    assert walk(route, LIMITED, LIMITED, LIMITED, LIMITED) == ["a:k0", "a:k1", "b:k2"]


@pytest.mark.parametrize("error", [BROKEN, LOST, EmptyStream("empty")])
def test_what_is_wrong_with_a_provider_is_so_with_all_of_its_keys(error: Exception) -> None:
    """They are not tried, and nothing is held against them."""
    route = path(upstream("a", "k0", "k1"), upstream("b", "k2"))
    assert walk(route, error, error, error) == ["a:k0", "b:k2"]
    assert walk(route, error) == ["a:k0"]


def test_what_is_wrong_with_a_request_is_so_everywhere() -> None:
    """Nobody else is asked."""
    assert walk(path(upstream("a", "k0"), upstream("b")), WRONG, WRONG) == ["a:k0"]


def test_keys_that_are_out_are_left_out_until_their_time_has_come() -> None:
    """The provider behind them is called at once."""
    route = path(upstream("a", "k0"), upstream("b"))
    assert walk(route, LIMITED, BROKEN) == ["a:k0", "b"]
    assert walk(route, BROKEN, BROKEN, now=4.9) == ["b"]
    assert walk(route, BROKEN, BROKEN, now=5.0) == ["a:k0", "b"]


def test_why_there_is_no_attempt() -> None:
    """The pool's words, or the breaker's."""
    route = path(upstream("a", "k0"))
    walk(route, LIMITED)
    made = plan(route)
    assert made.next(1.0) is None
    assert isinstance(made.refused, KeysExhausted)
    assert made.refused.retry_after == 4
    route = path(upstream("a"), breaker=BreakerOptions(failures=1))
    walk(route, BROKEN)
    made = plan(route)
    assert made.next(1.0) is None
    assert isinstance(made.refused, CircuitOpen)


def test_each_model_has_a_breaker_of_its_own() -> None:
    """One that fails does not take the others with it."""
    route = path(upstream("a"), breaker=BreakerOptions(failures=1))
    walk(route, BROKEN)
    assert plan(route, model="other").next(0.0) is not None


def test_a_client_that_brings_a_key_has_no_other() -> None:
    """Where that is passed on; elsewhere it makes no difference."""
    assert walk(path(upstream("a", "k0")), BROKEN, brings_key=True) == ["a"]
    assert walk(path(upstream("a", "k0", pass_credentials=False)), BROKEN, brings_key=True) == ["a:k0"]


def test_weights_say_how_often_an_upstream_is_the_first() -> None:
    """All are tried in the end."""
    route = path(upstream("a"), upstream("b"), weights=(3, 1))
    firsts = Counter(walk(route, BROKEN, BROKEN)[0] for _ in range(2000))
    assert 1300 < firsts["a"] < 1700
    assert sorted(walk(route, BROKEN, BROKEN)) == ["a", "b"]


def test_what_can_fail_over() -> None:
    """A route with one attempt passes on what comes as it comes."""
    assert not path(upstream("a")).looks_ahead
    assert not path(upstream("a", "k0")).can_fail_over
    assert path(upstream("a", "k0")).looks_ahead
    assert path(upstream("a", "k0", "k1")).can_fail_over
    assert path(upstream("a"), upstream("b")).can_fail_over
    assert path(upstream("a"), retry=RetryPolicy(attempts=2)).can_fail_over


def test_the_longest_path_that_fits_is_meant() -> None:
    """Whole segments count, and the path is taken away."""
    one, other = upstream("a"), upstream("b")
    routing = Routing([Route(path=b"/x", upstreams=(one,)), Route(path=b"/x/y", upstreams=(other,))], dial=connect)

    def found(target: bytes) -> tuple[bytes, bytes] | None:
        place = routing.find(target)
        return None if place is None else (place[0].settings.path, place[1])

    assert found(b"/x/v1?a=b") == (b"/x", b"/v1?a=b")
    assert found(b"/x/y/v1") == (b"/x/y", b"/v1")
    assert found(b"/x/yz") == (b"/x", b"/yz")
    assert found(b"/x") == (b"/x", b"/")
    assert found(b"/x?a") == (b"/x", b"/?a")
    assert found(b"/xy") is None
    assert found(b"*") is None


def test_a_change_keeps_what_has_not_changed() -> None:
    """Connections of a provider that is the same, and what is known of keys that are."""
    before = Routing([Route(upstreams=(upstream("a", "k0"), upstream("b", "k1")))], dial=connect)
    a, b = before.providers
    assert b.keys is not None
    b.keys.judge(next(iter(b.settings.keys)), LIMITED, 0.0)
    changed = upstream("b", "k1", "k2", max_idle=1)
    after = Routing([Route(upstreams=(upstream("a", "k0"), changed))], dial=connect, before=before)
    new_a, new_b = after.providers
    assert new_a is a
    assert new_b is not b
    assert new_b.keys is not None
    assert [key.state.value for key in new_b.keys.snapshot(1.0)] == ["temporary", "valid"]


def test_a_change_elsewhere_leaves_the_breakers_of_a_route() -> None:
    """And its budget; only what has changed begins anew."""
    breaker = BreakerOptions(failures=1)

    def routes(limit: int) -> list[Route]:
        one = Route(path=b"/a", upstreams=(upstream("a", "k0"),), breaker=breaker)
        return [one, Route(path=b"/b", upstreams=(upstream("b"),), breaker=breaker, replay_body=limit)]

    before = Routing(routes(1), dial=connect)
    for path_ in before.paths:
        walk(path_, BROKEN)
    after = Routing(routes(2), dial=connect, before=before)
    kept, new = sorted(after.paths, key=lambda path: path.settings.path)
    assert kept in before.paths
    assert new not in before.paths
    assert plan(kept).next(1.0) is None
    assert plan(new).next(1.0) is not None


@pytest.mark.parametrize("ca", [False, True], ids=["the system's authorities", "a file of them"])
def test_a_file_that_is_read_again_changes_nothing(ca: bool, tmp_path: FilePath) -> None:
    """Over TLS, too, what is the same stays: connections, keys, breakers. Another authority is another upstream."""
    authority, file = tmp_path / "ca.pem", tmp_path / "sseflow.toml"
    authority.write_bytes(trustme.CA().cert_pem.bytes())
    file.write_text(
        "[providers.a]\ntype = 'openai'\nkeys = ['env:K']\n" + (f"ca = '{authority}'\n" if ca else "") + "[breaker]\n"
    )

    def routes() -> Sequence[Route]:
        return build(load(file, {"K": "sk-a"})).routes

    before = Routing(routes(), dial=connect)
    after = Routing(routes(), dial=connect, before=before)
    assert list(after.providers) == list(before.providers)
    assert after.paths == before.paths
    if ca:
        authority.write_bytes(trustme.CA().cert_pem.bytes())
        assert list(Routing(routes(), dial=connect, before=after).providers) != list(after.providers)


CHAT = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
WORD = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("dialect", "opening", "content"),
    [
        (OpenAIChat(), b": hello\n\n" + CHAT, WORD),
        (OpenAIChat(), CHAT, STOP),
        (
            AnthropicMessages(),
            b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
            b'event: ping\ndata: {"type":"ping"}\n\n',
            b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"x"}}\n\n',
        ),
        (
            OpenAIResponses(),
            b'event: response.created\ndata: {"type":"response.created","response":{"id":"r"}}\n\n',
            b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n',
        ),
        (PlainSSE(), b": hello\n\nid: 1\n\n", b"data: x\n\n"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_content_is_what_is_waited_for(dialect: Dialect, opening: bytes, content: bytes, size: int) -> None:
    """What opens a stream is none, whatever the chunks; its end behind events is as good."""
    probe = Probe(dialect)
    chunks = [opening[at : at + size] for at in range(0, len(opening), size)]
    assert not any([probe.feed(chunk) for chunk in chunks])
    assert any([probe.feed(content[at : at + size]) for at in range(0, len(content), size)])


def test_the_first_event_is_enough_where_that_is_asked_for() -> None:
    """It is no error."""
    assert Probe(OpenAIChat(), first_event=True).feed(CHAT)
    with pytest.raises(UpstreamRefused):
        Probe(OpenAIChat(), first_event=True).feed(b'data: {"error":{"message":"no"}}\n\n')


def test_an_end_without_data_is_a_failure_at_once() -> None:
    """Nobody waits for the connection to close."""
    with pytest.raises(EmptyStream):
        Probe(OpenAIChat()).feed(DONE)


def test_what_is_too_long_to_be_held_is_delivered() -> None:
    """A first event of any size is the client's affair."""
    probe = Probe(OpenAIChat())
    assert not probe.feed(b"data: " + b"x" * (ENOUGH - 10))
    assert probe.feed(b"x" * 20)
