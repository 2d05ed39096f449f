"""The codec: framing, the four readers whatever the cuts, what is promised about identity, and the writers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow._errors import Error
from sseflow.http._chunked import (
    MAX_EXTENSIONS,
    MAX_TRAILER_FIELDS,
    MAX_TRAILERS,
    BodyError,
    ChunkedReader,
    IncompleteBody,
)
from sseflow.http._codec import (
    LAST_CHUNK,
    BodyReader,
    Chunked,
    Counted,
    CountedReader,
    CountedWriter,
    Framing,
    NoBody,
    NoBodyReader,
    UntilClose,
    UntilCloseReader,
    frame_chunk,
    frame_parts,
    last_chunk,
    reader_for,
    request_framing,
    response_framing,
)

CHUNKED = (b"transfer-encoding", b"chunked")
FIVE = (b"content-length", b"5")


@attrs.frozen
class Read:
    """All that a reader says about a body."""

    payload: bytes
    trailing: bytes = b""
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    done: bool = True
    error: str = ""


def read(reader: BodyReader, pieces: Iterable[bytes]) -> Read:
    """Feed ``pieces``, check each span on the way, and end the connection."""
    payload = b""
    error = ""
    try:
        for piece in pieces:
            fed = reader.feed(piece)
            payload += fed
            check_span(reader.span, piece, fed)
        reader.eof()
    except BodyError as caught:
        payload += caught.payload
        error = f"{type(caught).__name__}: {caught}"
    return Read(payload, reader.trailing, reader.trailers, reader.done, error)


def check_span(span: bytes | None, piece: bytes, payload: bytes) -> None:
    """A span is in the piece, is whole chunks of exactly the payload, and goes on into any other chunked body."""
    if span is None:
        return
    assert span in piece
    assert payload
    assert alone(span) == (payload, False)
    assert alone(span + LAST_CHUNK) == (payload, True)


def alone(data: bytes) -> tuple[bytes, bool]:
    """The payload in ``data``, and whether it is a complete body."""
    reader = ChunkedReader()
    return reader.feed(data), reader.done


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, with an empty piece, and every cut into three."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for i in range(len(data)):
        for j in range(i, len(data)):
            yield [data[:i], data[i:j], data[j:]]


@pytest.mark.parametrize(
    ("headers", "framing"),
    [
        ([], NoBody()),
        ([FIVE], Counted(5)),
        ([(b"content-length", b"0")], Counted(0)),
        ([CHUNKED], Chunked()),
        ([(b"transfer-encoding", b"Chunked"), FIVE], Chunked()),
    ],
    ids=["none", "counted", "counted empty", "chunked", "both"],
)
def test_a_request_is_framed_by_its_fields(headers: list[tuple[bytes, bytes]], framing: Framing) -> None:
    """RFC 9112, section 6.3, for requests: without a field there is no body."""
    assert request_framing(headers) == framing


@pytest.mark.parametrize(
    ("method", "status", "headers", "framing"),
    [
        (b"GET", 200, [], UntilClose()),
        (b"GET", 200, [FIVE], Counted(5)),
        (b"GET", 200, [CHUNKED], Chunked()),
        (b"GET", 200, [FIVE, CHUNKED], Chunked()),
        (b"HEAD", 200, [FIVE], NoBody()),
        (b"GET", 204, [CHUNKED], NoBody()),
        (b"GET", 304, [FIVE], NoBody()),
        (b"GET", 101, [], NoBody()),
        (b"CONNECT", 200, [FIVE], NoBody()),
        (b"CONNECT", 404, [FIVE], Counted(5)),
    ],
    ids=["none", "counted", "chunked", "both", "HEAD", "204", "304", "101", "CONNECT", "CONNECT refused"],
)
def test_a_response_is_framed_by_request_and_fields(
    method: bytes, status: int, headers: list[tuple[bytes, bytes]], framing: Framing
) -> None:
    """RFC 9112, section 6.3, for responses: some have no body at all; without a field it ends with the connection."""
    assert response_framing(method, status, headers, b"1.1") == framing


@pytest.mark.parametrize(
    "headers",
    [[(b"transfer-encoding", b"gzip")], [CHUNKED, CHUNKED], [FIVE, FIVE], [(b"content-length", b"05")]],
    ids=["other coding", "chunked twice", "length twice", "leading zero"],
)
def test_unclear_fields_frame_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    """Fields that the guard would not have let pass are refused here, too."""
    with pytest.raises(BodyError):
        request_framing(headers)
    with pytest.raises(BodyError):
        response_framing(b"GET", 200, headers, b"1.1")


def test_chunks_do_not_go_with_http_1_0() -> None:
    """A transfer coding in HTTP/1.0 is faulty framing; a length is not."""
    with pytest.raises(BodyError):
        response_framing(b"GET", 200, [CHUNKED], b"1.0")
    assert response_framing(b"GET", 200, [FIVE], b"1.0") == Counted(5)


@pytest.mark.parametrize(
    ("framing", "kind"),
    [
        (NoBody(), NoBodyReader),
        (Counted(5), CountedReader),
        (Chunked(), ChunkedReader),
        (UntilClose(), UntilCloseReader),
    ],
    ids=["none", "counted", "chunked", "until close"],
)
def test_each_framing_has_its_reader(framing: Framing, kind: type[BodyReader]) -> None:
    """The reader is the one for the framing, and only no body, or an empty one, is done at once."""
    assert type(reader_for(framing)) is kind
    assert reader_for(framing).done is (framing == NoBody())
    assert reader_for(Counted(0)).done


UNCHUNKED = {
    "no body": (NoBody(), b"", Read(b"")),
    "no body, and more": (NoBody(), b"HTTP/1.1", Read(b"", b"HTTP/1.1")),
    "counted": (Counted(5), b"hello", Read(b"hello")),
    "counted, and more": (Counted(5), b"hello, you", Read(b"hello", b", you")),
    "counted empty": (Counted(0), b"", Read(b"")),
    "counted empty, and more": (Counted(0), b"you", Read(b"", b"you")),
    "counted, cut off": (
        Counted(6),
        b"hello",
        Read(
            b"hello",
            done=False,
            error="IncompleteBody: the connection ended before the body had its Content-Length",
        ),
    ),
    "until close": (UntilClose(), b"hello", Read(b"hello")),
}


@pytest.mark.parametrize(("framing", "data", "expected"), UNCHUNKED.values(), ids=UNCHUNKED)
def test_an_unchunked_body_is_read_whatever_the_cuts(framing: Framing, data: bytes, expected: Read) -> None:
    """Payload, what is trailing and the ending are the same for every cut."""
    for pieces in cuts(data):
        assert read(reader_for(framing), pieces) == expected


INCOMPLETE = "IncompleteBody: the connection ended before the last chunk of the body"
SIZE = "BodyError: a chunk does not begin with 1 to 16 hexadecimal digits and a line end or an extension"
CONTROL = "BodyError: a control character is in a chunk's size line or in a trailer"
EXTENSION = "BodyError: a chunk extension is not `;name` or `;name=value`"
LONGER = "BodyError: a chunk is longer than its size"
TRAILER = "BodyError: a trailer is not `name: value`"
FRAMES = "BodyError: a trailer would frame the body that it ends"


def broken(payload: bytes, error: str) -> Read:
    return Read(payload, done=False, error=error)


CHUNKS = {
    "empty": (b"0\r\n\r\n", Read(b"")),
    "one": (b"5\r\nhello\r\n0\r\n\r\n", Read(b"hello")),
    "two": (b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n", Read(b"helloyou")),
    "two digits": (
        b"10\r\n0123456789abcdef\r\n10\r\n0123456789ABCDEF\r\n0\r\n\r\n",
        Read(b"0123456789abcdef0123456789ABCDEF"),
    ),
    "payload like framing": (b"a\r\n\r\n0\r\n\r\n5\r\n\r\n0\r\n\r\n", Read(b"\r\n0\r\n\r\n5\r\n")),
    "capitals and zeros": (b"00A\r\n0123456789\r\n000\r\n\r\n", Read(b"0123456789")),
    "sixteen digits": (b"0000000000000001\r\na\r\n0000000000000000\r\n\r\n", Read(b"a")),
    "and more": (b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1", Read(b"a", b"GET / HTTP/1.1")),
    "extensions": (b'1;a\r\nb\r\n1;c=d;e="f;\\"\t\xff"\r\ng\r\n0;h\r\n\r\n', Read(b"bg")),
    "trailers": (
        b"1\r\na\r\n0\r\nX-Verdict: ok \r\nEmpty:\r\nHost: b\r\nset_cookie: c\r\nContent-Digest: d\r\n\r\nmore",
        Read(b"a", b"more", ((b"x-verdict", b"ok"), (b"empty", b""), (b"content-digest", b"d"))),
    ),
    "nothing": (b"", broken(b"", INCOMPLETE)),
    "cut in a size": (b"1\r\na\r\n1", broken(b"a", INCOMPLETE)),
    "cut in a line end": (b"1\r", broken(b"", INCOMPLETE)),
    "cut in a payload": (b"5\r\nhel", broken(b"hel", INCOMPLETE)),
    "cut behind a payload": (b"5\r\nhello", broken(b"hello", INCOMPLETE)),
    "cut before the last chunk": (b"5\r\nhello\r\n", broken(b"hello", INCOMPLETE)),
    "cut in the last chunk": (b"1\r\na\r\n0\r\n", broken(b"a", INCOMPLETE)),
    "cut in the blank line": (b"1\r\na\r\n0\r\n\r", broken(b"a", INCOMPLETE)),
    "cut in a trailer": (b"1\r\na\r\n0\r\nA: b\r\n", broken(b"a", INCOMPLETE)),
    "no size": (b"1\r\na\r\n\r\n", broken(b"a", SIZE)),
    "size that is no number": (b"1\r\na\r\ng\r\n", broken(b"a", SIZE)),
    "signed size": (b"1\r\na\r\n+1\r\nb\r\n", broken(b"a", SIZE)),
    "size with 0x": (b"0x1\r\na\r\n", broken(b"", SIZE)),
    "size with underscore": (b"1_0\r\n", broken(b"", SIZE)),
    "size with a space before": (b" 1\r\na\r\n", broken(b"", SIZE)),
    "size with a space behind": (b"1 \r\na\r\n", broken(b"", SIZE)),
    "size with a tab before an extension": (b"1\t;a\r\na\r\n", broken(b"", SIZE)),
    "seventeen digits": (b"1\r\na\r\n00000000000000001\r\n", broken(b"a", SIZE)),
    "size that never ends": (b"f" * 17, broken(b"", SIZE)),
    "bare LF behind a size": (b"1\na\r\n0\r\n\r\n", broken(b"", SIZE)),
    "bare CR behind a size": (b"1\ra\r\n0\r\n\r\n", broken(b"", CONTROL)),
    "bare CR in an extension": (b"1\r\na\r\n1;a\rb\r\n", broken(b"a", CONTROL)),
    "bare LF in an extension": (b"1;a\nb\r\n", broken(b"", CONTROL)),
    "NUL in an extension": (b"1;a\x00\r\n", broken(b"", CONTROL)),
    "extension without name": (b"1\r\na\r\n1;\r\n", broken(b"a", EXTENSION)),
    "extension with a space": (b"1; a\r\n", broken(b"", EXTENSION)),
    "extension with a space at the end": (b"1;a \r\n", broken(b"", EXTENSION)),
    "extension without value": (b"1;a=\r\n", broken(b"", EXTENSION)),
    "extension with an open quote": (b'1;a="b\r\n', broken(b"", EXTENSION)),
    "payload too long": (b"1\r\nab\r\n0\r\n\r\n", broken(b"a", LONGER)),
    "payload too short": (b"3\r\na\r\n0\r\n\r\n", broken(b"a\r\n", LONGER)),
    "bare LF behind a payload": (b"1\r\na\n0\r\n\r\n", broken(b"a", LONGER)),
    "bare CR behind a payload": (b"1\r\na\r1\r\nb\r\n", broken(b"a", LONGER)),
    "bare LF before the end": (b"1\r\na\r\n0\r\n\n", broken(b"a", CONTROL)),
    "trailer without colon": (b"1\r\na\r\n0\r\nb\r\n\r\n", broken(b"a", TRAILER)),
    "trailer with a space before its colon": (b"0\r\nb : c\r\n\r\n", broken(b"", TRAILER)),
    "trailer that is folded": (b"0\r\nb: c\r\n d\r\n\r\n", broken(b"", TRAILER)),
    "trailer with a control character": (b"0\r\nb: \x01\r\n\r\n", broken(b"", CONTROL)),
    "length as a trailer": (b"1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n", broken(b"a", FRAMES)),
    "coding as a trailer": (b"1\r\na\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", broken(b"a", FRAMES)),
}


@pytest.mark.parametrize(("data", "expected"), CHUNKS.values(), ids=CHUNKS)
def test_a_chunked_body_is_read_whatever_the_cuts(data: bytes, expected: Read) -> None:
    """Payload, trailers, what is trailing and the error are the same for every cut."""
    for pieces in cuts(data):
        assert read(ChunkedReader(), pieces) == expected, pieces


LONG = {
    "extensions": (
        b"1;" + b"a" * (MAX_EXTENSIONS - 1) + b"\r\nb\r\n",
        b"1;a\r\n",
        b"b",
        "the chunk extensions are too long",
    ),
    "trailers": (b"0\r\nA: " + b"b" * (MAX_TRAILERS - 5) + b"\r\n", b"A", b"", "the trailers are too long"),
    "many trailers": (b"0\r\n" + b"A: b\r\n" * MAX_TRAILER_FIELDS, b"A: b\r\n", b"", "there are too many trailers"),
}


@pytest.mark.parametrize(("allowed", "more", "payload", "error"), LONG.values(), ids=LONG)
def test_limits_hold_for_the_whole_message(allowed: bytes, more: bytes, payload: bytes, error: str) -> None:
    """The limit itself is allowed; one byte more is refused as soon as it has come, dripped or not."""
    reader = ChunkedReader()
    assert reader.feed(allowed) == payload
    expected = broken(payload, f"BodyError: {error}")
    assert read(ChunkedReader(), [allowed + more]) == expected
    assert read(ChunkedReader(), ((allowed + more)[i : i + 1] for i in range(len(allowed + more)))) == expected


def test_line_ends_are_in_the_limit_of_trailers() -> None:
    """Those of the trailers are, that of the blank line behind them is not."""
    reader = ChunkedReader()
    reader.feed(b"0\r\nA: " + b"b" * (MAX_TRAILERS - 5) + b"\r\n")
    reader.feed(b"\r\n")
    assert reader.done
    with pytest.raises(BodyError, match="too long"):
        ChunkedReader().feed(b"0\r\nA: " + b"b" * (MAX_TRAILERS - 4) + b"\r\n")


payloads = st.one_of(st.binary(min_size=1, max_size=40), st.integers(16, 5000).map(bytes))
extensions = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a=";\\""'])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A chunked body, some of its bytes changed, and something behind it."""
    chunks = draw(st.lists(st.tuples(payloads, extensions), max_size=6))
    written = [b"%x%b\r\n%b\r\n" % (len(payload), extension, payload) for payload, extension in chunks]
    data = bytearray(b"".join(written) + draw(st.sampled_from([LAST_CHUNK, b"0\r\nA: b\r\n\r\n", b""])))
    data += draw(st.binary(max_size=3))
    for _ in range(draw(st.integers(0, 2)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.sampled_from(b"\r\n0fG; \x00"))
    return bytes(data)


@given(bodies(), st.lists(st.integers(0, 200), max_size=8))
def test_cuts_do_not_matter(data: bytes, places: list[int]) -> None:
    """Any body, broken or not, reads the same for every cut, and byte by byte."""
    edges = [0, *sorted(places), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)] if edges[-2] <= len(data) else [data]
    whole = read(ChunkedReader(), [data])
    assert read(ChunkedReader(), pieces) == whole
    assert read(ChunkedReader(), (data[i : i + 1] for i in range(len(data)))) == whole


@given(st.lists(payloads, min_size=1, max_size=8))
def test_whole_chunks_are_their_own_span(chunks: list[bytes]) -> None:
    """If a read is whole plain chunks, the span is that very object, however many they are."""
    data = b"".join(map(frame_chunk, chunks))
    reader = ChunkedReader()
    for _ in range(2):
        assert reader.feed(data) == b"".join(chunks)
        assert reader.span is data


SPANS = {
    "one": ([b"5\r\nhello\r\n"], [b"5\r\nhello\r\n"]),
    "before the last chunk": ([b"5\r\nhello\r\n0\r\n\r\n"], [b"5\r\nhello\r\n"]),
    "before trailers": ([b"5\r\nhello\r\n0\r\nA: b\r\n\r\n"], [b"5\r\nhello\r\n"]),
    "before half a size": ([b"5\r\nhello\r\n1"], [b"5\r\nhello\r\n"]),
    "before a size alone": ([b"5\r\nhello\r\n3\r\n", b"you\r\n"], [b"5\r\nhello\r\n", None]),
    "last chunk alone": ([b"0\r\n\r\n"], [None]),
    "nothing": ([b"5\r\nhello\r\n", b""], [b"5\r\nhello\r\n", None]),
    "half a line end": ([b"5\r\nhello\r", b"\n3\r\nyou\r\n"], [None, None]),
    "no line end": ([b"5\r\nhello", b"\r\n", b"3\r\nyou\r\n"], [None, None, b"3\r\nyou\r\n"]),
    "half a payload": ([b"5\r\nhello\r\n5\r\nhel", b"lo\r\n"], [None, None]),
    "half a size": ([b"5", b"\r\nhello\r\n"], [None, None]),
    "extension": ([b"5;a\r\nhello\r\n"], [None]),
    "extension among others": ([b"1\r\na\r\n1;b\r\nc\r\n1\r\nd\r\n", b"1\r\na\r\n"], [None, b"1\r\na\r\n"]),
    "extension on the last chunk": ([b"1\r\na\r\n0;b\r\n\r\n"], [b"1\r\na\r\n"]),
    "extension without its payload": ([b"1\r\na\r\n1;b\r\n", b"c\r\n"], [b"1\r\na\r\n", None]),
    "inside a chunk": ([b"20\r\n", b"0123456789", b"0123456789"], [None, None, None]),
}


@pytest.mark.parametrize(("pieces", "spans"), SPANS.values(), ids=SPANS)
def test_a_span_is_whole_plain_chunks(pieces: list[bytes], spans: list[bytes | None]) -> None:
    """A span is given exactly if the payload is that of whole plain chunks which begin and end in the read."""
    reader = ChunkedReader()
    for piece, span in zip(pieces, spans, strict=True):
        payload = reader.feed(piece)
        assert reader.span == span
        check_span(reader.span, piece, payload)


def test_a_refused_body_has_no_span_and_stays_refused() -> None:
    """After an error nothing more is read, and what the error carries was never in a span."""
    reader = ChunkedReader()
    reader.feed(b"1\r\na\r\n")
    with pytest.raises(BodyError) as caught:
        reader.feed(b"1\r\nb\r\nx")
    assert (caught.value.payload, reader.span) == (b"b", None)
    with pytest.raises(BodyError) as again:
        reader.feed(b"1\r\nc\r\n")
    assert again.value.payload == b""
    with pytest.raises(IncompleteBody):
        reader.eof()


@pytest.mark.parametrize(
    ("reader", "before"),
    [(CountedReader(100), b""), (UntilCloseReader(), b""), (ChunkedReader(), b"64\r\n")],
    ids=["counted", "until close", "chunked"],
)
def test_a_read_that_is_all_payload_is_the_same_object(reader: BodyReader, before: bytes) -> None:
    """What need not be cut is not copied, also if it reaches just to the end."""
    reader.feed(before)
    for data in (b"0123456789" * 4, b"0123456789" * 6):
        assert reader.feed(data) is data


class Counting(bytes):
    """Bytes that count how many of them are copied out; a slice of all of them is no copy, as it is none of bytes."""

    copied = 0

    def __getitem__(self, key: slice | int) -> bytes | int:  # type: ignore[override]
        found: bytes | int = super().__getitem__(key)
        if isinstance(found, bytes) and len(found) < len(self):
            Counting.copied += len(found)
        return found


class CountingHeld(bytearray):
    """What a reader holds, counting the same."""

    def __bytes__(self) -> bytes:
        Counting.copied += len(self)
        return b"".join([self])

    def __getitem__(self, key: slice | int) -> bytearray | int:  # type: ignore[override]
        found: bytearray | int = super().__getitem__(key)
        if isinstance(found, bytearray):
            Counting.copied += len(found)
        return found


def test_a_huge_chunk_is_not_copied() -> None:
    """Of 32 MiB in one chunk and 64 KiB reads only what shares a read with framing is sliced."""
    Counting.copied = 0
    reader = ChunkedReader()
    reader.feed(Counting(b"%x\r\n" % (32 << 20)))
    piece = Counting(bytes(64 << 10))
    assert all(reader.feed(piece) is piece for _ in range(511))
    assert len(reader.feed(Counting(bytes(64 << 10) + b"\r\n0\r\n\r\n"))) == 64 << 10
    assert reader.done
    assert Counting.copied < (64 << 10) + 200


@pytest.mark.parametrize(
    "body",
    [b"1;" + b"a" * 8_000 + b"\r\nb\r\n", b"0\r\nA: " + b"b" * 8_000 + b"\r\n\r\n", frame_chunk(bytes(8_000))],
    ids=["extension", "trailer", "payload"],
)
def test_a_drip_is_linear(body: bytes) -> None:
    """Of a line that comes byte by byte no more than what a size can have is looked at again for each byte."""
    Counting.copied = 0
    reader = ChunkedReader()
    reader._held = CountingHeld()
    for i in range(len(body)):
        reader.feed(Counting(body[i : i + 1]))
    assert Counting.copied <= 20 * len(body)


def test_many_chunks_in_a_read_are_copied_once() -> None:
    """What is sliced of a read full of chunks is its payload and a few bytes of framing for each."""
    Counting.copied = 0
    data = frame_chunk(bytes(220)) * 1000
    ChunkedReader().feed(Counting(data))
    assert Counting.copied < len(data) + 20 * 1000


def test_many_extended_chunks_in_a_read_are_copied_once() -> None:
    """The careful way, too, slices no more than a chunk and what a size can have for each chunk."""
    Counting.copied = 0
    ChunkedReader().feed(Counting(b"1;a\r\nb\r\n" * 1000))
    assert Counting.copied < 40 * 1000


@pytest.mark.parametrize("payload", [b"a", bytes(220), bytes(20_000)], ids=len)
def test_a_chunk_is_framed(payload: bytes) -> None:
    """What is framed reads back as it was, in one piece or in three; the payload itself is one of the three."""
    parts = frame_parts(payload)
    assert parts[1] is payload
    assert b"".join(parts) == frame_chunk(payload)
    assert read(ChunkedReader(), [frame_chunk(payload) + LAST_CHUNK]) == Read(payload)


def test_nothing_is_never_the_last_chunk() -> None:
    """An empty payload is framed as nothing: only the writer of the last chunk ends a body."""
    assert frame_chunk(b"") == b""
    assert frame_parts(b"") == (b"", b"", b"")


def test_the_last_chunk_takes_trailers() -> None:
    """The end of a body is five bytes, or has the trailers that were given."""
    assert last_chunk() is LAST_CHUNK
    trailers = ((b"X-Verdict", b"complete"), (b"Empty", b""))
    assert last_chunk(trailers) == b"0\r\nX-Verdict: complete\r\nEmpty: \r\n\r\n"
    assert read(ChunkedReader(), [last_chunk(trailers)]).trailers == ((b"x-verdict", b"complete"), (b"empty", b""))


@pytest.mark.parametrize(
    "field",
    [
        (b"A", b"b\r\nC: d"),
        (b"A", b"\n"),
        (b"A", b"\x00"),
        (b"A: b", b"c"),
        (b"", b"a"),
        (b"A b", b"c"),
        (b"Content-Length", b"5"),
        (b"Set_Cookie", b"a=b"),
    ],
    ids=["injected field", "LF", "NUL", "colon in a name", "no name", "space in a name", "framing", "forbidden twin"],
)
def test_no_field_is_injected_by_a_trailer(field: tuple[bytes, bytes]) -> None:
    """A trailer that is no single field, or a forbidden one, is a bug of the caller's."""
    with pytest.raises(ValueError, match="trailer"):
        last_chunk([(b"X-Good", b"a"), field])


def test_no_more_and_no_fewer_bytes_than_promised() -> None:
    """Never more than Content-Length goes out, and fewer is known."""
    writer = CountedWriter(5)
    payload = b"abc"
    assert writer.frame(payload) is payload
    with pytest.raises(IncompleteBody):
        writer.end()
    with pytest.raises(BodyError):
        writer.frame(b"def")
    states = [(writer.frame(rest), writer.done) for rest in (b"d", b"e", b"")]
    assert states == [(b"d", False), (b"e", True), (b"", True)]
    writer.end()


def test_body_errors_are_errors_of_sseflow() -> None:
    """One ``except`` catches all; what is incomplete is a body error, too."""
    assert issubclass(BodyError, Error)
    assert issubclass(IncompleteBody, BodyError)
