"""Content codings: event streams that an upstream has compressed, and answers that a client wants to be.

Decoding is lazy: whoever asks for the next piece pays for it, and pieces are short, so that a bomb costs
what is read of it. Encoding flushes behind each write, so that an event is readable when it was written.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from .._errors import InflatesTooMuch, UpstreamLost, UpstreamProtocolError

PIECE = 64 * 1024
"""Bytes of decoded output that are made at once; brotli goes a block beyond, which is less than as much again."""

MAX_CODINGS = 3
"""Codings on top of each other."""

DEFAULT_MAX_RATIO = 200
"""Bytes of output for each byte of input. JSON of tokens compresses to a tenth; deflate cannot do above 1032."""

RATIO_FROM = 1 << 20
"""Bytes of output from which on the ratio is judged: a long run of spaces is no bomb yet."""

DEFAULT_MAX_DECODED = 1 << 30
"""Bytes of output of one body."""

_REASON = "http_response_content_coding"
_ZSTD_WINDOW_LOG = 23
"""A window of 8 MiB, the most that a content coding may ask for (RFC 9659)."""


class _Codec(Protocol):
    """One coding. ``decode`` is a generator, and yields what it can as soon as it can.

    Between two members it yields, too, if only ``b""``: thousands may hold nothing.
    """

    def decode(self, data: bytes) -> Iterator[bytes]: ...

    @property
    def done(self) -> bool: ...


class _Zlib:
    """gzip (RFC 1952), members one behind the other; deflate (RFC 1950), also without its wrapper, as some send it."""

    def __init__(self, wbits: int | None) -> None:
        self._wbits = wbits
        self._held = b""
        self._object: Any = None
        self.done = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        if self._wbits is None:
            data = self._held + data
            if len(data) < 2:
                self._held = data
                return
            is_wrapped = data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
            self._wbits = 15 if is_wrapped else -15
        is_full = False
        while data or is_full:
            if self._object is None:
                if self.done and self._wbits != 31:
                    raise ValueError("there is something behind its end")
                self._object, self.done = zlib.decompressobj(self._wbits), False
            out = self._object.decompress(data, PIECE)
            is_full = len(out) == PIECE and not self._object.eof
            # At the end `unconsumed_tail` may still hold what is `unused_data` by now.
            data = self._object.unconsumed_tail
            if self._object.eof:
                data, self._object, self.done = self._object.unused_data, None, True
            yield out


class _Brotli:
    """br (RFC 7932)."""

    def __init__(self) -> None:
        import brotli

        self._object = brotli.Decompressor()

    @property
    def done(self) -> bool:
        return bool(self._object.is_finished())

    def decode(self, data: bytes) -> Iterator[bytes]:
        if data and self.done:
            raise ValueError("there is something behind its end")
        # `can_accept_more_data` speaks of input only: output may be left when it is true.
        while out := self._object.process(data, output_buffer_limit=PIECE):
            yield out
            data = b""


def _import_zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class _Zstd:
    """zstd (RFC 8878), frames one behind the other."""

    def __init__(self) -> None:
        zstd = _import_zstd()
        options = {int(zstd.DecompressionParameter.window_log_max): _ZSTD_WINDOW_LOG}
        self._make: Callable[[], Any] = lambda: zstd.ZstdDecompressor(options=options)
        self._object: Any = None
        self.done = False

    def decode(self, data: bytes) -> Iterator[bytes]:
        while data:
            self._object, self.done = self._object or self._make(), False
            out = self._object.decompress(data, PIECE)
            while out:
                yield out
                ready = self._object.eof or self._object.needs_input
                out = b"" if ready else self._object.decompress(b"", PIECE)
            data = b""
            if self._object.eof:
                data, self._object, self.done = self._object.unused_data, None, True
                yield b""


_DECODERS: dict[str, Callable[[], _Codec]] = {
    "gzip": lambda: _Zlib(31),
    "x-gzip": lambda: _Zlib(31),
    "deflate": lambda: _Zlib(None),
    "br": _Brotli,
    "zstd": _Zstd,
}


class Decoder:
    """Take the codings of a body off, as it comes.

    Args:
        field: the value of its ``Content-Encoding`` (RFC 9110, section 8.4); at most `MAX_CODINGS` of ``gzip``,
            ``x-gzip``, ``deflate``, ``br`` and ``zstd``; ``identity`` counts for nothing.
        max_ratio: bytes of output for each byte of input, judged from `RATIO_FROM` bytes of output on.
        max_decoded: bytes of output in all. Both limits hold for what each of the codings comes to.

    Raises:
        UpstreamProtocolError: it cannot be decoded here; the message says what is missing.
    """

    def __init__(
        self, field: bytes, *, max_ratio: int = DEFAULT_MAX_RATIO, max_decoded: int = DEFAULT_MAX_DECODED
    ) -> None:
        names = [name.strip(" \t") for name in field.decode("latin-1").lower().split(",")]
        names = [name for name in names if name not in ("", "identity")]
        if len(names) > MAX_CODINGS or not all(name in _DECODERS for name in names):
            shown = field[:80].decode("ascii", "backslashreplace")
            raise UpstreamProtocolError(
                f"the upstream's answer is encoded as {shown!r}, which nobody asked for", reason=_REASON
            )
        self._codecs: list[_Codec] = []
        for name in reversed(names):
            try:
                self._codecs.append(_DECODERS[name]())
            except ImportError as error:
                raise UpstreamProtocolError(
                    f"the upstream's answer is encoded as {name}; to decode it, pip install 'sseflow[proxy]'",
                    reason=_REASON,
                ) from error
        self._made = [0] * len(names)
        self._name = ", ".join(names)
        self._max_ratio = max_ratio
        self._max_decoded = max_decoded

        self.bytes_in = 0
        self.bytes_out = 0

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what can be decoded with ``data``, in pieces of about 64 KiB at most; exhaust it before the next call.

        A piece may be empty: then there was work without output, and others may want a turn before there is more.

        Raises:
            UpstreamProtocolError: the coding is damaged, or something stands behind its end.
            InflatesTooMuch: ``max_ratio`` or ``max_decoded`` was passed.
        """
        self.bytes_in += len(data)
        pieces: Iterator[bytes] = iter((data,))
        for level in range(len(self._codecs)):
            pieces = self._decode_level(level, pieces)
        try:
            for piece in pieces:
                self.bytes_out += len(piece)
                yield piece
        except (UpstreamProtocolError, InflatesTooMuch):
            raise
        except Exception as error:  # brotli and zstd have errors of their own
            raise UpstreamProtocolError(f"the upstream's {self._name} is damaged: {error}", reason=_REASON) from error

    def _decode_level(self, level: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
        # A bomb may well go off between two codings, and come to nothing in the next.
        for data in pieces:
            if level:
                yield b""
            for piece in self._codecs[level].decode(data):
                self._made[level] = made = self._made[level] + len(piece)
                if made > self._max_decoded:
                    raise InflatesTooMuch(self._max_decoded, made, "max_decoded")
                if made > RATIO_FROM and made > self.bytes_in * self._max_ratio:
                    raise InflatesTooMuch(self._max_ratio, made)
                yield piece

    def end(self) -> None:
        """The body has ended.

        Raises:
            UpstreamLost: its codings have not.
        """
        if self.bytes_in and not all(codec.done for codec in self._codecs):
            raise UpstreamLost(
                f"the connection ended inside the upstream's {self._name}", reason="http_response_incomplete"
            )


class Encoder:
    """Compress a body, so that each piece of it can be decoded when it comes.

    Args:
        coding: ``gzip``, ``deflate``, ``br`` or ``zstd``.

    Raises:
        ImportError: the package for it is not installed.
    """

    def __init__(self, coding: str) -> None:
        self.coding = coding
        if coding == "br":
            import brotli

            compressor: Any = brotli.Compressor(quality=5)
            self._compress, self._flush, self._finish = compressor.process, compressor.flush, compressor.finish
        elif coding == "zstd":
            compressor = _import_zstd().ZstdCompressor()
            self._compress = compressor.compress
            self._flush = lambda: compressor.flush(compressor.FLUSH_BLOCK)
            self._finish = compressor.flush
        else:
            compressor = zlib.compressobj(wbits={"gzip": 31, "deflate": 15}[coding])
            self._compress, self._finish = compressor.compress, compressor.flush
            self._flush = lambda: compressor.flush(zlib.Z_SYNC_FLUSH)

    def encode(self, data: bytes) -> bytes:
        """``data``, such that all of it can be decoded; never empty if ``data`` is not."""
        encoded: bytes = self._compress(data) + self._flush()
        return encoded

    def finish(self) -> bytes:
        """The end of the coding."""
        end: bytes = self._finish()
        return end


CODINGS = ("gzip", "br", "zstd", "deflate")
"""What `Encoder` knows."""

_PREFERENCE = re.compile(r"([!#$%&'*+.^_`|~0-9a-z-]+)[ \t]*(?:;[ \t]*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?")


def negotiate(accept: bytes, offered: Sequence[str]) -> str | None:
    """The coding that a client which sent ``accept`` as its ``Accept-Encoding`` is to get; None: it gets none.

    That is the first of ``offered`` with the client's highest preference (RFC 9110, section 12.5.3), unless it prefers
    ``identity``. What is malformed counts for nothing.
    """
    wanted: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        if (match := _PREFERENCE.fullmatch(item.strip(" \t"))) is not None:
            wanted[match[1]] = float(match[2] or 1)
    anything = wanted.get("*", 0.0)
    best = max(offered, key=lambda coding: wanted.get(coding, anything), default="")
    preference = wanted.get(best, anything)
    return best if best and preference > 0 and preference >= wanted.get("identity", anything) else None
