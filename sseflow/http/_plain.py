"""Read and write heads as nearly all of them are, without h11, which takes ten times as long.

A head is plain if it is of HTTP/1.1, complete, within all limits, and has no field that asks for more than a look:
one host that is a name, one plain length or one ``chunked``, a ``Connection`` of one usual word. Everything else is
the affair of guard and h11, which also find the words for what is wrong: here nothing is refused, only left to them.

The rule is the codec's: never laxer. Whatever is plain, the guard lets pass and h11 reads as the same request or
response; what is written here h11 writes in the same bytes. A fuzz test holds each against the other. No field is
trusted because it was read before: what is written is read again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sseflow._items import Head
from sseflow.http._guard import FIELDS, HOST, LENGTH, TARGET, TOKEN, USUAL_OPTIONS, VALUE, HeadLimits, has_twin
from sseflow.http._messages import Headers, Request, Response, reason_phrase

_REQUEST_LINE = re.compile(rb"(?!CONNECT |TRACE )(" + TOKEN + rb") (?=/)(" + TARGET + rb") HTTP/1\.1\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: " + VALUE + rb")?\r\n")

#: A name, and a value with what whitespace may be behind it; for what is known to be grammatical.
_FIELD = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")

#: Fields that a message has once.
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection"})
_LIMITS = HeadLimits()


def read_request(head: bytes, limits: HeadLimits = _LIMITS, /) -> Request | None:
    """The request that a complete head is, if it is a plain one."""
    line = _REQUEST_LINE.match(head)
    if line is None or line.end(2) - line.start(2) > limits.max_target:
        return None
    found = _find_fields(head, line.end(), limits)
    if found is None:
        return None
    headers = tuple([(name.lower(), value) for name, value in found])
    return Request(line[1], line[2], headers) if _is_plain_request(headers) else None


def read_response(head: bytes, limits: HeadLimits = _LIMITS, /) -> Response | None:
    """The response, none of the class 1xx, that a complete head is, if it is a plain one."""
    line = _STATUS_LINE.match(head)
    if line is None:
        return None
    found = _find_fields(head, line.end(), limits)
    if found is None:
        return None
    headers = tuple([(name.lower(), value) for name, value in found])
    return Response(Head(int(line[1]), headers), b"1.1") if _is_plain(headers, dict(headers)) else None


def write_request(request: Request, /) -> bytes | None:
    """The head of a request, if it is a plain one and begins with its Host, which h11 writes first."""
    method, target, headers = request.method, request.target, request.headers
    head = b"%b %b HTTP/1.1\r\n%b" % (method, target, _write_fields(headers))
    line = _REQUEST_LINE.match(head)
    if line is None or line[1] != method or line[2] != target or not headers or headers[0][0].lower() != b"host":
        return None
    if _find_fields(head, line.end(), _LIMITS) != list(headers):
        return None
    return head if _is_plain_request(tuple([(name.lower(), value) for name, value in headers])) else None


def write_response(status: int, headers: Sequence[tuple[bytes, bytes]], /) -> bytes | None:
    """The head of a response, if it is a plain one that says how its body is framed, and has no Host."""
    head = b"HTTP/1.1 %d %b\r\n%b" % (status, reason_phrase(status), _write_fields(headers))
    line = _STATUS_LINE.match(head)
    if line is None or _find_fields(head, line.end(), _LIMITS) != list(headers):
        return None
    lowered = tuple([(name.lower(), value) for name, value in headers])
    named = dict(lowered)
    is_framed = b"content-length" in named or b"transfer-encoding" in named
    return head if is_framed and b"host" not in named and _is_plain(lowered, named) else None


def _write_fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"\r\n".join([*map(b": ".join, headers), b"", b""])


def _find_fields(head: bytes, at: int, limits: HeadLimits) -> list[tuple[bytes, bytes]] | None:
    """The fields behind the first line, which ends at ``at``; None if they are not plain."""
    size = len(head)
    if size > limits.max_head or size > limits.max_line or FIELDS.fullmatch(head, at) is None:
        return None
    if head.find(b" \r", at) >= 0 or head.find(b"\t\r", at) >= 0:
        return None
    found = _FIELD.findall(head, at)
    return found if len(found) <= limits.max_fields else None


def _is_plain_request(headers: Headers) -> bool:
    named = dict(headers)
    host, connection = named.get(b"host"), named.get(b"connection")
    if host is None or HOST.fullmatch(host.lower()) is None:
        return False
    return (connection is None or connection.lower() in USUAL_OPTIONS) and _is_plain(headers, named)


def _is_plain(headers: Headers, named: dict[bytes, bytes]) -> bool:
    """Whether fields leave no doubt about the framing, and none has the name of another in disguise."""
    if len(named) != len(headers) and sum(name in _ONCE for name, _ in headers) != len(_ONCE & named.keys()):
        return False
    length, coding = named.get(b"content-length"), named.get(b"transfer-encoding")
    if coding is not None:
        if length is not None or coding != b"chunked":
            return False
    elif length is not None and LENGTH.fullmatch(length) is None:
        return False
    return b"_" not in b"".join(named) or not any(map(has_twin, named))
