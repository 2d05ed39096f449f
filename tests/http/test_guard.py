"""The guard: each rule for heads, in both directions."""

from __future__ import annotations

import pytest

from sseflow._errors import RequestError, UpstreamProtocolError
from sseflow.http._guard import (
    HeadLimits,
    check_request_head,
    check_response_head,
    find_head_end,
    has_twin,
    split_absolute,
    strip_leading_crlf,
)

LIMITS = HeadLimits()


def request(*fields: bytes, line: bytes = b"POST /v1/chat HTTP/1.1", host: bytes | None = b"Host: a.example") -> bytes:
    lines = (line, *fields) if host is None else (line, host, *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join((line, *fields)) + b"\r\n\r\n"


GOOD_REQUESTS = {
    "plain": request(),
    "counted": request(b"Content-Length: 0"),
    "longest length": request(b"Content-Length: 999999999999999999"),
    "chunked": request(b"Transfer-Encoding: chunked"),
    "chunked in capitals": request(b"TRANSFER-ENCODING:\t CHUNKED "),
    "HTTP/1.0 without Host": request(line=b"GET / HTTP/1.0", host=None),
    "later minor version": request(line=b"GET / HTTP/1.9"),
    "host with port": request(host=b"hOsT:127.0.0.1:8080"),
    "host that is IPv6": request(host=b"Host: [::1]:8080"),
    "host with underscore": request(host=b"Host: llm_server"),
    "absolute-form": request(line=b"GET http://a.example/x?y=z HTTP/1.1"),
    "absolute-form without path": request(line=b"GET HTTPS://A.example:443 HTTP/1.1"),
    "absolute-form with a query only": request(line=b"GET http://a.example?y HTTP/1.1"),
    "OPTIONS *": request(line=b"OPTIONS * HTTP/1.1"),
    "strange method": request(line=b"M-SEARCH /a HTTP/1.1"),
    "connect in small letters": request(line=b"connect / HTTP/1.1"),
    "two slashes": request(line=b"GET //a HTTP/1.1"),
    "empty value": request(b"X:"),
    "tab and obs-text": request(b"X: a\tb\xff"),
    "harmless underscore": request(b"session_id: 1"),
    "underscore in a value only": request(b"Authorization: Bearer a_b"),
    "usual options": request(b"Connection: keep-alive", b"Connection: Upgrade, HTTP2-Settings"),
    "own option": request(b"Connection: close, X-Own"),
    "longest field": request(b"A: " + b"b" * (LIMITS.max_line - 3)),
    "longest target": request(line=b"GET /" + b"a" * (LIMITS.max_target - 1) + b" HTTP/1.1"),
    "most fields": request(*[b"A: b"] * (LIMITS.max_fields - 1)),
}


@pytest.mark.parametrize("head", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS)
def test_a_good_request_passes(head: bytes) -> None:
    """What RFC 9112 says is right is let pass, and its end is found."""
    assert find_head_end(head + b"body") == len(head)
    check_request_head(head, LIMITS)


BAD_BYTES = {
    "bare LF": (b"A: b\nC: d", "CRLF"),
    "bare CR": (b"A: b\rC: d", "carriage return"),
    "CR before CRLF": (b"A: b\r", "carriage return"),
    "NUL": (b"A: \x00", "NUL"),
    "BEL": (b"A: \x07", "control character"),
    "DEL": (b"A: \x7f", "control character"),
    "vertical tab": (b"A: \x0b", "control character"),
    "folded": (b"A: b\r\n c", "folded"),
    "folded by a tab": (b"A: b\r\n\tc", "folded"),
    "folded framing": (b"Transfer-Encoding:\r\n chunked", "folded"),
    "space before the colon": (b"A : b", "colon"),
    "tab before the colon": (b"Content-Length\t: 5", "colon"),
    "no colon": (b"A", "name: value"),
    "no name": (b": a", "name: value"),
    "name that is no token": (b"A(b): c", "name: value"),
    "name beyond ASCII": (b"\xc3\x84: c", "name: value"),
}

BAD_FRAMING = {
    "empty length": (b"Content-Length:",),
    "signed length": (b"Content-Length: +5",),
    "negative length": (b"Content-Length: -5",),
    "hexadecimal length": (b"Content-Length: 0x5",),
    "length with underscore": (b"Content-Length: 1_0",),
    "length with leading zero": (b"Content-Length: 05",),
    "length of 19 digits": (b"Content-Length: 1000000000000000000",),
    "length with a fraction": (b"Content-Length: 5.0",),
    "length with an exponent": (b"Content-Length: 1e1",),
    "length with a space inside": (b"Content-Length: 5 0",),
    "length in digits that are not ASCII": (b"Content-Length: \xef\xbc\x95",),
    "list of lengths": (b"Content-Length: 5, 5",),
    "list of other lengths": (b"Content-Length: 5, 6",),
    "list with nothing in it": (b"Content-Length: 5,",),
    "equal lengths": (b"Content-Length: 5", b"Content-Length: 5"),
    "other lengths": (b"Content-Length: 5", b"content-length: 6"),
    "empty coding": (b"Transfer-Encoding:",),
    "other coding": (b"Transfer-Encoding: gzip",),
    "coding before chunked": (b"Transfer-Encoding: gzip, chunked",),
    "chunked before a coding": (b"Transfer-Encoding: chunked, gzip",),
    "chunked twice in one field": (b"Transfer-Encoding: chunked, chunked",),
    "chunked with a comma": (b"Transfer-Encoding: ,chunked",),
    "chunked as the end of a word": (b"Transfer-Encoding: xchunked",),
    "chunked as its beginning": (b"Transfer-Encoding: chunkedx",),
    "coding and chunked in two fields": (b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
    "identity before chunked": (b"Transfer-Encoding: identity, chunked",),
    "chunked twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "identity": (b"Transfer-Encoding: identity",),
    "chunked in quotes": (b'Transfer-Encoding: "chunked"',),
    "chunked with parameter": (b"Transfer-Encoding: chunked;a=b",),
    "chunked with vertical tab": (b"Transfer-Encoding: \x0bchunked",),
}

BAD_TWINS = {
    "length": b"Content_Length: 5",
    "coding": b"transfer_encoding: chunked",
    "key": b"X_Api_Key: k",
    "mixed": b"X-Forwarded_For: 1.2.3.4",
    "proxy": b"Proxy_Authorization: x",
    "empty value": b"CONTENT_TYPE:",
}

BAD_REQUESTS = {
    "nothing": (b"\r\n", 400, "first line"),
    "no version": (request(line=b"GET /"), 400, "first line"),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400, "first line"),
    "version of two digits": (request(line=b"GET / HTTP/1.10"), 400, "first line"),
    "version with leading zero": (request(line=b"GET / HTTP/01.1"), 400, "first line"),
    "version in small letters": (request(line=b"GET / http/1.1"), 400, "first line"),
    "two spaces": (request(line=b"GET  / HTTP/1.1"), 400, "first line"),
    "space at the end": (request(line=b"GET / HTTP/1.1 "), 400, "first line"),
    "tab in the first line": (request(line=b"GET\t/ HTTP/1.1"), 400, "first line"),
    "line end in target": (request(line=b"GET /\r\nA: b HTTP/1.1"), 400, "first line"),
    "CR in target": (request(line=b"GET /\rA:b HTTP/1.1"), 400, "carriage return"),
    "LF in target": (request(line=b"GET /\nA:b HTTP/1.1"), 400, "CRLF"),
    "NUL in target": (request(line=b"GET /\x00 HTTP/1.1"), 400, "NUL"),
    "space in target": (request(line=b"GET /a b HTTP/1.1"), 400, "first line"),
    "method that is no token": (request(line=b"G@T / HTTP/1.1"), 400, "first line"),
    "target beyond ASCII": (request(line=b"GET /\xc3\xa4 HTTP/1.1"), 400, "first line"),
    "fragment": (request(line=b"GET /a#b HTTP/1.1"), 400, "permitted target"),
    "backslash": (request(line=b"GET /a\\b HTTP/1.1"), 400, "permitted target"),
    "DEL in target": (request(line=b"GET /\x7f HTTP/1.1"), 400, "control character"),
    "TLS": (b"\x16\x03\x01\x02\x00", 400, "NUL"),
    "version 2 preface": (b"PRI * HTTP/2.0\r\n\r\n", 505, "HTTP/1.1"),
    "version 9.9": (request(line=b"GET / HTTP/9.9"), 505, "HTTP/1.1"),
    "version 0.9": (request(line=b"GET / HTTP/0.9"), 505, "HTTP/1.1"),
    "CONNECT": (request(line=b"CONNECT a.example:443 HTTP/1.1"), 405, "CONNECT"),
    "TRACE": (request(line=b"TRACE / HTTP/1.1"), 405, "TRACE"),
    "GET *": (request(line=b"GET * HTTP/1.1"), 400, "OPTIONS"),
    "authority-form": (request(line=b"GET a.example:443 HTTP/1.1"), 400, "path"),
    "relative target": (request(line=b"GET a/b HTTP/1.1"), 400, "path"),
    "other scheme": (request(line=b"GET ftp://a.example/ HTTP/1.1"), 400, "path"),
    "absolute-form with userinfo": (request(line=b"GET http://u@a.example/ HTTP/1.1"), 400, "path"),
    "absolute-form without authority": (request(line=b"GET http:///a HTTP/1.1"), 400, "path"),
    "no host": (request(host=None), 400, "no Host"),
    "no host in a later minor version": (request(line=b"GET / HTTP/1.2", host=None), 400, "no Host"),
    "two hosts": (request(b"Host: a.example"), 400, "more than one Host"),
    "two hosts beside an absolute-form": (
        request(b"Host: b", line=b"GET http://a.example/ HTTP/1.1"),
        400,
        "more than one Host",
    ),
    "two hosts in HTTP/1.0": (request(b"Host: b", line=b"GET / HTTP/1.0"), 400, "more than one Host"),
    "empty host": (request(host=b"Host:"), 400, "Host that is not"),
    "host with userinfo": (request(host=b"Host: u@a"), 400, "Host that is not"),
    "host with path": (request(host=b"Host: a/b"), 400, "Host that is not"),
    "list of hosts": (request(host=b"Host: a, b"), 400, "Host that is not"),
    "host with scheme": (request(host=b"Host: http://a"), 400, "Host that is not"),
    "host with empty port": (request(host=b"Host: a:"), 400, "Host that is not"),
    "host with bad port": (request(host=b"Host: a:http"), 400, "Host that is not"),
    "bad host in HTTP/1.0": (request(line=b"GET / HTTP/1.0", host=b"Host: a b"), 400, "Host that is not"),
    "both framings": (request(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, "both"),
    "chunked in HTTP/1.0": (request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0"), 400, "HTTP/1.0"),
    "nominated authorization": (request(b"Connection: close, Authorization"), 400, "Connection"),
    "nominated address": (request(b"Connection: x-forwarded-for"), 400, "Connection"),
    "nominated twin": (request(b"Connection:x_real_ip"), 400, "Connection"),
    "nominated host": (request(b"Connection: keep-alive", b"Connection: ,\tHOST\t,"), 400, "Connection"),
    "nominated content": (request(b"Connection: Content-Type"), 400, "Connection"),
    "field too long": (request(b"A: " + b"b" * (LIMITS.max_line - 2)), 431, "too long"),
    "too many fields": (request(*[b"A: b"] * LIMITS.max_fields), 431, "too many"),
    "head too long": (request(*[b"A: " + b"b" * 16_000] * 5), 431, "too long"),
    "unfinished head too long": (b"GET / HTTP/1.1\r\nA: " + b"b" * LIMITS.max_head, 431, "too long"),
    "target too long": (request(line=b"GET /" + b"a" * LIMITS.max_target + b" HTTP/1.1"), 414, "target"),
    "target longer than a head": (request(line=b"GET /" + b"a" * LIMITS.max_head + b" HTTP/1.1"), 414, "target"),
    "unfinished target too long": (b"GET /" + b"a" * LIMITS.max_head, 414, "target"),
    **{name: (request(field), 400, said) for name, (field, said) in BAD_BYTES.items()},
    **{name: (request(*fields), 400, "") for name, fields in BAD_FRAMING.items()},
    **{f"underscore: {name}": (request(field), 400, "underscore") for name, field in BAD_TWINS.items()},
}


@pytest.mark.parametrize(("head", "status", "said"), BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused(head: bytes, status: int, said: str) -> None:
    """Each breach has its status, a message that names the rule, and a connection that must be closed."""
    with pytest.raises(RequestError) as caught:
        check_request_head(head, LIMITS)
    assert (caught.value.status, caught.value.close) == (status, True)
    assert said in str(caught.value)


def test_messages_hold_nothing_of_the_client() -> None:
    """No value that a client sent comes back in a message."""
    secret = b"s3cr3t"
    for head, _, _ in BAD_REQUESTS.values():
        marked = head.replace(b"a.example", secret).replace(b"A: b", b"A: " + secret)
        with pytest.raises(RequestError) as caught:
            check_request_head(marked, LIMITS)
        assert secret.decode() not in str(caught.value)
        assert str(caught.value).isascii()


GOOD_RESPONSES = {
    "plain": response(),
    "chunked": response(b"Transfer-Encoding: Chunked"),
    "counted": response(b"Content-Length: 5"),
    "without reason": response(line=b"HTTP/1.1 200"),
    "empty reason": response(line=b"HTTP/1.1 200 "),
    "reason beyond ASCII": response(line=b"HTTP/1.1 404 Nicht gefunden: \xc3\xa4"),
    "HTTP/1.0": response(line=b"HTTP/1.0 200 OK"),
    "informational": response(line=b"HTTP/1.1 103 Early Hints"),
    "highest status": response(line=b"HTTP/1.1 599 Strange"),
    "harmless underscore": response(b"x_cache_hits: 1"),
}


@pytest.mark.parametrize("head", GOOD_RESPONSES.values(), ids=GOOD_RESPONSES)
def test_a_good_response_passes_unchanged(head: bytes) -> None:
    """The very head comes back if nothing in it has to be changed."""
    assert find_head_end(head + b"body") == len(head)
    assert check_response_head(head, LIMITS) is head


BAD_RESPONSES = {
    "nothing": (b"\r\n", "first line"),
    "leading CRLF": (b"\r\n" + response(), "first line"),
    "version 2": (response(line=b"HTTP/2.0 200 OK"), "version"),
    "version in small letters": (response(line=b"http/1.1 200 OK"), "first line"),
    "other protocol": (response(line=b"ICY 200 OK"), "first line"),
    "status of two digits": (response(line=b"HTTP/1.1 20 OK"), "first line"),
    "status of four digits": (response(line=b"HTTP/1.1 2000 OK"), "first line"),
    "status 099": (response(line=b"HTTP/1.1 099 OK"), "status"),
    "status 600": (response(line=b"HTTP/1.1 600 OK"), "status"),
    "CR in reason": (response(line=b"HTTP/1.1 200 O\rK"), "carriage return"),
    "control in reason": (response(line=b"HTTP/1.1 200 O\x1bK"), "control character"),
    "chunked in HTTP/1.0": (response(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"), "HTTP/1.0"),
    "bad length beside chunked": (response(b"Transfer-Encoding: chunked", b"Content-Length: x"), "Content-Length"),
    **{name: (response(field), said) for name, (field, said) in BAD_BYTES.items()},
    **{name: (response(*fields), "") for name, fields in BAD_FRAMING.items()},
    **{f"underscore: {name}": (response(field), "underscore") for name, field in BAD_TWINS.items()},
}


@pytest.mark.parametrize(("head", "said"), BAD_RESPONSES.values(), ids=BAD_RESPONSES)
def test_a_bad_response_is_refused(head: bytes, said: str) -> None:
    """Each breach is the upstream's, with the word of RFC 9209 for it."""
    with pytest.raises(UpstreamProtocolError) as caught:
        check_response_head(head, LIMITS)
    assert (caught.value.status, caught.value.reason) == (502, "http_protocol_error")
    assert said in str(caught.value)


LONG_RESPONSES = {
    "field": response(b"A: " + b"b" * (LIMITS.max_line - 2)),
    "fields": response(*[b"A: b"] * (LIMITS.max_fields + 1)),
    "head": response(*[b"A: " + b"b" * 16_000] * 5),
    "unfinished": b"HTTP/1.1 200 " + b"a" * LIMITS.max_head,
}


@pytest.mark.parametrize("head", LONG_RESPONSES.values(), ids=LONG_RESPONSES)
def test_a_response_too_long_is_refused(head: bytes) -> None:
    """What is too long has its own word of RFC 9209."""
    with pytest.raises(UpstreamProtocolError, match="too") as caught:
        check_response_head(head, LIMITS)
    assert caught.value.reason == "http_response_header_section_size"


def test_a_response_with_both_framings_loses_its_length() -> None:
    """The transfer coding holds: Content-Length is gone from the head, everything else is as it was."""
    head = response(b"A: b", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X-Content-Length: 6")
    assert check_response_head(head, LIMITS) == response(b"A: b", b"Transfer-Encoding: chunked", b"X-Content-Length: 6")


def test_limits_are_the_callers() -> None:
    """Each limit is taken from what the caller gives."""
    head = request(b"Accept: text/event-stream")
    check_request_head(head, HeadLimits(max_head=len(head), max_fields=2, max_target=8, max_line=25))
    short = (
        (HeadLimits(max_head=len(head) - 1), 431),
        (HeadLimits(max_fields=1), 431),
        (HeadLimits(max_target=7), 414),
        (HeadLimits(max_line=24), 431),
    )
    for limits, status in short:
        with pytest.raises(RequestError) as caught:
            check_request_head(head, limits)
        assert caught.value.status == status


HOPELESS = {
    "bare LF": (b"GET / HTTP/1.1\nHost: a", 15),
    "blank line of two bare LFs": (b"GET / HTTP/1.1\r\nHost: a\n\nmore", 24),
    "CRLF then bare LF": (b"GET / HTTP/1.1\r\n\nmore", 17),
    "leading bare LF": (b"\nGET / HTTP/1.1\r\n", 1),
    "leading CRLF": (b"\r\nGET / HTTP/1.1\r\n", 1),
    "leading space": (b" GET / HTTP/1.1\r\n", 1),
    "TLS": (b"\x16\x03\x01", 1),
}


@pytest.mark.parametrize(("data", "end"), HOPELESS.values(), ids=HOPELESS)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_head_without_hope_is_not_waited_for(data: bytes, end: int, kind: type[bytes | bytearray]) -> None:
    """As soon as no head can come of it the search ends, and what it found is refused in both directions."""
    assert find_head_end(kind(data)) == end
    dripped = (find_head_end(data[:count], count - 1) for count in range(1, len(data) + 1))
    assert next(found for found in dripped if found != -1) == end
    with pytest.raises(RequestError, match="the request's head"):
        check_request_head(data[:end], LIMITS)
    with pytest.raises(UpstreamProtocolError, match="the response's head"):
        check_response_head(data[:end], LIMITS)


@pytest.mark.parametrize("data", [b"", b"\r", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HTTP/1.1\r\n\r"])
def test_an_unfinished_head_is_waited_for(data: bytes) -> None:
    """Nothing is found in what may still become a head."""
    assert find_head_end(data) == -1


def test_a_dripped_head_is_found_where_the_whole_one_is() -> None:
    """Where an earlier search stopped the next goes on, wherever the cut was."""
    head = request(b"A: b")
    for cut in range(len(head)):
        assert find_head_end(head[:cut]) == -1
        assert find_head_end(head + b"\r\n\r\n", cut) == len(head)


@pytest.mark.parametrize(
    ("data", "left"),
    [(b"GET", b"GET"), (b"\r\nGET", b"GET"), (b"\r\n\r\nGET", b"GET"), (b"\r\n" * 3, b"\r\n"), (b"\r\n\r", b"\r")],
    ids=["none", "one", "two", "three", "half"],
)
def test_two_leading_crlfs_are_ignored(data: bytes, left: bytes) -> None:
    """A server ignores at most two CRLFs before a request."""
    assert strip_leading_crlf(data) == left
    assert strip_leading_crlf(bytearray(data)) == bytearray(left)


def test_nothing_is_copied_without_leading_crlf() -> None:
    """The same object comes back if there is nothing to strip."""
    head = request()
    assert strip_leading_crlf(head) is head


@pytest.mark.parametrize(
    ("target", "split"),
    [
        (b"http://a.example:80/x?y", (b"a.example:80", b"/x?y")),
        (b"HTTP://A.example", (b"A.example", b"/")),
        (b"https://[::1]?y", (b"[::1]", b"/?y")),
        (b"/x", None),
        (b"*", None),
    ],
    ids=["whole", "no path", "no path but a query", "origin-form", "asterisk-form"],
)
def test_an_absolute_target_is_split(target: bytes, split: tuple[bytes, bytes] | None) -> None:
    """The authority is what replaces Host, the rest is a target in origin-form."""
    assert split_absolute(target) == split


def test_twins_are_names_with_underscores_only() -> None:
    """A name as it should be is no twin of itself."""
    assert has_twin(b"content_length")
    assert not has_twin(b"content-length")
    assert not has_twin(b"session_id")
