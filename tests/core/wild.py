"""Stages that raise, hold, lie and swallow, and random nestings of them, for the property tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import attrs
from hypothesis import strategies as st

from sseflow import Chain, Cut, End, Eof, Event, Head, Observe, Stage, by_event, by_line
from sseflow.stages import (
    CommentStripper,
    CommitGate,
    DataCounter,
    EofRecorder,
    ErrorMapper,
    EventLimit,
    Tee,
    WholeEvents,
)

# What these stages return is of no type on purpose.
AnyStage: TypeAlias = Stage[Any]
Level: TypeAlias = Literal["bytes", "lines", "events"]

#: Makes the stage of a plan; told where to note things, and whether anything outside depends on it.
Build: TypeAlias = Callable[["Log", bool], AnyStage]

WRONG: list[object] = [5, "text", None, [1], [None], b"bytes", [b"line"], [Event(b"event")], object(), True]


class Oops(Exception):
    """What wild stages raise."""


@attrs.define
class Log:
    """What happened to the wild stages of one pipeline."""

    stages: list[Wild] = attrs.field(factory=list)
    ended: list[Wild] = attrs.field(factory=list)
    faults: list[str] = attrs.field(factory=list)
    raised: bool = False
    """A stage raised, or lied about its ending, where that is not merely observed."""


@attrs.frozen
class Behaviour:
    head: str = "pass"
    feed: str = "pass"
    end: str = "pass"
    rest: str = "pass"
    at: int = 0
    wrong: object = None
    needs_whole_lines: bool = True


class Wild(Stage[Any]):
    """A stage that behaves as drawn, and notes what a chain must never do to it."""

    def __init__(self, behaviour: Behaviour, log: Log, observed: bool) -> None:
        self.needs_whole_lines = behaviour.needs_whole_lines
        self._does = behaviour
        self._log = log
        self._observed = observed
        self._feeds = 0
        self._held: Any = None
        self._broken = False
        log.stages.append(self)

    def head(self, head: Head, /) -> Head | None:
        match self._does.head:
            case "shut":
                return None
            case "late":
                return head if self._feeds > self._does.at else None
            case "change":
                return Head(head.status, (*head.headers, (b"wild", b"1")))
            case "raise":
                self._note_raise()
                raise Oops
            case "wrong":
                return self._does.wrong  # type: ignore[return-value]
            case _:
                return head

    def feed(self, batch: Any, /) -> Any:
        self._check(batch)
        self._feeds += 1
        match self._does.feed:
            case "copy":
                return batch[:]
            case "hold":
                self._held = batch if self._held is None else self._held + batch
                return batch[:0]
            case "swallow":
                return batch[:0]
            case "double":
                return batch + batch
            case "raise" if self._feeds > self._does.at:
                self._break()
                raise Oops
            case "cut" if self._feeds > self._does.at:
                self._break()
                raise Cut(batch, Oops())
            case "wrong" if self._feeds > self._does.at:
                return self._does.wrong
        return batch

    def rest(self, piece: bytes, last: bool, /) -> None:
        self._check(piece)
        if self._does.rest == "raise":
            self._break()
            raise Oops
        if self._held:
            self._held[-1] += piece

    def end(self, end: End, /) -> tuple[Any, End]:
        self._log.ended.append(self)
        match self._does.end:
            case "raise":
                self._note_raise()
                raise Oops
            case "cut":
                self._note_raise()
                raise Cut(self._held, Oops())
            case "wrong batch":
                return self._does.wrong, end
            case "wrong ending":
                self._note_raise()
                return self._held, self._does.wrong  # type: ignore[return-value]
            case "no tuple":
                self._note_raise()
                return self._does.wrong  # type: ignore[return-value]
            case "eof":
                return self._held, Eof()
            case _:
                return self._held, end

    def _check(self, batch: Any) -> None:
        if not batch:
            self._log.faults.append("fed with nothing")
        if self in self._log.ended:
            self._log.faults.append("fed behind its ending")
        if self._broken:
            self._log.faults.append("fed after it had raised")

    def _break(self) -> None:
        self._broken = True
        self._note_raise()

    def _note_raise(self) -> None:
        self._log.raised = self._log.raised or not self._observed


_WILD = st.builds(
    Behaviour,
    head=st.sampled_from(["pass", "pass", "pass", "shut", "late", "change", "raise", "wrong"]),
    feed=st.sampled_from(["pass", "pass", "copy", "hold", "swallow", "double", "raise", "cut", "wrong"]),
    end=st.sampled_from(["pass", "pass", "raise", "cut", "wrong batch", "wrong ending", "no tuple", "eof"]),
    rest=st.sampled_from(["pass", "pass", "raise"]),
    at=st.integers(0, 3),
    wrong=st.sampled_from(WRONG),
    needs_whole_lines=st.booleans(),
)

_SHIPPED: dict[Level, list[Callable[[], AnyStage]]] = {
    "bytes": [Tee, EofRecorder, lambda: ErrorMapper(lambda error: error)],
    "lines": [CommentStripper, WholeEvents, lambda: WholeEvents(whole=20), DataCounter, CommitGate, EofRecorder],
    "events": [EofRecorder],
}
_PURE: dict[Level, list[Callable[[], AnyStage]]] = {
    "bytes": _SHIPPED["bytes"],
    "lines": [WholeEvents, lambda: WholeEvents(whole=20), EventLimit, DataCounter, EofRecorder],
    "events": [EofRecorder],
}


def _tame(level: Level) -> st.SearchStrategy[Behaviour]:
    """Draw stages through which everything passes in the end, unchanged."""
    # Lines without an event overtake an event that is held, so a stage of events is not to hold.
    feeds = ["pass", "copy", "hold"] if level != "events" else ["pass", "copy"]
    return st.builds(Behaviour, feed=st.sampled_from(feeds), needs_whole_lines=st.booleans())


def _leaf(behaviour: Behaviour) -> Build:
    return lambda log, observed: Wild(behaviour, log, observed)


def _ready(make: Callable[[], AnyStage]) -> Build:
    return lambda log, observed: make()


def _around(wrap: Callable[..., AnyStage], inner: list[Build], **options: Any) -> Build:
    return lambda log, observed: wrap(*[build(log, observed) for build in inner], **options)


def _observe(inner: list[Build], limit: int) -> Build:
    return lambda log, observed: Observe(*[build(log, True) for build in inner], limit=limit)


def nestings(
    level: Level = "bytes", *, depth: int = 3, kind: Literal["wild", "shipped", "identity"] = "wild"
) -> st.SearchStrategy[Build]:
    """Draw a stage, or a nest of stages, of a level.

    ``wild`` ones do anything; ``shipped`` and ``identity`` ones behave (but for those inside `Observe`, which are wild
    always), and those that are ``identity`` change nothing.
    """
    ready = (_PURE if kind == "identity" else _SHIPPED)[level]
    leaf = (_WILD if kind == "wild" else _tame(level)).map(_leaf) | st.sampled_from(ready).map(_ready)
    if depth == 0:
        return leaf
    inner = st.lists(nestings(level, depth=depth - 1, kind=kind), max_size=3)
    watched = st.lists(nestings(level, depth=depth - 1), max_size=2)
    options = [
        leaf,
        inner.map(lambda stages: _around(Chain, stages)),
        st.builds(_observe, watched, st.sampled_from([2, 30, 5000])),
    ]
    if level == "bytes":
        lines = st.lists(nestings("lines", depth=depth - 1, kind=kind), max_size=4)
        limits = st.sampled_from([10**6] if kind == "identity" else [20, 90, 10**6])
        by_lines = st.builds(
            lambda stages, max_line, whole: _around(by_line, stages, max_line=max_line, whole=whole),
            lines,
            limits,
            st.sampled_from([64, 100, 10**6]),
        )
        options += [by_lines, by_lines]
    if level == "lines":
        events = st.lists(nestings("events", depth=depth - 1, kind=kind), max_size=3)
        limits = st.sampled_from([10**6] if kind == "identity" else [5, 90, 10**6])
        options.append(
            st.builds(lambda stages, max_event: _around(by_event, stages, max_event=max_event), events, limits)
        )
    return st.one_of(options)
