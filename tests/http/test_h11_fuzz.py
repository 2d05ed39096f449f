"""Guard and codec against h11: never laxer, and where stricter a row of `STRICTER` says why.

The invariants, for any bytes and any cuts:

- a head that the guard lets pass is one that h11 reads, with nothing left over;
- a head that is read without h11 is one that the guard lets pass and h11 reads as the same; one that is written without
  it h11 writes in the same bytes;
- a body that the codec reads h11 reads, with the same payload and the same end;
- what only we refuse breaks a named ruling, and every ruling is one that h11 does not have;
- what our writers write h11 reads back.
"""

from __future__ import annotations

import itertools
import re
from typing import TypeAlias

import h11
import pytest
from h11._connection import _body_framing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sseflow._errors import RequestError, UpstreamProtocolError
from sseflow._items import Head
from sseflow.http._chunked import BodyError, ChunkedReader
from sseflow.http._codec import (
    LAST_CHUNK,
    Chunked,
    Counted,
    CountedReader,
    Framing,
    NoBody,
    UntilClose,
    UntilCloseReader,
    frame_chunk,
    frame_parts,
    last_chunk,
    reader_for,
    request_framing,
    response_framing,
)
from sseflow.http._guard import HeadLimits, check_request_head, check_response_head, find_head_end
from sseflow.http._messages import Request, Response, fields, reason_phrase
from sseflow.http._plain import read_request, read_response, write_request, write_response
from sseflow.http._rulings import STRICTER, Ruling

LIMITS = HeadLimits()
#: No limit: the limits are rulings of ours.
NO_LIMIT = 1 << 30

Heads: TypeAlias = h11.Request | h11.InformationalResponse | h11.Response


def head_by_h11(subject: str, data: bytes) -> Heads | None:
    """What h11 reads as the head that ``data`` begins with, or None if it refuses or wants more."""
    role = h11.SERVER if subject == "request" else h11.CLIENT
    connection = h11.Connection(role, max_incomplete_event_size=NO_LIMIT)
    if subject == "response":
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, (h11.Request, h11.InformationalResponse, h11.Response)) else None


def rows(subject: str, data: bytes) -> list[str]:
    """The rulings that ``data`` breaks."""
    subjects = {subject, "head"} if subject in ("request", "response") else {subject}
    return [ruling.name for ruling in STRICTER if ruling.subject in subjects and ruling.applies(data)]


def passes(subject: str, head: bytes) -> bytes | None:
    """What the guard hands on to h11, or None if it refuses."""
    try:
        if subject == "request":
            check_request_head(head, LIMITS)
            return head
        return check_response_head(head, LIMITS)
    except (RequestError, UpstreamProtocolError):
        return None


def hold_head_against_h11(subject: str, data: bytes) -> None:
    """One head, found in ``data`` as a server or a client finds it, judged by both."""
    end = find_head_end(data)
    if end == -1:
        assert head_by_h11(subject, data) is None, "h11 sees a head where we wait for more"
        return
    handed = passes(subject, data[:end])
    plain = read_request(data[:end]) if subject == "request" else read_response(data[:end])
    if handed is not None:
        read = head_by_h11(subject, handed)
        assert read is not None, "laxer than h11"
        assert framing_by_us(read) == framing_by_h11(read), "framed differently"
        if plain is not None:
            assert handed == data[:end], "plain, and not as it came"
            assert plain == as_value(read), "read differently"
    else:
        assert plain is None, "laxer than the guard"
        if head_by_h11(subject, data) is not None:
            assert rows(subject, data), "stricter than h11, and no ruling says why"


def as_value(read: Heads) -> Request | Response:
    """What h11 has read, as the server's and the client's leg hand it on."""
    if isinstance(read, h11.Request):
        return Request(read.method, read.target, fields(read.headers), read.http_version)
    return Response(Head(read.status_code, fields(read.headers)), read.http_version)


def framing_by_us(read: Heads) -> Framing:
    """How the body behind a head is framed, where no body is the same as an empty one."""
    if isinstance(read, h11.Request):
        framing = request_framing(read.headers)
    else:
        framing = response_framing(b"GET", read.status_code, read.headers, read.http_version)
    return Counted(0) if framing == NoBody() else framing


def framing_by_h11(read: Heads) -> Framing:
    """The same by h11, which has a function for it but no name for the public."""
    if isinstance(read, h11.InformationalResponse):
        return Counted(0)
    match _body_framing(b"GET", read):
        case "content-length", (length,):
            return Counted(length)
        case "chunked", ():
            return Chunked()
        case _:
            return UntilClose()


names = st.one_of(
    st.sampled_from([b"Host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"Connection"]),
    st.sampled_from([b"Content_Length", b"X_Api_Key", b"session_id", b"A", b"X-Forwarded-For", b"Expect", b"", b"A "]),
)
values = st.one_of(
    st.sampled_from(
        [b"5", b"05", b"5, 5", b"0", b"+5", b"1" * 19, b"1" * 21, b"chunked", b"Chunked", b"gzip, chunked"]
    ),
    st.sampled_from([b"a", b"a.example:80", b"[::1]", b"u@a", b"a/b", b"", b"a, b", b"a:"]),
    st.sampled_from(
        [b"close", b"keep-alive, Authorization", b"x_real_ip", b"content-type,a", b"\x07", b"a\tb", b"\xff"]
    ),
    st.binary(max_size=6),
)
colons = st.sampled_from([b": "] * 6 + [b":", b":\t", b" :", b""])
ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n ", b"\r\r\n"])
hosts = st.sampled_from([b"Host: a"] * 8 + [b"Host: u@a", b"Host:", b"Host: a:"])
methods = st.sampled_from([b"GET"] * 4 + [b"POST", b"OPTIONS", b"CONNECT", b"TRACE", b"PRI", b"get", b"G(T", b""])
targets = st.sampled_from(
    [b"/"] * 12
    + [b"/" + b"a" * 16_400]
    + [b"*", b"/a#b", b"/a\\b", b"http://a/b", b"http://u@a/", b"HTTPS://[::1]", b"a:443", b"ftp://a/", b"/\x7f"]
)
versions = st.sampled_from(
    [b"HTTP/1.1"] * 8 + [b"HTTP/1.0"] * 2 + [b"HTTP/2.0", b"HTTP/1.5", b"HTTP/0.9", b"http/1.1", b""]
)
statuses = st.sampled_from(
    [b"200 OK"] * 6 + [b"204 No", b"304", b"103 Hints", b"600 No", b"99 a", b"200 \x1b", b"200 \xff", b"2000"]
)


#: Lines that are right, and some that break one ruling each; the last three break limits.
lines = st.sampled_from(
    [b"A: b", b"Content-Length: 5", b"Transfer-Encoding: chunked"] * 6
    + [b"Connection: close, Authorization", b"X_Api_Key: a", b"Content-Length: 05", b"A: \x07", b"A: b\r\n c"]
    + [b"A: " + b"b" * 16_400, b"\r\n".join([b"A: b"] * 101), b"\r\n".join([b"A: " + b"b" * 16_000] * 5)]
)


@st.composite
def heads(draw: st.DrawFn, subject: str) -> bytes:
    """A first line and some fields: half of the heads are right but for a line or two, the others broken anywhere."""
    careful = draw(st.booleans())
    if subject == "request":
        first = b" ".join([draw(methods), draw(targets), draw(versions)])
        fields = [draw(hosts)] if draw(st.integers(0, 4)) else []
    else:
        first = b" ".join([draw(versions), draw(statuses)])
        fields = []
    if careful:
        fields += draw(st.lists(lines, max_size=3))
        return b"\r\n".join([first, *fields]) + b"\r\n\r\n"
    for _ in range(draw(st.integers(0, 4))):
        fields.append(draw(names) + draw(colons) + draw(values))
    head = bytearray(b"".join(line + draw(ends) for line in (first, *fields)) + draw(ends))
    head += draw(st.binary(max_size=4))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(head)))
        change = draw(st.sampled_from([b"", b"\n", b"\r\n", b" ", b":", b"\x00", b"_", b"0"]))
        head[place : place + draw(st.integers(0, 2))] = change
    return bytes(head)


@settings(max_examples=1500)
@given(heads("request"))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
def test_a_request_is_never_judged_laxer(data: bytes) -> None:
    """For requests: what passes h11 reads, and what only we refuse breaks a ruling."""
    hold_head_against_h11("request", data)


@settings(max_examples=1500)
@given(heads("response"))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
def test_a_response_is_never_judged_laxer(data: bytes) -> None:
    """For responses: what passes h11 reads, and what only we refuse breaks a ruling."""
    hold_head_against_h11("response", data)


@given(st.sampled_from(["request", "response"]), st.binary(max_size=60))
def test_random_bytes_are_never_judged_laxer(subject: str, data: bytes) -> None:
    """For bytes that are hardly ever a head: the same, and no error but those that are documented."""
    hold_head_against_h11(subject, data)


written_names = st.sampled_from(
    [b"Content-Type", b"content-length", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Via", b"a"] * 4
    + [b"Host", b"X_Api_Key", b"session_id", b"A ", b"a:b", b"", b"A\r\nB", b"\xe4"]
)
written_values = st.one_of(
    st.sampled_from([b"5", b"chunked", b"close", b"a", b"text/event-stream", b"a  b", b"\xff"] * 3),
    st.sampled_from([b"", b" a", b"a ", b"a\tb", b"a\r\nb: c", b"a\nb", b"a\x00", b"\x07", b"05", b"5, 5", b"Chunked"]),
)
written_fields = st.lists(st.tuples(written_names, written_values), max_size=6)


def sent_by_h11(connection: h11.Connection, event: h11.Event) -> bytes | None:
    try:
        return connection.send(event)
    except h11.LocalProtocolError:
        return None


@settings(max_examples=1500)
@given(
    st.sampled_from([b"GET"] * 6 + [b"HEAD", b"CONNECT", b"G T", b"a\r\n", b""]),
    st.sampled_from([b"/", b"/a?b=c"] * 4 + [b"*", b"/a b", b"/ HTTP/1.1\r\nA: b", b"http://a/", b"", b"/\xff"]),
    st.booleans(),
    written_fields,
)
def test_a_request_is_written_as_by_h11(
    method: bytes, target: bytes, with_host: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    """What is written without h11 is, to the byte, what h11 writes; it refuses none of it."""
    headers = [(b"Host", b"a:80"), *headers] if with_host else headers
    written = write_request(Request(method, target, tuple(headers)))
    if written is not None:
        event = h11.Request(method=method, target=target, headers=headers)
        assert written == sent_by_h11(h11.Connection(h11.CLIENT), event)


@settings(max_examples=1500)
@given(
    st.sampled_from([b"GET", b"HEAD"]),
    st.sampled_from([200] * 6 + [201, 204, 304, 404, 599, 600, 99, 103]),
    written_fields,
    st.sampled_from([(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")]),
    st.booleans(),
)
def test_a_response_is_written_as_by_h11(
    method: bytes, status: int, headers: list[tuple[bytes, bytes]], framing: tuple[bytes, bytes], closes: bool
) -> None:
    """The same for what answers a request, in the order in which the server's leg gives the fields."""
    headers = [*headers, framing, *([(b"Connection", b"close")] if closes else [])]
    written = write_response(status, headers)
    if written is not None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(b"%b / HTTP/1.1\r\nHost: a\r\n%b\r\n" % (method, b"Connection: close\r\n" * closes))
        connection.next_event()
        response = h11.Response(status_code=status, headers=headers, reason=reason_phrase(status))
        assert written == sent_by_h11(connection, response)


def test_usual_heads_are_plain() -> None:
    """What clients, models' servers and the proxy itself send is read and written without h11."""
    request = (
        b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: api.example.com:8443\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer sk-a_b\r\nsession_id: 5\r\nAccept:*/*\r\nConnection: keep-alive\r\n"
        b"User-Agent: OpenAI/Python 1.0 (a; b)\r\nContent-Length: 120\r\n\r\n"
    )
    read = read_request(request)
    assert read is not None
    assert read.get(b"authorization") == b"Bearer sk-a_b"
    assert read.get(b"accept") == b"*/*"
    assert read_request(write_request(read) or b"") == read
    response = (
        b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 09:00:16 GMT\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
        b"Transfer-Encoding: chunked\r\nset-cookie: a=b; path=/\r\nset-cookie: c=d; path=/\r\nserver: x\r\n\r\n"
    )
    answer = read_response(response)
    assert answer is not None
    assert len(answer.head.headers) == 6
    assert read_response(write_response(200, answer.head.headers) or b"") == answer


def pieces_of(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a < b]


def body_by_h11(fields: bytes, pieces: list[bytes], *, eof: bool = False) -> tuple[bytes, bytes] | None:
    """The payload of a response's body and what is behind it, as h11 has it; None if it refuses or wants more."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=NO_LIMIT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n")
    assert isinstance(connection.next_event(), h11.Response)
    payload = b""
    fed = [*pieces, b""] if eof else pieces
    for index, piece in enumerate(fed):
        connection.receive_data(piece)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError:
                return None
            if isinstance(event, h11.Data):
                payload += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return payload, connection.trailing_data[0] + b"".join(fed[index + 1 :])
            else:
                break
    return None


def anatomy(body: bytes) -> tuple[bytes, bytes]:
    """The size lines of a chunked body, and what follows the last one, as h11 cuts them."""
    lines = []
    pos = 0
    while True:
        end = body.index(b"\r\n", pos) + 2
        lines.append(body[pos:end])
        digits = re.match(rb"[0-9A-Fa-f]+", lines[-1])
        assert digits is not None
        size = int(digits[0], 16)
        if size == 0:
            break
        pos = end + size + 2
    blank = re.compile(rb"(?:\A|\n)\r?\n").search(body[end:])
    assert blank is not None
    return b"".join(lines), body[end : end + blank.end()]


def body_by_us(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
    """The same as `body_by_h11`, for a chunked body."""
    reader = ChunkedReader()
    try:
        payload = b"".join(map(reader.feed, pieces))
    except BodyError:
        return None
    return (payload, reader.trailing) if reader.done else None


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def hold_body_against_h11(data: bytes, pieces: list[bytes]) -> None:
    """One chunked body, judged by both."""
    ours = body_by_us(pieces)
    theirs = body_by_h11(CHUNKED, pieces)
    if ours is not None:
        assert ours == theirs, "laxer than h11, or read differently"
    elif theirs is not None:
        sizes, trailers = anatomy(data)
        assert rows("sizes", sizes) + rows("trailers", trailers), "stricter than h11, and no ruling says why"


sizes = st.sampled_from(
    [b"%x"] * 8 + [b"%X", b"0%x", b"%017x", b"%016x", b"%x ", b"%x\t", b"+%x", b"0x%x", b" %x", b"%x;"]
)
extensions = st.sampled_from(
    [b""] * 8
    + [
        b";a" * 8_200,
        b";a",
        b";a=b",
        b';a="b;\\" c"',
        b"; a",
        b";a=",
        b";=",
        b";a\x00",
        b";a\rb",
        b";a\nb",
        b';a="',
        b";a ",
    ]
)
line_ends = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b""])
trailer_lines = st.sampled_from(
    [b"A: b"] * 6
    + [b"Content-Length: 5", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"]
    + [b"X-Verdict: ok", b"Host: a", b"Set-Cookie: a", b"A: \x07", b"A", b"A : b", b" a", b"A: b\r\n c", b"\xff: a"]
    + [b"\r\n".join([b"A: b"] * 101), b"A: " + b"b" * 16_400] * 2
)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """A chunked body and more: half of them are right but for a part or two, the others broken anywhere."""
    careful = draw(st.booleans())
    ends = st.just(b"\r\n") if careful else line_ends
    data = bytearray()
    for payload in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=4)):
        data += draw(sizes) % len(payload) + draw(extensions) + draw(ends) + payload + draw(ends)
    data += draw(st.sampled_from([b"0"] * 6 + [b"00", b"0 ", b""])) + draw(extensions) + draw(ends)
    for line in draw(st.lists(trailer_lines, max_size=3)):
        data += line + draw(ends)
    data += draw(ends) + draw(st.sampled_from([b"", b"", b"HTTP/1.1", b"\r\n"]))
    for _ in range(0 if careful else draw(st.sampled_from([0, 0, 0, 1, 2]))):
        place = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from([b"", b"\n", b"\r", b"0", b" ", b";", b"\x00"]))
        data[place : place + draw(st.integers(0, 2))] = change
    return bytes(data)


places = st.lists(st.integers(0, 300), max_size=5)


@settings(max_examples=2000)
@given(chunked_bodies(), places)
@example(b"5\r\nhello\r\n0\r\n\r\n", [])
def test_a_chunked_body_is_never_judged_laxer(data: bytes, places: list[int]) -> None:
    """What the codec reads h11 reads with the same bytes, and what only we refuse breaks a ruling."""
    hold_body_against_h11(data, pieces_of(data, places))


@given(st.binary(max_size=40), places)
def test_a_random_body_is_never_judged_laxer(data: bytes, places: list[int]) -> None:
    """For bytes that are hardly ever a chunked body: the same."""
    hold_body_against_h11(data, pieces_of(data, places))


@given(st.binary(max_size=60), st.integers(0, 60), places)
def test_a_counted_body_is_read_as_by_h11(data: bytes, length: int, places: list[int]) -> None:
    """A counted body has the same bytes, the same rest, and is complete exactly if it is for h11."""
    pieces = pieces_of(data, places)
    reader = CountedReader(length)
    payload = b"".join(map(reader.feed, pieces))
    theirs = body_by_h11(b"Content-Length: %d\r\n" % length, pieces or [b""])
    assert ((payload, reader.trailing) if reader.done else None) == theirs


@given(st.binary(max_size=60), places)
def test_a_body_until_close_is_read_as_by_h11(data: bytes, places: list[int]) -> None:
    """A body that ends with the connection is all that comes."""
    pieces = pieces_of(data, places)
    reader = UntilCloseReader()
    payload = b"".join(map(reader.feed, pieces))
    reader.eof()
    assert (payload, b"") == body_by_h11(b"", pieces, eof=True)


chunks = st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(bytes)), max_size=5)


@given(chunks, st.booleans())
def test_what_is_written_h11_reads(payloads: list[bytes], with_trailers: bool) -> None:
    """Chunks, in one piece or in three, and the end with or without trailers, read back as they were."""
    end = last_chunk([(b"X-Verdict", b"complete")]) if with_trailers else LAST_CHUNK
    for written in (map(frame_chunk, payloads), (b"".join(frame_parts(payload)) for payload in payloads)):
        assert body_by_h11(CHUNKED, [b"".join(written) + end + b"more"]) == (b"".join(payloads), b"more")


@given(chunks)
def test_what_h11_writes_is_read(payloads: list[bytes]) -> None:
    """A body that h11 wrote is read back, by the framing that its own head declares."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.next_event()
    head = connection.send(h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]))
    assert head is not None
    assert check_response_head(head, LIMITS) is head
    written = b"".join(connection.send(h11.Data(data=payload)) or b"" for payload in payloads)
    reader = reader_for(response_framing(b"GET", 200, [(b"transfer-encoding", b"chunked")], b"1.1"))
    assert reader.feed(written) == b"".join(payloads)
    assert reader.feed(connection.send(h11.EndOfMessage()) or b"") == b""
    assert reader.done


@pytest.mark.parametrize("ruling", STRICTER, ids=lambda ruling: ruling.name)
def test_each_ruling_is_stricter_than_h11(ruling: Ruling) -> None:
    """Its example breaks it, and is refused here and taken by h11; so no row is a dead letter."""
    assert ruling.applies(ruling.example)
    data = ruling.example
    if ruling.subject in ("sizes", "trailers"):
        size = int(re.split(rb"[^0-9a-f]", data)[0], 16) if ruling.subject == "sizes" else 0
        body = data + bytes(size) + b"\r\n" + LAST_CHUNK if size else b"0\r\n" + data
        assert body_by_us([body]) is None
        assert body_by_h11(CHUNKED, [body]) is not None
        return
    subject = "response" if ruling.subject == "response" else "request"
    assert head_by_h11(subject, data) is not None
    assert passes(subject, data[: find_head_end(data)]) is None


@pytest.mark.parametrize("ruling", [row for row in STRICTER if row.subject == "head"], ids=lambda ruling: ruling.name)
def test_a_ruling_on_heads_holds_in_both_directions(ruling: Ruling) -> None:
    """What no request may have no response may have."""
    data = re.sub(rb"\A\S+ \S+ (HTTP/\d\.\d)", rb"\1 200 OK", ruling.example)
    assert ruling.applies(data)
    assert head_by_h11("response", data) is not None
    assert passes("response", data[: find_head_end(data)]) is None


PLAIN = [
    ("request", b"POST /a HTTP/1.1\r\nHost: a:80\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"),
    ("response", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("sizes", b'5\r\na;b;c="d e"\r\n0\r\n'),
    ("trailers", b"A: b\r\n\r\n"),
]


@pytest.mark.parametrize(("subject", "data"), PLAIN, ids=lambda value: value if isinstance(value, str) else "")
def test_no_ruling_is_about_everything(subject: str, data: bytes) -> None:
    """What is right breaks no ruling, so a row cannot explain away what it is not about."""
    assert rows(subject, data) == []


def test_rulings_have_names_of_their_own() -> None:
    """A name stands for one row."""
    names = [ruling.name for ruling in STRICTER]
    assert len(set(names)) == len(names)
