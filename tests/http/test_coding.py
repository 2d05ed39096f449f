"""Content codings: decoded as they come, bounded, and never ended before their end."""

from __future__ import annotations

import gzip
import itertools
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import brotli
import pytest
import trio
import trio.testing
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from sseflow import InflatesTooMuch, UpstreamLost, UpstreamProtocolError
from sseflow.http import CODINGS, Decoded, Decoder, Encoder, negotiate
from sseflow.http._coding import PIECE
from sseflow.testing import every_split

ZSTD = "compression" if sys.version_info >= (3, 14) else "backports"


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstd.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "br,\tidentity , ZSTD": lambda data: zstd.compress(brotli.compress(data)),
}
SAMPLE = b"data: one\n\ndata: two\n\n"


def decode(field: str, chunks: Iterator[bytes] | tuple[bytes, ...], **limits: int) -> bytes:
    decoder = Decoder(field.encode(), **limits)
    out = b"".join(piece for chunk in chunks for piece in decoder.decode(chunk))
    decoder.end()
    return out


@pytest.mark.parametrize("field", ENCODE)
def test_it_does_not_matter_how_it_is_cut(field: str) -> None:
    """Each cut into two, and byte by byte: the same comes out."""
    encoded = ENCODE[field](SAMPLE)
    for cut in range(len(encoded) + 1):
        assert decode(field, (encoded[:cut], encoded[cut:])) == SAMPLE
    assert decode(field, (bytes([byte]) for byte in encoded)) == SAMPLE


def test_short_streams_at_every_split() -> None:
    """The same for every way to cut a small one."""
    encoded = raw_deflate(b"a\n\n")
    for chunks in every_split(encoded):
        assert decode("deflate", tuple(chunks)) == b"a\n\n"


@pytest.mark.parametrize("coding", CODINGS)
@given(pieces=st.lists(st.binary(max_size=300), max_size=8))
def test_what_was_encoded_can_be_read_at_once(coding: str, pieces: list[bytes]) -> None:
    """Each piece is decoded when its bytes have come, before the next one; behind the end it is the whole."""
    encoder, decoder = Encoder(coding), Decoder(coding.encode())
    for piece in pieces:
        assert b"".join(decoder.decode(encoder.encode(piece))) == piece
    assert b"".join(decoder.decode(encoder.finish())) == b""
    decoder.end()


@pytest.mark.parametrize("field", ENCODE)
def test_an_end_before_its_end_is_none(field: str) -> None:
    """Whatever is missing, be it the last byte of a checksum, the stream is cut."""
    encoded = ENCODE[field](SAMPLE)
    for cut in range(1, len(encoded)):
        with pytest.raises(UpstreamLost, match="the connection ended inside"):
            decode(field, (encoded[:cut],))


def text(size: int) -> bytes:
    """It compresses well, but not to nothing."""
    return b"".join(b"data: %d\n\n" % (number * number) for number in range(size // 8))[:size]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 7, 1_000_000])
def test_what_comes_in_several_pieces_comes_at_once(coding: str, size: int) -> None:
    """However much one read holds, all of it comes out before the next one, and the end is seen."""
    sample = text(size)
    encoder, decoder = Encoder(coding), Decoder(coding.encode())
    for _ in range(2):
        assert b"".join(decoder.decode(encoder.encode(sample))) == sample
    assert b"".join(decoder.decode(encoder.finish())) == b""
    decoder.end()


@pytest.mark.parametrize("field", ENCODE)
@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 2 * PIECE, 300_000])
def test_what_stands_behind_an_end_of_several_pieces(field: str, size: int) -> None:
    """The same behind a long stream as behind a short one: a member goes on, anything else is damage."""
    sample = text(size)
    encoded = ENCODE[field](sample)
    assert decode(field, (encoded,)) == sample
    if field in ("gzip", "x-gzip", "zstd"):
        assert decode(field, (2 * encoded,)) == 2 * sample
    with pytest.raises(UpstreamProtocolError, match="is damaged"):
        decode(field, (encoded + b"tail",))


def test_nothing_is_a_whole_stream() -> None:
    """A body without a byte was never encoded."""
    assert decode("gzip", ()) == b""


@pytest.mark.parametrize("field", [field for field in ENCODE if "," not in field])
def test_what_stands_behind_the_end_is_refused(field: str) -> None:
    """Another gzip member or zstd frame goes on; anything else is damage."""
    encoded = ENCODE[field](SAMPLE)
    if field in ("gzip", "x-gzip", "zstd"):
        assert decode(field, (encoded + encoded,)) == 2 * SAMPLE
    for behind in ((encoded + b"tail",), (encoded, b"tail")):
        with pytest.raises(UpstreamProtocolError, match="is damaged"):
            decode(field, behind)


@pytest.mark.parametrize("field", ENCODE)
def test_garbage_is_said_to_be(field: str) -> None:
    """What is not what it says is damaged, and what was good before it has come out."""
    with pytest.raises(UpstreamProtocolError, match="is damaged"):
        decode(field, (b"\xff\xfe\xfd this is nothing of the sort" * 8,))


@pytest.mark.parametrize(
    ("field", "what"),
    [("compress", "compress"), ("gzip, nonsense", "nonsense"), ("gzip," * 4, "gzip"), ("\xff", r"\\xff")],
)
def test_an_unknown_coding_is_named(field: str, what: str) -> None:
    """The message says what it is; values of strangers are escaped."""
    with pytest.raises(UpstreamProtocolError, match=what):
        Decoder(field.encode("latin-1"))


@pytest.mark.parametrize(("field", "missing", "package"), [("br, gzip", "br", "brotli"), ("zstd", "zstd", ZSTD)])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, field: str, missing: str, package: str) -> None:
    """The message says which coding cannot be read, and what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UpstreamProtocolError, match=rf"encoded as {missing}; .* pip install 'sseflow\[proxy\]'"):
        Decoder(field.encode())


def bomb(coding: str) -> bytes:
    """Many zeros in few bytes."""
    return ENCODE[coding](bytes(64 << 20))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_is_cheap(coding: str) -> None:
    """What is not read is not made; the ratio ends it behind a megabyte, in small pieces."""
    decoder = Decoder(coding.encode())
    pieces = decoder.decode(bomb(coding)[:4096])
    made: list[int] = []
    with pytest.raises(InflatesTooMuch, match="more than max_ratio=200 allows"):
        made.extend(len(piece) for piece in pieces)
    assert max(made) <= 2 * PIECE
    assert sum(made) <= (1 << 20) + 2 * PIECE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_a_bomb_takes_no_memory(coding: str) -> None:
    """Where no ratio forbids it, what is held at any time is a few pieces."""
    data = bomb(coding)
    decoder = Decoder(coding.encode(), max_ratio=1 << 30)
    tracemalloc.start()
    try:
        made = sum(len(piece) for piece in decoder.decode(data))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made == 64 << 20
    assert peak < 8 * PIECE


EMPTY = {"gzip": gzip.compress(b""), "zstd": zstd.compress(b""), "skipped zstd": b"\x50\x2a\x4d\x18" + bytes(4)}


@pytest.mark.parametrize("member", EMPTY)
def test_members_that_hold_nothing_give_others_a_turn(member: str) -> None:
    """Thousands of them in one read cost time, so there is a piece for each, an empty one."""
    pieces = list(Decoder(member.split()[-1].encode()).decode(1000 * EMPTY[member]))
    assert len(pieces) >= 1000
    assert not any(pieces)


def test_a_bomb_that_comes_to_nothing() -> None:
    """What goes off between two codings is refused, though nothing comes out behind them."""
    with pytest.raises(InflatesTooMuch, match="more than max_ratio=200 allows"):
        decode("gzip, gzip", (gzip.compress(100_000 * EMPTY["gzip"]),))


async def test_an_empty_piece_is_no_end() -> None:
    """A reader gets what stands behind members that hold nothing, and only then the end."""
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    await sender.send_all(gzip.compress(b"one") + 9 * EMPTY["gzip"] + gzip.compress(b"two"))
    await sender.aclose()
    source = Decoded(receiver, Decoder(b"gzip"))
    assert [await source.receive_some() for _ in range(3)] == [b"one", b"two", b""]


def test_a_bomb_in_a_bomb() -> None:
    """The bounds hold for what comes out of all of them."""
    with pytest.raises(InflatesTooMuch):
        decode("gzip, gzip", (gzip.compress(bomb("gzip")),))


def test_a_body_is_bounded_however_it_compresses() -> None:
    """The output has a limit of its own."""
    with pytest.raises(InflatesTooMuch, match="more than max_decoded=100 allows"):
        decode("gzip", (gzip.compress(bytes(101)),), max_decoded=100)
    assert decode("gzip", (gzip.compress(bytes(100)),), max_decoded=100) == bytes(100)


def test_a_zstd_window_is_bounded() -> None:
    """A frame that would need a window of more than 8 MiB is refused (RFC 9659)."""
    options = {int(zstd.CompressionParameter.window_log): 26, int(zstd.CompressionParameter.content_size_flag): 0}
    compressor = zstd.ZstdCompressor(options=options)
    encoded = compressor.compress(bytes(range(256)) * 100) + compressor.flush()
    with pytest.raises(UpstreamProtocolError, match="is damaged"):
        decode("zstd", (encoded,))


NEGOTIATED = {
    "": None,
    "gzip": "gzip",
    "GZIP ; Q=1": "gzip",
    "br, gzip": "gzip",
    "br;q=1, gzip;q=0.5": "br",
    "*": "gzip",
    "*;q=0": None,
    "gzip;q=0, *": "br",
    "gzip;q=0": None,
    "identity": None,
    "identity, gzip;q=0.5": None,
    "identity;q=0.5, gzip": "gzip",
    "identity, gzip": "gzip",
    "*, gzip;q=0.5, br;q=0.5": None,
    "gzip;q=": None,
    "deflate": None,
    "gzip;q=2": None,
    "gzip;q=0.1234": None,
    "gzip;x=1, br": "br",
    "\xff, br": "br",
}


@pytest.mark.parametrize(("accept", "coding"), NEGOTIATED.items())
def test_what_a_client_gets(accept: str, coding: str | None) -> None:
    """What it prefers of what is offered; of equals, what is offered first."""
    assert negotiate(accept.encode("latin-1"), ("gzip", "br")) == coding


def test_nothing_offered_is_nothing() -> None:
    """Who offers nothing compresses nothing."""
    assert negotiate(b"gzip, *", ()) is None


def test_names_are_what_they_are() -> None:
    """Every coding that can be made can be read."""
    for first, second in itertools.product(CODINGS, repeat=2):
        Decoder(f"{first}, {second}".encode())
