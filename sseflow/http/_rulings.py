"""Name every place where the guard or the codec refuses what h11 would take.

The rule is one-sided: what passes here passes h11 with the same meaning, always. The other side is this table. A fuzz
test holds every refusal that h11 does not share against it, and fails if no row explains it; so a check that is added,
or one that is stricter than was meant, shows itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs

from sseflow.http._chunked import MAX_EXTENSIONS, MAX_TRAILER_FIELDS, MAX_TRAILERS
from sseflow.http._guard import HeadLimits

#: What a row is about: the head of a request, of a response, or of both; the size lines of a body's chunks, the last
#: included, each with its CRLF; or what follows the last one.
Subject: TypeAlias = Literal["request", "response", "head", "sizes", "trailers"]


@attrs.frozen
class Ruling:
    """One thing that is refused here and taken by h11.

    Attributes:
        name: how the tests call it.
        subject: what it is about, and what ``applies`` is asked about.
        what: the rule, as a sentence.
        where: the section of the standard that asks for it or allows it.
        applies: whether the rule is broken by these bytes; knows nothing of the code that enforces it.
        example: the shortest thing that h11 takes and we refuse by this rule alone.
    """

    name: str
    subject: Subject
    what: str
    where: str
    applies: Callable[[bytes], bool]
    example: bytes


def _has(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.IGNORECASE)
    return lambda head: compiled.search(head) is not None


def _has_all(*patterns: bytes) -> Callable[[bytes], bool]:
    return lambda head: all(re.search(pattern, head, re.IGNORECASE) for pattern in patterns)


def _target(head: bytes) -> bytes:
    return head.split(b" ", 2)[1]


_LIMITS = HeadLimits()
_PLAIN_HOST = rb"(?:\w[\w.-]*|\[[0-9a-f:.]+\])(?::\d{1,5})?"
_NAME = rb"[-!#$%&'*+.^`|~\w]+"
_EXTENDED = re.compile(
    rb"[0-9A-Fa-f]+(?:[ \t]*;[ \t]*" + _NAME + rb"(?:[ \t]*=[ \t]*(?:" + _NAME + rb"|\"(?:[^\"\\\x00-\x08\x0a-\x1f\x7f]"
    rb"|\\[^\x00-\x08\x0a-\x1f\x7f])*\"))?)*[ \t]*"
)
_GET = b"GET / HTTP/1.1\r\nHost: a\r\n"

_HEADS = (
    Ruling(
        "bare-lf",
        "head",
        "A line ends in CRLF, never in LF alone.",
        "RFC 9112, 2.2",
        _has(rb"(?<!\r)\n"),
        b"GET / HTTP/1.1\nHost: a\n\n",
    ),
    Ruling(
        "control-character",
        "head",
        "A value has no control character but the tab.",
        "RFC 9110, 5.5",
        _has(rb"[\x01-\x08\x0e-\x1f\x7f]"),
        _GET + b"A: \x07\r\n\r\n",
    ),
    Ruling(
        "folded-field",
        "head",
        "A field is on one line. A gateway may unfold a response's fields or refuse them: they are refused.",
        "RFC 9112, 5.2",
        _has(rb"\n[ \t]"),
        _GET + b"A: b\r\n c\r\n\r\n",
    ),
    Ruling(
        "version",
        "head",
        "The version is HTTP/1.0 or HTTP/1.x.",
        "RFC 9110, 6.2",
        _has(rb"\A[^\r\n]*HTTP/(?!1)"),
        b"PRI * HTTP/2.0\r\n\r\n",
    ),
    Ruling(
        "head-too-long",
        "head",
        "A head has at most 64 KiB.",
        "RFC 9112, 3; RFC 6585, 5",
        lambda head: len(head) > _LIMITS.max_head,
        _GET + b"A: b\r\n" * 20_000 + b"\r\n",
    ),
    Ruling(
        "too-many-fields",
        "head",
        "A head has at most 100 fields.",
        "RFC 9110, 5.4; RFC 6585, 5",
        lambda head: head.count(b"\n") - 2 > _LIMITS.max_fields,
        _GET + b"A: b\r\n" * 100 + b"\r\n",
    ),
    Ruling(
        "field-too-long",
        "head",
        "A field line has at most 16 KiB.",
        "RFC 9110, 5.4; RFC 6585, 5",
        lambda head: any(len(line) > _LIMITS.max_line for line in head.split(b"\r\n")[1:]),
        _GET + b"A: " + b"b" * 16_382 + b"\r\n\r\n",
    ),
    Ruling(
        "plain-length",
        "head",
        "A length is one decimal number without leading zeros, of at most 18 digits, and is said once.",
        "RFC 9110, 8.6",
        _has(
            rb"\ncontent-length:[ \t]*+(?!(?:0|[1-9][0-9]{0,17})[ \t]*\r?\n)|\ncontent-length:(?s:.*)\ncontent-length:"
        ),
        _GET + b"Content-Length: 5, 5\r\n\r\n",
    ),
    Ruling(
        "chunks-in-1.0",
        "head",
        "HTTP/1.0 knows no transfer coding.",
        "RFC 9112, 6.1",
        _has_all(rb"\A[^\r\n]*HTTP/1\.0", rb"\ntransfer-encoding:"),
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    Ruling(
        "underscore-twin",
        "head",
        "No name has an underscore where a field that others decide by has a hyphen.",
        "RFC 3875, 4.1.18",
        _has(
            rb"\n(?=[^:\r\n]*_)(?:(?:content|proxy|sec|x[-_]forwarded)[-_][^:\r\n]*|(?:x[-_])?(?:goog[-_])?api[-_]key"
            rb"|cache[-_]control|idempotency[-_]key|keep[-_]alive|max[-_]forwards|set[-_]cookie|transfer[-_]encoding"
            rb"|www[-_]authenticate|x[-_]real[-_]ip):"
        ),
        _GET + b"Content_Length: 5\r\n\r\n",
    ),
)

_REQUESTS = (
    Ruling(
        "two-framings",
        "request",
        "A request has a length or a transfer coding, not both.",
        "RFC 9112, 6.1",
        _has_all(rb"\ncontent-length:", rb"\ntransfer-encoding:"),
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    Ruling(
        "target-too-long",
        "request",
        "A request target has at most 16 KiB.",
        "RFC 9112, 3",
        lambda head: len(_target(head)) > _LIMITS.max_target,
        b"GET /" + b"a" * 16_384 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Ruling(
        "target-character",
        "request",
        "A target has no fragment and no backslash.",
        "RFC 9112, 3.2; RFC 3986, 3.5",
        lambda head: b"#" in _target(head) or b"\\" in _target(head),
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Ruling(
        "target-form",
        "request",
        "A target is a path, a complete http or https address with a plain authority, or `*` with OPTIONS.",
        "RFC 9112, 3.2",
        lambda head: (
            not head.startswith(b"OPTIONS * ")
            and re.match(rb"/|https?://(?:\w[\w.-]*|\[[0-9a-f:.]+\])(?::\d{1,5})?(?:[/?]|\Z)", _target(head), re.I)
            is None
        ),
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Ruling(
        "method",
        "request",
        "CONNECT and TRACE are not allowed.",
        "RFC 9110, 9.3.6 and 9.3.8",
        _has(rb"\A(?-i:CONNECT|TRACE) "),
        b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    Ruling(
        "host-missing",
        "request",
        "Every request but one of HTTP/1.0 has a Host.",
        "RFC 9112, 3.2",
        lambda head: b"\nhost:" not in head.lower() and b" HTTP/1.0\r" not in head,
        b"GET / HTTP/1.5\r\n\r\n",
    ),
    Ruling(
        "host-form",
        "request",
        "A Host is a name, an IPv4 address or a bracketed IPv6 address, with an optional port that is not empty.",
        "RFC 9110, 7.2; RFC 3986, 3.2",
        _has(rb"\nhost:[ \t]*+(?!" + _PLAIN_HOST + rb"[ \t]*\r?\n)"),
        b"GET / HTTP/1.1\r\nHost: user@a/b\r\n\r\n",
    ),
    Ruling(
        "nomination",
        "request",
        "Connection names no end-to-end field, so nobody can have it removed.",
        "RFC 9110, 7.6.1",
        _has(
            rb"\nconnection:(?:[^\r\n]*,)?[ \t]*(?:(?:content|sec|x[-_]forwarded)[-_][^,\r\n]*|(?:x[-_])?(?:goog[-_])?"
            rb"api[-_]key|authorization|cache[-_]control|cookie|date|expect|forwarded|host|idempotency[-_]key"
            rb"|max[-_]forwards|origin|via|x[-_]real[-_]ip)[ \t]*(?:,|\r?\n)"
        ),
        _GET + b"Connection: close, Authorization\r\n\r\n",
    ),
)

_RESPONSES = (
    Ruling(
        "status",
        "response",
        "A status is from 100 to 599.",
        "RFC 9110, 15",
        _has(rb"\AHTTP/[0-9.]+ [6-9]"),
        b"HTTP/1.1 600 No\r\n\r\n",
    ),
)

_BODIES = (
    Ruling(
        "size-digits",
        "sizes",
        "A chunk's size has at most 16 digits.",
        "RFC 9112, 7.1",
        _has(rb"(?:\A|\n)[0-9a-f]{17}"),
        b"00000000000000005\r\n",
    ),
    Ruling(
        "size-whitespace",
        "sizes",
        "No whitespace is behind a size, or around an extension or the parts of one.",
        "RFC 9112, 7.1 and 7.1.1",
        _has(rb"(?:\A|\n)[0-9a-f]+(?:[ \t]|;(?:[^\"\r\n]|\"[^\"\r\n]*\")*[ \t])"),
        b"5 \r\n",
    ),
    Ruling(
        "extension-grammar",
        "sizes",
        "An extension is a token, or a token, an equals sign, and a token or a quoted string.",
        "RFC 9112, 7.1.1",
        lambda lines: any(_EXTENDED.fullmatch(line) is None for line in lines.split(b"\r\n")[:-1]),
        b"5;=\r\n",
    ),
    Ruling(
        "extensions-too-long",
        "sizes",
        "All extensions of a message have at most 16 KiB.",
        "RFC 9112, 7.1.1",
        lambda lines: sum(map(len, re.findall(rb";[^\n]*(?=\r\n)", lines))) > MAX_EXTENSIONS,
        b"5;" + b"a" * MAX_EXTENSIONS + b"\r\n",
    ),
    Ruling(
        "trailer-bare-lf",
        "trailers",
        "A trailer's line ends in CRLF, never in LF alone.",
        "RFC 9112, 2.2 and 7.1.2",
        _has(rb"(?<!\r)\n"),
        b"A: b\n\n",
    ),
    Ruling(
        "trailer-control-character",
        "trailers",
        "A trailer's value has no control character but the tab.",
        "RFC 9110, 5.5",
        _has(rb"[\x01-\x08\x0e-\x1f\x7f]"),
        b"A: \x07\r\n\r\n",
    ),
    Ruling(
        "trailer-folded",
        "trailers",
        "A trailer is on one line.",
        "RFC 9112, 5.2",
        _has(rb"\n[ \t]"),
        b"A: b\r\n c\r\n\r\n",
    ),
    Ruling(
        "trailer-frames",
        "trailers",
        "A trailer is no Content-Length and no Transfer-Encoding. (Other forbidden ones are ignored.)",
        "RFC 9110, 6.5.1",
        _has(rb"(?:\A|\n)(?:content-length|transfer-encoding):"),
        b"Content-Length: 5\r\n\r\n",
    ),
    Ruling(
        "trailers-too-many",
        "trailers",
        "A message has at most 100 trailers.",
        "RFC 9110, 6.5",
        lambda block: block.count(b"\n") - 1 > MAX_TRAILER_FIELDS,
        b"A: b\r\n" * (MAX_TRAILER_FIELDS + 1) + b"\r\n",
    ),
    Ruling(
        "trailers-too-long",
        "trailers",
        "All trailers of a message have at most 16 KiB.",
        "RFC 9110, 6.5",
        lambda block: len(block) - 2 > MAX_TRAILERS,
        b"A: " + b"b" * (MAX_TRAILERS - 4) + b"\r\n\r\n",
    ),
)

#: Every ruling that is stricter than h11's.
STRICTER: tuple[Ruling, ...] = _HEADS + _REQUESTS + _RESPONSES + _BODIES
