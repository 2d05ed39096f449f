"""Fields: what belongs to a hop stays there, what a proxy has to say is said, and nobody can say it for us."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

import pytest

from sseflow import ConfigurationError, Head
from sseflow.http import Address, Counted, Headers, NoBody, Origin
from sseflow.http import Request as HttpRequest
from sseflow.proxy._credentials import Credential, as_field, brings_key, passes
from sseflow.proxy._headers import (
    VIA_NAME,
    client_head,
    end_to_end,
    host_name,
    request_id,
    target_of,
    upstream_request,
)
from sseflow.resilience import Secret

from .peers import Answer, Request, chunked
from .rig import DONE, LAST, STOP, STREAM_HEAD, TOKEN, Rig, Starter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOP_BY_HOP = (
    b"Connection",
    b"Keep-Alive",
    b"Proxy-Connection",
    b"Proxy-Authenticate",
    b"Proxy-Authorization",
    b"TE",
    b"Trailer",
    b"Transfer-Encoding",
    b"Upgrade",
    b"HTTP2-Settings",
    b"X-Nominated",
)


async def seen(
    rig: Rig, *fields: bytes, line: bytes = b"GET /x HTTP/1.1", answer: bytes = OK
) -> tuple[Request, Answer]:
    """What the upstream sees of a request with ``fields``, and the client of ``answer``."""
    client = await rig.client(b"\r\n".join([line, *fields]) + b"\r\n\r\n")
    upstream = await rig.accept()
    head = await upstream.request()
    await upstream.send(answer)
    got = await client.answer()
    client.close()
    upstream.close()
    return head, got


async def test_fields_of_the_hop_are_not_passed_on(rig: Rig) -> None:
    """What RFC 9110, section 7.6.1, lists, and what `Connection` names, ends at the proxy, in both directions."""
    fields = (
        b"Connection: x-nominated, Keep-Alive, upgrade",
        b"X-Nominated: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"X-Kept: 1",
    )
    reply = b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Proxy-Authenticate: Basic", b"Content-Length: 0\r\n\r\n"])
    head, answer = await seen(rig, b"Host: a", b"Proxy-Authorization: Basic eDp5", *fields, answer=reply)
    assert head.get(b"x-kept") == b"1"
    assert answer.get(b"x-kept") == b"1"
    for name in HOP_BY_HOP:
        assert head.get(name) is None
        assert answer.get(name.lower()) is None


@pytest.mark.parametrize("name", [b"authorization", b"x-forwarded-for", b"Cookie", b"host", b"content-type"])
async def test_a_client_cannot_have_other_fields_removed(rig: Rig, name: bytes) -> None:
    """A `Connection` that names what the upstream decides by is an attack (T26)."""
    client = await rig.client(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + name + b"\r\n\r\n")
    assert (await client.answer()).status == 400
    assert rig.upstream.nobody_waits()
    await rig.log.next("refused")


async def test_via_says_who_was_there(rig: Rig) -> None:
    """Each hop adds itself, with the version in which the message came."""
    reply = b"HTTP/1.1 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 0\r\n\r\n"
    head, answer = await seen(rig, b"Via: 1.1 outer", b"Via: 1.0 middle", line=b"GET / HTTP/1.0", answer=reply)
    assert head.get(b"via") == b"1.1 outer, 1.0 middle, 1.0 " + VIA_NAME
    assert answer.get(b"via") == b"1.1 inner, 1.1 " + VIA_NAME


async def test_a_loop_is_noticed(rig: Rig) -> None:
    """A request that has come through this proxy before is a 508, not a call for each descriptor there is (T30)."""
    client = await rig.client(b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 x, 1.1 " + VIA_NAME + b"\r\n\r\n")
    assert (await client.answer()).status == 508
    assert rig.upstream.nobody_waits()
    assert (await rig.line())["verdict"] == "upstream_lost"


async def test_a_proxy_in_front_of_itself(rig: Rig) -> None:
    """The same end to end: an upstream that leads back here costs one round."""
    rig.change(upstream=Origin("http", "127.0.0.1", rig.listeners[0].address.port))
    client = await rig.client(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.answer()).status == 508
    assert [(await rig.line())["status"] for _ in range(2)] == [508, 508]


FORWARDED = (
    b"X-Forwarded-For: 1.2.3.4",
    b"X-Forwarded-Host: x.example",
    b"X-Forwarded-Proto: gopher",
    b"Forwarded: for=1",
)


async def test_forwarded_fields_are_set(rig: Rig) -> None:
    """The upstream learns who asked, for whom, and how."""
    head, _ = await seen(rig, b"Host: a.example:99")
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"
    assert head.get(b"x-forwarded-host") == b"a.example:99"
    assert head.get(b"x-forwarded-proto") == b"http"


async def test_forwarded_fields_of_strangers_are_replaced(rig: Rig) -> None:
    """What anybody can write is not believed (T27)."""
    head, _ = await seen(rig, b"Host: a", *FORWARDED)
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"
    assert head.get(b"x-forwarded-host") == b"a"
    assert head.get(b"x-forwarded-proto") == b"http"
    assert head.get(b"forwarded") is None


async def test_forwarded_fields_of_the_trusted_are_kept(starter: Starter) -> None:
    """A proxy in front of us is believed, and adds to the way that the request took."""
    rig = await starter(trusted=(ipaddress.ip_network("127.0.0.0/8"),))
    head, _ = await seen(rig, b"Host: a", *FORWARDED)
    assert head.get(b"x-forwarded-for") == b"1.2.3.4, 127.0.0.1"
    assert head.get(b"x-forwarded-host") == b"x.example"
    assert head.get(b"x-forwarded-proto") == b"gopher"
    assert head.get(b"forwarded") == b"for=1"
    head, _ = await seen(rig, b"Host: a")
    assert head.get(b"x-forwarded-for") == b"127.0.0.1"


@pytest.mark.parametrize(
    ("trusted", "expected"), [(False, b"unknown"), (True, b"1.2.3.4")], ids=["stranger", "trusted"]
)
async def test_a_peer_on_a_unix_socket_has_no_address(
    starter: Starter, tmp_path: Path, trusted: bool, expected: bytes
) -> None:
    """What comes through a Unix socket is `unknown`, or, if that is trusted, whoever it says it comes for."""
    rig = await starter(addresses=(Address(path=str(tmp_path / "s")),), trust_unix=trusted)
    head, _ = await seen(rig, b"Host: a", *FORWARDED)
    assert head.get(b"x-forwarded-for") == expected


async def test_the_host_is_the_upstreams(rig: Rig) -> None:
    """The upstream sees its own name, also if the target of the request was a whole address (T04)."""
    own = b"127.0.0.1:%d" % rig.upstream.port
    head, _ = await seen(rig, b"Host: a.example")
    assert head.get(b"host") == own
    head, _ = await seen(rig, b"Host: a", line=b"GET http://169.254.169.254/latest?x HTTP/1.1")
    assert (head.target, head.get(b"host"), head.get(b"x-forwarded-host")) == (b"/latest?x", own, b"169.254.169.254")
    head, _ = await seen(rig, b"Host: a", line=b"OPTIONS * HTTP/1.1")
    assert head.target == b"*"


async def test_the_prefix_of_the_upstream_is_in_front(rig: Rig) -> None:
    """An upstream with a path has that before each target."""
    rig.change(upstream=Origin("http", "127.0.0.1", rig.upstream.port, "/v1"))
    head, _ = await seen(rig, b"Host: a", line=b"GET /chat?x=y HTTP/1.1")
    assert head.target == b"/v1/chat?x=y"


async def test_nothing_is_asked_for_that_cannot_be_decoded(rig: Rig) -> None:
    """`Accept-Encoding` is ours: no stage could read what the client could."""
    head, _ = await seen(rig, b"Host: a", b"Accept-Encoding: gzip, br")
    assert head.get(b"accept-encoding") == b"identity"


async def test_an_id_that_is_short_and_plain_is_taken(rig: Rig) -> None:
    """The client's id goes to the upstream, back to the client, and into the log."""
    head, answer = await seen(rig, b"Host: a", b"X-Request-Id: abc-1.2_X")
    assert head.get(b"x-request-id") == b"abc-1.2_X"
    assert answer.get(b"x-request-id") == b"abc-1.2_X"
    assert (await rig.line())["id"] == "abc-1.2_X"


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 65, b"../../x", b"\xe4", b'"}'])
async def test_any_other_id_is_replaced(rig: Rig, given: bytes) -> None:
    """An id is data from outside: what could mean something somewhere is not taken."""
    head, answer = await seen(rig, b"Host: a", b"X-Request-Id: " + given)
    made = head.get(b"x-request-id")
    assert made is not None
    assert re.fullmatch(b"[0-9a-f]{32}", made)
    assert answer.get(b"x-request-id") == made
    assert (await rig.line())["id"] == made.decode()


async def test_the_upstreams_own_id_does_not_replace_ours(rig: Rig) -> None:
    """The client gets one id, and it is the one that the log has."""
    reply = b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n"
    _, answer = await seen(rig, b"Host: a", b"X-Request-Id: ours", answer=reply)
    assert answer.get(b"x-request-id") == b"ours"


async def test_the_id_is_in_error_bodies(rig: Rig) -> None:
    """Whoever reports an error can be found in the log."""
    client = await rig.client(b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id: mine\r\nExpect: x\r\n\r\n")
    answer = await client.answer()
    assert b'"request_id": "mine"' in answer.body
    assert answer.get(b"x-request-id") == b"mine"


async def test_event_streams_ask_not_to_be_buffered(rig: Rig) -> None:
    """Caches and proxies in front of us are told what this is, unless the upstream has told them."""
    body = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(TOKEN, STOP, DONE) + LAST
    _, answer = await seen(rig, b"Host: a", answer=STREAM_HEAD + body)
    assert answer.get(b"cache-control") == b"no-cache"
    assert answer.get(b"x-accel-buffering") == b"no"
    own = b"Cache-Control: no-store\r\nX-Accel-Buffering: yes\r\n"
    _, answer = await seen(rig, b"Host: a", answer=STREAM_HEAD + own + body)
    assert answer.get(b"cache-control") == b"no-store"
    assert answer.get(b"x-accel-buffering") == b"yes"


async def test_an_answer_has_a_date(rig: Rig) -> None:
    """A recipient with a clock adds `Date` where it is missing (RFC 9110, section 6.6.1), and only there."""
    _, answer = await seen(rig, b"Host: a")
    assert answer.get(b"date") is not None
    reply = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n"
    _, answer = await seen(rig, b"Host: a", answer=reply)
    assert answer.get(b"date") == b"Thu, 01 Jan 1970 00:00:00 GMT"


async def test_the_phrase_of_a_status_is_the_standards(rig: Rig) -> None:
    """What the upstream says behind its status is not passed on; an unknown status has nothing there (T03)."""
    _, answer = await seen(rig, b"Host: a", answer=OK.replace(b"OK", b"Looks fine"))
    assert answer.raw.startswith(b"HTTP/1.1 200 OK\r\n")
    _, answer = await seen(rig, b"Host: a", answer=OK.replace(b"200 OK", b"299 Hm"))
    assert answer.raw.startswith(b"HTTP/1.1 299 \r\n")


# Without a socket.


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        (b"LocalHost", b"localhost"),
        (b"localhost:8080", b"localhost"),
        (b"localhost:", b"localhost"),
        (b"[::1]:8080", b"[::1]"),
        (b"[::1]", b"[::1]"),
        (b"a.example:1:2", b"a.example:1:2"),
        (b"localhost.", b"localhost."),
        (b"", b""),
    ],
)
def test_the_name_in_an_authority(authority: bytes, name: bytes) -> None:
    """A name is told from its port; what is no authority is no name that anybody allows."""
    assert host_name(authority) == name


def test_an_absolute_target_is_the_host() -> None:
    """What stands in the target holds over `Host` (RFC 9112, section 3.2.2)."""
    request = HttpRequest(b"GET", b"http://b.example?q", ((b"host", b"a.example"),))
    assert target_of(request) == (b"/?q", b"b.example")


def test_ids_differ() -> None:
    """A made id is a new one each time."""
    assert request_id(None) != request_id(None)


def to_upstream(headers: Headers, framing: Counted | NoBody) -> Headers:
    request = HttpRequest(b"POST", b"/", headers)
    made = upstream_request(
        request, framing, target=b"/", authority="u", prefix="", peer="p", scheme="https", trusted=False, request_id="i"
    )
    return made.headers


def test_the_length_is_written_anew() -> None:
    """The length that was ruled is the one that is sent; a request without a body has none."""
    made = to_upstream(((b"content-length", b"5"),), Counted(5))
    assert [value for name, value in made if name.lower() == b"content-length"] == [b"5"]
    assert not any(name.lower() == b"content-length" for name, _ in to_upstream((), NoBody()))


# Credentials, without a socket.

SENT: Headers = (
    (b"host", b"a"),
    (b"authorization", b"Bearer sk-CANARY-1"),
    (b"x-api-key", b"sk-CANARY-2"),
    (b"api-key", b"sk-CANARY-3"),
    (b"x-goog-api-key", b"sk-CANARY-4"),
    (b"cookie", b"session=sk-CANARY-5"),
    (b"proxy-authorization", b"Basic sk-CANARY-6"),
    (b"sec-websocket-protocol", b"realtime, OpenAI-insecure-api-key.sk-CANARY-7,openai-beta.realtime-v1"),
    (b"sec-websocket-protocol", b"openai-organization.sk-CANARY-8"),
    (b"openai-organization", b"org-CANARY"),
    (b"openai-project", b"proj-CANARY"),
    (b"chatgpt-account-id", b"CANARY"),
    (b"anthropic-workspace-id", b"CANARY"),
    (b"openai_organization", b"org-CANARY"),
    (b"x-portkey-api-key", b"sk-CANARY-9"),
    (b"x-forwarded-access-token", b"sk-CANARY-10"),
    (b"x-amz-security-token", b"sk-CANARY-11"),
    (b"cf-aig-authorization", b"Bearer sk-CANARY-12"),
)
KEPT: Headers = (
    (b"anthropic-version", b"2023-06-01"),
    (b"anthropic-beta", b"a, b"),
    (b"anthropic-beta", b"c"),
    (b"openai-beta", b"assistants=v2"),
    (b"x-ai-bridge-actor-id", b"me"),
    (b"session_id", b"1"),
    (b"x-unknown", b"1"),
    (b"x-unknown", b""),
    (b"x-max-tokens", b"5"),
    (b"idempotency-key", b"i"),
)


def made(
    headers: Headers,
    *,
    target: bytes = b"/",
    trusted: bool = False,
    credential: Credential | None = None,
    pass_credentials: bool = True,
    tell_who: bool = True,
) -> HttpRequest:
    """The request that is made for an upstream."""
    return upstream_request(
        HttpRequest(b"POST", target, headers),
        NoBody(),
        target=target,
        authority="u",
        prefix="/v1",
        peer="p",
        scheme="https",
        trusted=trusted,
        request_id="i",
        credential=credential,
        pass_credentials=pass_credentials,
        tell_who=tell_who,
    )


OURS: Credential = (b"Authorization", b"Bearer sk-ours")


def test_a_key_is_written_where_its_provider_wants_it() -> None:
    """As a bearer's, or as it is."""
    assert as_field(Secret("sk-ours"), "authorization") == OURS
    assert as_field(Secret("sk-ours"), "x-api-key") == (b"X-Api-Key", b"sk-ours")


def test_without_credentials_of_ours_all_is_passed_on_as_it_came() -> None:
    """A proxy in front of one upstream does not know whose keys these are."""
    headers = tuple(f for f in SENT + KEPT if not f[0].startswith((b"proxy-", b"x-forwarded-", b"host")))
    passed = made(headers, target=b"/x?key=sk-CANARY&a=1")
    assert [field for field in passed.headers if field in headers] == list(headers)
    assert passed.target == b"/v1/x?key=sk-CANARY&a=1"


@pytest.mark.parametrize(
    "credential", [OURS, as_field(Secret("sk-ours"), "x-api-key"), None], ids=["bearer", "x-api-key", "none"]
)
def test_what_a_client_sent_for_us_never_reaches_an_upstream(credential: Credential | None) -> None:
    """Neither its keys nor what says whose account pays; if we have a key, exactly that one is there."""
    passed = made(SENT + KEPT, target=b"/x?key=sk-CANARY", trusted=True, credential=credential, pass_credentials=False)
    assert "CANARY" not in f"{passed.target!r}{passed.headers}"
    keys = [field for field in passed.headers if b"authorization" in field[0].lower() or b"key" in field[0].lower()]
    assert keys == [(b"idempotency-key", b"i"), *([] if credential is None else [credential])]
    assert [value for name, value in passed.headers if name == b"sec-websocket-protocol"] == [
        b"realtime, openai-beta.realtime-v1"
    ]


def test_what_is_not_about_credentials_is_kept_with_all_values() -> None:
    """Betas, feature flags, and what nobody here has heard of, in their order."""
    passed = made(SENT + KEPT, credential=OURS, pass_credentials=False)
    assert [field for field in passed.headers if field in KEPT] == list(KEPT)


def test_each_attempt_has_one_key_and_no_other() -> None:
    """The request for the next upstream is made of the client's own, not of that for the one before."""
    first = made(SENT, credential=as_field(Secret("sk-FIRST"), "authorization"), pass_credentials=False)
    second = made(SENT, credential=as_field(Secret("sk-SECOND"), "x-api-key"), pass_credentials=False)
    assert b"Bearer sk-FIRST" in dict(first.headers).values()
    assert "FIRST" not in str(second.headers)
    assert "SECOND" not in str(first.headers)
    assert b"Authorization" not in dict(second.headers)


BROUGHT: dict[str, tuple[Headers, Headers]] = {
    "a bearer token": (((b"authorization", b"Bearer c"),), ((b"authorization", b"Bearer c"),)),
    "a key": (((b"x-api-key", b"c"),), ((b"x-api-key", b"c"),)),
    "both": (((b"authorization", b"Bearer d"), (b"x-api-key", b"c")), ((b"x-api-key", b"c"),)),
    "none": (((b"cookie", b"c"), (b"openai-project", b"p")), (OURS,)),
    "an empty one": (((b"x-api-key", b""), (b"authorization", b"Bearer")), (OURS,)),
    "an empty one beside it": (((b"x-api-key", b""), (b"api-key", b"c")), ((b"api-key", b"c"),)),
    "its account": (
        ((b"authorization", b"Bearer c"), (b"openai-project", b"p")),
        ((b"authorization", b"Bearer c"), (b"openai-project", b"p")),
    ),
}


@pytest.mark.parametrize(("sent", "expected"), BROUGHT.values(), ids=BROUGHT)
def test_a_client_may_bring_its_own_key_where_that_is_wanted(sent: Headers, expected: Headers) -> None:
    """Then it goes instead of ours, with what belongs to it; of several, `X-Api-Key`. Never do two keys go."""
    ours = {field[0] for field in made(()).headers}
    passed = made(sent, credential=OURS)
    assert tuple(field for field in passed.headers if field[0] not in ours) == expected
    request = HttpRequest(b"GET", b"/", sent)
    assert passes(request, OURS, True) == brings_key(sent) == (OURS not in expected)
    assert not passes(request, OURS, False)
    assert passes(request, None, True)


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (b"/x", b"/x"),
        (b"/x?", b"/x?"),
        (b"/x?key=s", b"/x"),
        (b"/x?key=s&a=1", b"/x?a=1"),
        (b"/x?a=1&api_key=s&b=%20&b", b"/x?a=1&b=%20&b"),
        (b"/x?API-KEY=s&Access_Token=s&apikey=s&x-goog-api-key=s&token=s&subscription-key=s", b"/x"),
        (b"/x?%6bey=s&a", b"/x?a"),
        (b"/x?+key=s&a", b"/x?a"),
        (b"/x?key&a", b"/x?a"),
        (b"/x?monkey=1&keys=2&page_token=3&a=key=4", b"/x?monkey=1&keys=2&page_token=3&a=key=4"),
        (b"*", b"*"),
    ],
)
def test_a_key_in_the_query_is_left_out(target: bytes, kept: bytes) -> None:
    """However it is written; all other parameters stay as they came."""
    prefix = b"" if target == b"*" else b"/v1"
    assert made((), target=target, credential=OURS, pass_credentials=False).target == prefix + kept
    assert made((), target=target).target == prefix + target


@pytest.mark.parametrize("key", ["", "sk a", "sk\r\nX: y", "sk\n", "sk\x00", "schlüssel", "\tsk"])
def test_what_is_no_key_is_none_in_a_field_either(key: str) -> None:
    """A key cannot write another field, and is not repeated where it is refused."""
    for where in ("authorization", "x-api-key"):
        with pytest.raises(ConfigurationError) as raised:
            as_field(Secret(key), where)
        assert str(raised.value) == "a key must be printable ASCII without spaces, and not empty"


def test_twins_of_what_is_left_out_are_left_out() -> None:
    """Behind us an underscore may become a hyphen, and then our own field would be there twice, or a stranger's."""
    twins: Headers = (
        (b"x_request_id", b"1"),
        (b"accept_encoding", b"gzip"),
        (b"x_forwarded_for", b"1.2.3.4"),
        (b"x_forwarded_user", b"root"),
        (b"x_real_ip", b"1.2.3.4"),
        (b"http2_settings", b"x"),
    )
    nominated: Headers = ((b"connection", b"x_nominated, x-other"), (b"x_nominated", b"1"), (b"x_other", b"1"))
    passed = made((*twins, *nominated, (b"session_id", b"1")))
    assert [name for name, _ in passed.headers if b"_" in name] == [b"session_id"]


def test_nothing_that_says_for_whom_it_comes_is_believed_of_strangers() -> None:
    """Whoever connects could write it: also where the field is none that we set."""
    claims: Headers = tuple(
        (name, b"root")
        for name in (b"x-forwarded-port", b"x-forwarded-user", b"x-forwarded-prefix", b"x-real-ip", b"forwarded")
    )
    assert not {name for name, _ in claims} & {name for name, _ in made(claims).headers}
    assert {name for name, _ in claims} <= {name for name, _ in made(claims, trusted=True).headers}


@pytest.mark.parametrize("trusted", [False, True])
def test_an_upstream_need_not_learn_who_asked(trusted: bool) -> None:
    """A provider has no use for the addresses and names of a network that is not its own."""
    claims = ((b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-user", b"me"), (b"forwarded", b"for=1"))
    passed = made(claims, trusted=trusted, tell_who=False)
    assert not [name for name, _ in passed.headers if b"forwarded" in name.lower()]


def test_cookies_of_an_upstream_that_got_none_are_not_the_clients() -> None:
    """They are about our key, and would be the same for everybody."""
    head = Head(200, ((b"set-cookie", b"a=b"), (b"set-cookie", b"c=d"), (b"x-other", b"1")))
    names = [name for name, _ in client_head(head, http_version=b"1.1", request_id="i", cookies=False).headers]
    assert b"set-cookie" not in names
    assert b"x-other" in names
    assert end_to_end(head.headers, cookies=False) == ((b"x-other", b"1"),)
    assert client_head(head, http_version=b"1.1", request_id="i").headers[:3] == head.headers
