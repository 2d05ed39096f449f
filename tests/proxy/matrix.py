"""The fault matrix: what an upstream can do, what its client must see of it, and the variants it is tried in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

import attrs

from sseflow.testing import SCRIPTS, Script

Framing: TypeAlias = Literal["chunked", "length", "close"]
ANY: tuple[Framing, ...] = ("chunked", "length", "close")


@attrs.frozen(kw_only=True)
class Variant:
    """How a fault is tried: the framing of the upstream's body, TLS on both legs, and how the proxy is set."""

    framing: Framing = "chunked"
    tls: bool = False
    http10: bool = False
    bare: bool = False
    """Without the gate, with comments passed on."""

    keep_alive: bool = True
    clean: bool = False
    """``error_end="clean"``."""

    @property
    def settings(self) -> dict[str, Any]:
        """Of the proxy."""
        made: dict[str, Any] = {"error_end": "clean" if self.clean else "abort"}
        if self.bare:
            made.update(gate="off", comments="forward")
        if not self.keep_alive:
            made["keep_alive"] = 0
        return made

    def __str__(self) -> str:
        flags = [name for name in ("tls", "http10", "bare", "clean") if getattr(self, name)]
        return "-".join([self.framing, *flags, *([] if self.keep_alive else ["silent"])])


_FLAG = (False, True)
VARIANTS = [
    Variant(framing=framing, tls=tls, http10=http10, bare=bare, keep_alive=keep_alive, clean=clean)
    for framing, tls, http10, bare, keep_alive, clean in itertools.product(
        ANY, _FLAG, _FLAG, _FLAG, (True, False), _FLAG
    )
]


def _sent(script: str) -> bytes:
    """What a script of nothing but ``token`` and its like sends."""
    return b"".join(getattr(step, "data", b"") for step in Script.parse(script).sections[0].steps)


_BODY = "token Hello\ntoken  world\nstop\ndone\nend"
HELLO = _sent("token Hello")
END = _sent("stop\ndone")
WHOLE = _sent("token Hello\ntoken  world\nstop\ndone")
ODD = b"\xef\xbb\xbfdata: \xff\0 \xe2\x80\xa8\rdata: b\r\n\r\n"


@attrs.frozen
class Status:
    """An answer that is no stream: the status, and some of the body."""

    status: int
    body: bytes = b""
    ours: bool = True
    """Whether the body is an error in the API's form, and of our own making."""


@attrs.frozen
class Stream:
    """A stream: these bytes; ``whole`` ends well, else there is an error event, and then no end.

    Attributes:
        inside: more than the body came, and the client stands inside an event: there can be no error event.
        races: bytes may come at the moment of the deadline. Over TLS their write is then cut, and no error event can
            follow.
        broke: it has no end, and no error event either: the dialect's end had come, and then the transport broke.
    """

    body: bytes
    whole: bool = False
    inside: bool = False
    races: bool = False
    broke: bool = False


@attrs.frozen(kw_only=True)
class Fault:
    """What an upstream does, by the name of its script, and what must come of it in the default variant."""

    sees: Status | Stream
    verdict: str
    script: str = ""
    """If it is not the one that is called as the fault is."""

    bare: Stream | None = None
    """What the client sees without the gate, if that makes a difference."""

    cut: str | None = None
    """The connection just ends, which is a clean end if nothing else ends the body: that is the verdict then."""

    reused: bool | None = False
    """Whether the connection to the upstream can be used again; None: that depends on what comes in one read."""

    framings: tuple[Framing, ...] = ANY
    plain_only: bool = False
    settings: Mapping[str, Any] = {}
    error: str = ""
    """Some of what the log says."""

    def variants(self) -> Iterator[Variant]:
        """Those that it can be tried in."""
        return (one for one in VARIANTS if one.framing in self.framings and not (one.tls and self.plain_only))

    def verdict_in(self, variant: Variant) -> str:
        """The verdict there."""
        return self.cut if self._is_clean(variant) and self.cut is not None else self.verdict

    def sees_in(self, variant: Variant) -> Status | Stream:
        """What the client sees there."""
        return self.bare if variant.bare and self.bare is not None else self.sees

    def idle_in(self, variant: Variant) -> tuple[int, ...]:
        """How many connections to the upstream may be idle there."""
        if self.reused is None:
            return (0, 1)
        return (int(self.reused and variant.framing != "close"),)

    def _is_clean(self, variant: Variant) -> bool:
        return self.cut is not None and variant.framing == "close" and not variant.tls


_CHUNKED: tuple[Framing, ...] = ("chunked",)
_COUNTED: tuple[Framing, ...] = ("chunked", "length")
_LOST = Fault(sees=Status(502), verdict="upstream_lost", framings=_CHUNKED)
_BAD = Fault(sees=Status(502), verdict="malformed", framings=_CHUNKED)
_GOOD = Fault(sees=Stream(WHOLE, whole=True), verdict="complete", reused=True)
_FIRST = Fault(sees=Stream(HELLO), verdict="upstream_lost", cut="truncated")
_EMPTY = Fault(sees=Status(502), bare=Stream(b""), verdict="empty", reused=True)
_OVERLOADED = _sent('event {"error":{"message":"Overloaded","type":"server_error","code":503}}')
_STALLS = {"idle_timeout": 0.2, "progress_timeout": 30}
_but = attrs.evolve

#: Every fault of an upstream that listens, by the name of its script.
FAULTS: Mapping[str, Fault] = {
    "complete": _GOOD,
    "pings": _GOOD,
    # Before the head.
    "close-at-accept": _LOST,
    "reset-at-accept": _LOST,
    "stall-at-accept": _but(_LOST, sees=Status(504), settings={"upstream_head_timeout": 0.2, "tls_timeout": 0.2}),
    "close-after-request": _LOST,
    "reset-after-request": _LOST,
    "no-head": _but(_LOST, sees=Status(504), settings={"upstream_head_timeout": 0.2}),
    "half-a-head": _LOST,
    "dripped-head": _but(
        _LOST,
        sees=Status(504),
        script="drip 0.05 raw HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\nstall",
        settings={"upstream_head_timeout": 0.2},
    ),
    "garbage-head": _BAD,
    "http-0.9": _BAD,
    "icy-head": _BAD,
    "bare-cr-in-head": _BAD,
    "huge-head": _BAD,
    "many-1xx": _BAD,
    "unasked-101": _BAD,
    "two-lengths": _BAD,
    "length-and-chunks": _but(_GOOD, framings=_CHUNKED, reused=False),
    # An answer of another kind.
    "status-429": Fault(
        sees=Status(429, b"rate_limit_exceeded", ours=False),
        verdict="upstream_error",
        reused=True,
        framings=("length",),
    ),
    "status-401": Fault(
        sees=Status(401, b"invalid_api_key", ours=False), verdict="upstream_error", reused=True, framings=("length",)
    ),
    "status-302": Fault(sees=Status(302, ours=False), verdict="complete", reused=True, framings=("length",)),
    "early-413": Fault(
        sees=Status(413, b"Too large", ours=False), verdict="upstream_error", framings=("length",), reused=None
    ),
    "json-error-with-200": Fault(
        sees=Status(503, b"Overloaded"), verdict="upstream_error", framings=("length",), reused=True
    ),
    "html-with-200": Fault(sees=Status(502), verdict="malformed", framings=("length",), reused=True),
    # A stream that is none, or ends too soon.
    "empty": _EMPTY,
    "only-comments": _EMPTY,
    "only-done": _but(_EMPTY, bare=Stream(_sent("done"), broke=True)),
    "no-end": _but(_FIRST, verdict="truncated", cut=None, reused=True),
    "no-last-chunk": _FIRST,
    "cut-in-chunk": _but(_FIRST, framings=_CHUNKED),
    "cut-in-event": _but(_FIRST, cut="cut_mid_event"),
    "cut-in-character": _but(_FIRST, cut="cut_mid_event"),
    "cut-behind-cr": _but(_FIRST, cut="cut_mid_event"),
    "clean-end-in-event": _but(_FIRST, verdict="cut_mid_event", cut=None, reused=True),
    "reset-between-events": _but(_FIRST, cut=None),
    "reset-in-event": _but(_FIRST, cut=None),
    "short-length": _but(_GOOD, sees=Stream(WHOLE, broke=True), framings=("length",), reused=False),
    "unended-last-event": _but(_GOOD, sees=Stream(HELLO + END[:-1], whole=True)),
    # A stream that stands still.
    "stall": _but(_FIRST, verdict="stalled_idle", cut=None, settings=_STALLS),
    "stall-in-event": _but(_FIRST, verdict="stalled_idle", cut=None, settings=_STALLS),
    "pings-for-ever": _but(
        _FIRST,
        sees=Stream(HELLO, races=True),
        verdict="stalled_progress",
        cut=None,
        settings={"idle_timeout": 30, "progress_timeout": 0.2},
    ),
    "open-behind-done": _but(_GOOD, sees=Stream(HELLO + END, whole=True), reused=False, settings={"linger": 0.1}),
    # A stream that is too much.
    "long-line": _but(
        _FIRST,
        sees=Stream(HELLO, inside=True),
        script="head\ntoken Hello\nline 100KiB\nend",
        verdict="over_limit",
        cut=None,
        settings={"max_line": 65536},
    ),
    "long-event": _but(_FIRST, verdict="over_limit", cut=None, settings={"max_event": 20_000}, error="max_event=20000"),
    # Odd, and yet a stream.
    "odd-bytes": _but(_GOOD, sees=Stream(ODD + WHOLE, whole=True)),
    "text-plain": _GOOD,
    "no-content-type": _but(_GOOD, framings=("close",)),
    "trailers": _but(_GOOD, sees=Stream(HELLO + END, whole=True), framings=_CHUNKED),
    "framing-trailer": _but(_GOOD, sees=Stream(HELLO + END, broke=True), framings=_CHUNKED, reused=False),
    "extra-behind-length": _but(_GOOD, sees=Stream(HELLO + END, whole=True), framings=("length",), reused=None),
    "extra-behind-chunks": _but(_GOOD, framings=_CHUNKED, reused=None),
    "gzip": _but(_GOOD, reused=None),
    "deflate": _but(_GOOD, script=f"head deflate\n{_BODY}", reused=None),
    "brotli": _but(_GOOD, script=f"head br\n{_BODY}", reused=None),
    "zstd": _but(_GOOD, script=f"head zstd\n{_BODY}", reused=None),
    "cut-in-gzip": _but(_FIRST, script="head gzip\ntoken Hello\ncut", cut="upstream_lost"),
    "unknown-coding": Fault(
        sees=Status(502), verdict="malformed", script=f"head 'Content-Encoding: compress'\n{_BODY}"
    ),
    "no-gzip": Fault(
        sees=Status(502), bare=Stream(b""), verdict="malformed", script=f"head 'Content-Encoding: gzip'\n{_BODY}"
    ),
    "bomb": _but(
        _FIRST,
        sees=Stream(HELLO, inside=True),
        script="head gzip\ntoken Hello\nline 4MiB\nend",
        verdict="over_limit",
        cut=None,
        error="max_ratio=200",
    ),
    # A body whose framing breaks.
    "bad-chunk-size": _but(_FIRST, verdict="malformed", cut=None, framings=_CHUNKED),
    "overflowing-chunk-size": _but(_FIRST, verdict="malformed", cut=None, framings=_CHUNKED),
    "bad-chunk-end": _but(_FIRST, verdict="malformed", cut=None, framings=_CHUNKED),
    # What the model's server says itself.
    "error-first": Fault(
        sees=Status(503, b"Overloaded"), bare=Stream(_OVERLOADED, whole=True), verdict="upstream_error", reused=None
    ),
    "error-event": Fault(
        sees=Stream(HELLO + _OVERLOADED, whole=True),
        verdict="upstream_error",
        reused=True,
    ),
}


def script_of(name: str) -> str:
    """What an upstream plays for a fault."""
    return FAULTS[name].script or SCRIPTS[name]
