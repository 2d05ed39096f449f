"""Judge the raw head of a message before h11 sees it, since h11 alone takes more than a proxy may pass on.

Two parsers that read one head differently are what request smuggling is made of. h11 takes bare LF as a line end,
Content-Length beside Transfer-Encoding, control characters in values, a Host with a path, and has no limit on the
number of fields. So each head is first held against the grammar as RFC 9112 has it, with none of the leniency that the
standard leaves open. What passes here means the same to every parser; each head that is refused here and that h11
would have taken is explained by a row of :data:`sseflow.http._rulings.STRICTER`.

A head is matched whole by two regular expressions whose inner repeats are possessive: they never give a byte back, so
a hostile head costs no more than a long one. Why a head did not match is asked only after it has been refused.
"""

from __future__ import annotations

import re
from typing import TypeVar

import attrs

from sseflow._errors import RequestError, UpstreamProtocolError

_Buffer = TypeVar("_Buffer", bytes, bytearray)

#: ``token`` of RFC 9110, section 5.6.2, as a piece of a regular expression.
TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]++"

#: What a field value is made of (RFC 9110, section 5.5), with the optional whitespace around it.
VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"

_AUTHORITY = rb"(?:[0-9a-z_][0-9a-z._-]*|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"

#: A target has no fragment, so no ``#`` (RFC 9112, section 3.2), and no backslash, which some read as a slash.
TARGET = rb"[\x21\x22\x24-\x5b\x5d-\x7e]++"

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (" + TARGET + rb") HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([0-9]{3})(?: " + VALUE + rb")?\r\n")
FIELDS = re.compile(rb"(?:" + TOKEN + rb":" + VALUE + rb"\r\n)*\r\n")
LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
HOST = re.compile(_AUTHORITY)
_ABSOLUTE = re.compile(rb"https?://(" + _AUTHORITY + rb")([/?].*)?", re.IGNORECASE)
_LENGTH_LINES = re.compile(rb"\r\ncontent-length:[^\r]*", re.IGNORECASE)
_UNDERSCORED = re.compile(rb"\n([-!#$%&'*+.^`|~0-9a-z]*+_[^:\r]*+):")
_RULED = re.compile(rb"\n(?=[cht])(host|content-length|transfer-encoding|connection):[ \t]*+([^\r]*+)")

#: A blank line, or a line that does not end in CRLF.
_HEAD_END = re.compile(rb"\n(?:\r\n|(?<!\r\n))")

#: Fields that mean something to the server behind us, or that we add ourselves: no client may have them removed.
_END_TO_END = re.compile(
    rb"authorization|cache-control|cookie|date|expect|forwarded|host|idempotency-key|max-forwards|origin|via"
    rb"|api-key|x-api-key|x-goog-api-key|x-real-ip|(?:content|sec|x-forwarded)-.*"
)
_HOP_BY_HOP = re.compile(rb"keep-alive|set-cookie|transfer-encoding|www-authenticate|proxy-.*")

#: What nearly every Connection field says; asked first, since it is cheap.
USUAL_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te"})

_NOT_ALLOWED = (b"CONNECT", b"TRACE")
_SLASH = ord("/")

#: What stands in a request line beside its target: the longest registered method, two spaces and the version.
_AROUND_TARGET = len(b"UPDATEREDIRECTREF  HTTP/1.1\r")

_TWIN = "a field whose name has an underscore where it must have a hyphen"

_FAULTS = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (rb"\x00", "has a NUL byte"),
        (rb"\r(?!\n)", "has a carriage return that is not part of a line end"),
        (rb"(?<!\r)\n", "has a line that does not end in CRLF"),
        (rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]", "has a control character"),
        (rb"\n[ \t]", "has a field that is folded over several lines, or a line that begins with a space"),
        (rb"\n[^:\r\n]*[ \t]:", "has whitespace between a field's name and its colon"),
    )
)


@attrs.frozen(kw_only=True)
class HeadLimits:
    """How long a head and its parts may be, in bytes.

    Attributes:
        max_head: the whole head. 64 KiB is twice what nginx takes (four buffers of 8 KiB), and four times what Node.js
            does.
        max_fields: the number of fields. 100 is what Apache takes; clients send 10 to 40.
        max_target: the request target. 16 KiB is twice the 8000 octets that RFC 9112, section 3, asks for.
        max_line: one field line with its name. 16 KiB is twice what nginx and Apache take, so what passes them passes
            here, and no field can fill a head on its own.
    """

    max_head: int = 64 * 1024
    max_fields: int = 100
    max_target: int = 16 * 1024
    max_line: int = 16 * 1024


def strip_leading_crlf(buffer: _Buffer, /) -> _Buffer:
    """Take the first two CRLFs off what comes before a request; the same object if there is none.

    Some clients send one behind a body, and RFC 9112, section 2.2, has a server ignore it. A third is no
    head: :func:`find_head_end` reports it at once. Half a CRLF is left alone until the rest has come.
    """
    for _ in range(2):
        if not buffer.startswith(b"\r\n"):
            break
        buffer = buffer[2:]
    return buffer


def find_head_end(buffer: bytes | bytearray, start: int = 0) -> int:
    """The index just past the head that ``buffer`` begins with, or -1 if more must come.

    ``start`` is how much of the buffer an earlier call has seen, so that a dripped head is searched once.

    A head ends at its blank line. It also "ends" where it can no longer become one: behind a line that ends in a bare
    LF, and behind a first byte that begins no head (a TLS handshake, a space, a third CRLF). What is before that index
    is refused by :func:`check_request_head` and :func:`check_response_head`; nobody waits for a CRLF CRLF that the
    sender of a head that ends in two bare LFs will never send (RFC 9112, section 2.2).
    """
    if not buffer:
        return -1
    if buffer[0] <= 0x20 and buffer != b"\r":
        return 1
    # The blank line may have begun in the last two bytes that were seen before: its LF, and its CR.
    found = _HEAD_END.search(buffer, max(start - 2, 0))
    return found.end() if found else -1


def check_request_head(head: bytes, limits: HeadLimits) -> None:
    """Refuse the head of a request that is not exactly what RFC 9112 says, or longer than ``limits``.

    ``head`` is what :func:`find_head_end` has found, or an unfinished head that is longer than ``limits.max_head``. The
    method need only be a token, but CONNECT and TRACE are refused: a gateway has no use for them.

    Raises:
        RequestError: 400 for a breach of the grammar or of the framing rules, 405 for CONNECT and TRACE, 414 and 431
            for what is too long, 505 for another major version (with it the preface of HTTP/2).
    """
    if len(head) > limits.max_head:
        raise _oversized_request(head, limits)
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise RequestError(
            400, _fault(head, "request", "has no first line `method target HTTP/1.1` with a permitted target")
        )
    method, target, major, minor = line.groups()
    if len(target) > limits.max_target:
        raise RequestError(414, "the request target is too long")
    if major != b"1":
        raise RequestError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if (what := _excess(head, limits)) is not None:
        raise RequestError(431, f"the request has {what}")
    if FIELDS.fullmatch(head, line.end()) is None:
        raise RequestError(400, _fault(head, "request", "has a field that is not `name: value`"))
    if method in _NOT_ALLOWED:
        raise RequestError(405, "the methods CONNECT and TRACE are not allowed")
    if target[0] != _SLASH:
        _check_other_target(method, target)
    fields = head.lower()
    ruled = _ruled(fields)
    if b"content-length" in ruled and b"transfer-encoding" in ruled:
        raise RequestError(400, "the request has both Content-Length and Transfer-Encoding")
    if (what := _misframed(ruled, minor)) is not None:
        raise RequestError(400, f"the request has {what}")
    _check_host(ruled.get(b"host"), minor)
    for value in ruled.get(b"connection", ()):
        if value not in USUAL_OPTIONS:
            _check_nominations(value)
    if b"_" in fields and any(map(has_twin, _UNDERSCORED.findall(fields))):
        raise RequestError(400, f"the request has {_TWIN}")


def check_response_head(head: bytes, limits: HeadLimits) -> bytes:
    """Refuse the head of a response that is not exactly what RFC 9112 says, or longer than ``limits``.

    Returns:
        The head to hand to h11: the same object, or, if it had Content-Length beside Transfer-Encoding, one without
        Content-Length (RFC 9112, section 6.3: the transfer coding holds). Such a connection must not be used again;
        that another object came back is how to know.

    A field that is folded over several lines is refused, as section 5.2 leaves open to a gateway.

    Raises:
        UpstreamProtocolError: with the reason ``http_response_header_section_size`` for what is too long, otherwise
            with ``http_protocol_error``.
    """
    if len(head) > limits.max_head:
        raise _oversized("the response's head is too long")
    line = _STATUS_LINE.match(head)
    if line is None:
        raise _malformed(_fault(head, "response", "has no first line `HTTP/1.1 status reason`"))
    major, minor, status = line.groups()
    if major != b"1":
        raise _malformed("the response is of another version than HTTP/1.0 and HTTP/1.1")
    if not b"100" <= status <= b"599":
        raise _malformed("the response has a status that is not from 100 to 599")
    if (what := _excess(head, limits)) is not None:
        raise _oversized(f"the response has {what}")
    if FIELDS.fullmatch(head, line.end()) is None:
        raise _malformed(_fault(head, "response", "has a field that is not `name: value`"))
    fields = head.lower()
    ruled = _ruled(fields)
    if (what := _misframed(ruled, minor)) is not None:
        raise _malformed(f"the response has {what}")
    if b"_" in fields and any(map(has_twin, _UNDERSCORED.findall(fields))):
        raise _malformed(f"the response has {_TWIN}")
    if b"content-length" in ruled and b"transfer-encoding" in ruled:
        return _LENGTH_LINES.sub(b"", head)
    return head


def split_absolute(target: bytes, /) -> tuple[bytes, bytes] | None:
    """Split a target in absolute-form into its authority and the rest in origin-form; None for any other form.

    The authority replaces what the Host field said (RFC 9112, section 3.2.2). A missing path becomes ``/``.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None:
        return None
    rest: bytes = found[2] or b"/"
    return found[1], rest if rest.startswith(b"/") else b"/" + rest


def has_twin(name: bytes, /) -> bool:
    """Whether a lower-case field name, read with hyphens for underscores, is one that others decide by.

    CGI and its heirs (WSGI, PHP) turn both characters into an underscore, so ``Content_Length`` may become
    Content-Length behind us. Other names with an underscore are harmless, and in use: ``session_id`` is sent by a
    common client of language models.
    """
    if b"_" not in name:
        return False
    name = name.replace(b"_", b"-")
    return _END_TO_END.fullmatch(name) is not None or _HOP_BY_HOP.fullmatch(name) is not None


def _check_other_target(method: bytes, target: bytes) -> None:
    """Refuse a target that is no path, no complete address, and no ``*`` with OPTIONS (RFC 9112, section 3.2)."""
    if target == b"*":
        if method != b"OPTIONS":
            raise RequestError(400, "the request has the target `*`, which belongs to OPTIONS only")
    elif _ABSOLUTE.fullmatch(target) is None:
        raise RequestError(400, "the request has a target that is neither a path nor a complete http address")


def _ruled(fields: bytes) -> dict[bytes, list[bytes]]:
    """The values of the fields that rules are about, in a lower-case head that is known to be grammatical."""
    ruled: dict[bytes, list[bytes]] = {}
    for name, value in _RULED.findall(fields):
        ruled.setdefault(name, []).append(value.rstrip())
    return ruled


def _misframed(ruled: dict[bytes, list[bytes]], minor: bytes) -> str | None:
    """What leaves the body's framing in doubt (RFC 9112, sections 6.1 to 6.3; RFC 9110, section 8.6), or None."""
    lengths = ruled.get(b"content-length")
    if lengths is not None and (len(lengths) > 1 or LENGTH.fullmatch(lengths[0]) is None):
        return "a Content-Length that is not one plain number"
    codings = ruled.get(b"transfer-encoding")
    if codings is not None:
        if codings != [b"chunked"]:
            return "a Transfer-Encoding that is not exactly `chunked`"
        if minor == b"0":
            return "a Transfer-Encoding in HTTP/1.0"
    return None


def _check_host(hosts: list[bytes] | None, minor: bytes) -> None:
    """Refuse anything but one Host of the form ``name[:port]``; HTTP/1.0 may have none (RFC 9112, section 3.2)."""
    if hosts is None:
        if minor != b"0":
            raise RequestError(400, "the request has no Host")
    elif len(hosts) > 1:
        raise RequestError(400, "the request has more than one Host")
    elif HOST.fullmatch(hosts[0]) is None:
        raise RequestError(400, "the request has a Host that is not a name or an address with an optional port")


def _check_nominations(value: bytes) -> None:
    """Refuse a Connection field that would have us remove an end-to-end field (RFC 9110, section 7.6.1)."""
    for option in value.replace(b"_", b"-").split(b","):
        if _END_TO_END.fullmatch(option.strip()) is not None:
            raise RequestError(400, "the request has a Connection that names a field which is not ours to remove")


def _excess(head: bytes, limits: HeadLimits) -> str | None:
    """Which limit inside a head is passed, or None. A short head needs no look at its lines."""
    if head.count(b"\n") - 2 > limits.max_fields:
        return "too many header fields"
    if len(head) > limits.max_line and max(map(len, head.split(b"\r\n")[1:])) > limits.max_line:
        return "a header field that is too long"
    return None


def _oversized_request(head: bytes, limits: HeadLimits) -> RequestError:
    """The answer to a head that is too long: 414 if its first line alone already was (RFC 9112, section 3)."""
    end = head.find(b"\n")
    if end == -1 or end > limits.max_target + _AROUND_TARGET:
        return RequestError(414, "the request target is too long")
    return RequestError(431, "the request's head is too long")


def _fault(head: bytes, whose: str, otherwise: str) -> str:
    """What is wrong with a head that did not match: its bytes, or else only its grammar."""
    what = next((what for pattern, what in _FAULTS if pattern.search(head)), otherwise)
    return f"the {whose}'s head {what}"


def _malformed(message: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(message, reason="http_protocol_error")


def _oversized(message: str) -> UpstreamProtocolError:
    return UpstreamProtocolError(message, reason="http_response_header_section_size")
