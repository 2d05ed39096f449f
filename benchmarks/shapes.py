"""Name the traffic that is measured; `tests/test_benchmarks.py` holds each shape against the library's own parser."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator

import attrs

KIB = 1024
MIB = 1024 * KIB

READ = 32 * KIB
"""Bytes per chunk of what is longer than a token."""


@attrs.frozen(kw_only=True)
class Shape:
    """A stream: a body, which may be repeated, and the end behind it. A chunk is what is written at once."""

    name: str
    about: str
    chat: bool = True
    """It speaks like OpenAI's chat completions; otherwise it is plain Server-Sent Events."""

    body: tuple[bytes, ...]
    tail: tuple[bytes, ...] = ()
    events: int
    """Events with data in the body."""

    comments: int = 0
    """Comment lines in the body."""

    tail_events: int = 0
    kept: tuple[bytes, ...] | None = None
    """What is to come of each chunk of the body behind the default pipeline; None: the same bytes."""

    def chunks(self, repeat: int = 1) -> Iterator[bytes]:
        """All chunks, with the body ``repeat`` times."""
        for _ in range(repeat):
            yield from self.body
        yield from self.tail

    def out(self, repeat: int = 1) -> bytes:
        """All that the default pipeline must let out."""
        return b"".join(self.body if self.kept is None else self.kept) * repeat + b"".join(self.tail)

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


def frame(payload: bytes) -> bytes:
    """``payload`` as one chunk of HTTP; nothing for nothing."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def _chat(content: str, *, end: bytes = b"\n", finish: str | None = None) -> bytes:
    delta = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-Dk3vTnXw2mQbR8sLyZpC1hUeJ",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "demo-1-2024-07-18",
        "choices": [delta],
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + end + end


def _long(size: int) -> bytes:
    """An event whose data line has ``size`` bytes of content, its name included, as a picture in base64 would be."""
    empty = _chat("").removesuffix(b"\n\n")
    at = empty.index(b'""') + 1
    missing = size - len(empty)
    return empty[:at] + (b"QUJD" * (missing // 4 + 1))[:missing] + empty[at:] + b"\n\n"


def _cut(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


_DONE = (b"data: [DONE]\n\n",)

# As many different ones as a ring needs, so that a lost, doubled or swapped event is seen, and not more.
_TOKENS = tuple(_chat(f" token{i:02}") for i in range(40))


def _token() -> Shape:
    return Shape(
        name="token",
        about="token events of about 220 bytes, one per chunk",
        body=_TOKENS,
        tail=_DONE,
        events=len(_TOKENS),
        tail_events=1,
    )


def _one() -> Shape:
    return Shape(
        name="one",
        about="a whole answer in one event",
        body=(_chat("yes", finish="stop"),),
        events=1,
    )


def _coalesced() -> Shape:
    return Shape(
        name="coalesced",
        about="40 token events per chunk",
        body=(b"".join(_TOKENS),),
        tail=_DONE,
        events=len(_TOKENS),
        tail_events=1,
    )


def _comments() -> Shape:
    return Shape(
        name="comments",
        about="a heartbeat comment and a token event per chunk",
        body=tuple(b": keep-alive\n\n" + token for token in _TOKENS),
        kept=_TOKENS,
        tail=_DONE,
        events=len(_TOKENS),
        comments=len(_TOKENS),
        tail_events=1,
    )


def _crlf() -> Shape:
    return Shape(
        name="crlf",
        about="token events with CRLF, one per chunk",
        body=tuple(_chat(f" token{i:02}", end=b"\r\n") for i in range(40)),
        tail=(b"data: [DONE]\r\n\r\n",),
        events=40,
        tail_events=1,
    )


def _multi_line() -> Shape:
    block = b"event: note\nid: %d\n" + b"".join(b"data: line %d of an event of eight lines\n" % i for i in range(8))
    return Shape(
        name="multi-line",
        about="plain events with a type, an id and eight data lines, one per chunk",
        chat=False,
        body=tuple(block % i + b"\n" for i in range(40)),
        events=40,
    )


def _heartbeats() -> Shape:
    beat = b": ping\n\n"
    return Shape(
        name="heartbeats",
        about="an idle stream: 40 heartbeat comments, one per chunk, and a token event",
        body=(*[beat] * 40, _TOKENS[0]),
        kept=(*[b""] * 40, _TOKENS[0]),
        tail=_DONE,
        events=1,
        comments=40,
        tail_events=1,
    )


def _drip() -> Shape:
    return Shape(
        name="drip",
        about="one event of 1 MiB in pieces of 256 bytes",
        body=_cut(_long(MIB), 256),
        tail=_DONE,
        events=1,
        tail_events=1,
    )


def _line(name: str, size: int) -> Shape:
    event = _long(size)
    # Short ones are as many as a read holds, so that reads do not end where lines do.
    return Shape(
        name=name,
        about=f"data lines of {size:,} bytes in chunks of up to 32 KiB",
        body=_cut(event, READ) * max(1, READ // size),
        tail=_DONE,
        events=max(1, READ // size),
        tail_events=1,
    )


def _bulk() -> Shape:
    event = _long(4 * KIB - 2)
    return Shape(
        name="bulk",
        about="events of 4 KiB, one per chunk",
        body=(event,) * 64,
        tail=_DONE,
        events=64,
        tail_events=1,
    )


#: The bytes of the lines of those shapes that are nothing but lines of one size.
LINES = {
    "line-1k": KIB,
    "line-16k": 16 * KIB,
    "line-256k": 256 * KIB,
    "line-1m": MIB,
    "line-4m": 4 * MIB,
    "line-8m": 8 * MIB,
    "line-32m": 32 * MIB,
}

#: What makes each shape, by its name: the long ones are not made before they are needed.
SHAPES: dict[str, Callable[[], Shape]] = {
    "token": _token,
    "one": _one,
    "coalesced": _coalesced,
    "comments": _comments,
    "crlf": _crlf,
    "multi-line": _multi_line,
    "heartbeats": _heartbeats,
    "drip": _drip,
    "bulk": _bulk,
    **{name: functools.partial(_line, name, size) for name, size in LINES.items()},
}
