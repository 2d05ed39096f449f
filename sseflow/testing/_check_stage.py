"""A conformance check for stages."""

# The stage runs in a real pipeline, between two spies of its own level. The first remembers what it handed on, to see
# whether the stage changed it in place; the second looks at what the stage gave back. All else is seen from outside:
# what comes out of the pipeline for one way of cutting a sample must come out for every other.

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Literal, NoReturn, TypeVar, cast, overload

from .._events import Event, Events, by_event
from .._items import Cancelled, Closed, End, Eof, Failed, Head, Item
from .._lines import by_line
from .._pipeline import Pipeline
from .._stage import B, Chain, Lines, Stage
from ._splits import every_split

Level = Literal["bytes", "lines", "events"]

OfBytes = TypeVar("OfBytes", bound=Stage[bytes])
OfLines = TypeVar("OfLines", bound=Stage[Lines])
OfEvents = TypeVar("OfEvents", bound=Stage[Events])

_HEAD = Head(200, ((b"Content-Type", b"text/event-stream"), (b"Content-Length", b"1"), (b"X-Other", b"1")))

_SHOWN = 80
"""Characters of a value that a transcript shows at its beginning, and half as many of its end."""


@overload
def check_stage(
    make: Callable[[], OfBytes],
    samples: Iterable[bytes],
    *,
    level: Literal["bytes"] = "bytes",
    facts: Callable[[OfBytes], object] | None = None,
    head: Head = _HEAD,
    whole: int = 64,
) -> None: ...


@overload
def check_stage(
    make: Callable[[], OfLines],
    samples: Iterable[bytes],
    *,
    level: Literal["lines"],
    facts: Callable[[OfLines], object] | None = None,
    head: Head = _HEAD,
    whole: int = 64,
) -> None: ...


@overload
def check_stage(
    make: Callable[[], OfEvents],
    samples: Iterable[bytes],
    *,
    level: Literal["events"],
    facts: Callable[[OfEvents], object] | None = None,
    head: Head = _HEAD,
    whole: int = 64,
) -> None: ...


def check_stage(
    make: Callable[[], Stage[B]],
    samples: Iterable[bytes],
    *,
    level: Level = "bytes",
    facts: Callable[..., object] | None = None,
    head: Head = _HEAD,
    whole: int = 64,
) -> None:
    """Check that a stage is a good one, by running it over every split of each sample.

    What a good stage owes:

    - Cuts do not matter: the same head, the same joined output, the same ending and the same facts for every split.
    - Its ``end`` raises for none of the four endings, and does not claim that a stream ended cleanly that did not.
    - Its ``head`` is pure: asked twice it answers the same, and asking changes nothing.
    - It does not change a batch in place, and gives back a batch of its own level, without empty lines.
    - A chunk that nobody changed comes out as the same object.

    A stage that fails a stream on purpose should raise `Cut`, or its output depends on the cuts. Errors are compared by
    their type.

    Args:
        make: makes the stage; called anew for every run.
        samples: streams to run it over, each some 40 bytes long (the time grows with the square of the length). Have
            one for each line ending, and one that stops in the middle of a line.
        level: what the stage is a stage of.
        facts: called with the stage when the stream is over; what it returns must be the same for all splits.
        head: the head of the stream.
        whole: as in `by_line`; small, so that short samples can have long lines.

    Raises:
        AssertionError: the stage is not a good one. The message shows what went in and what came out.
    """
    if make() is make():
        raise AssertionError("make() must make a new stage each time: a stage serves one stream")
    check = _Check(make, level, facts, head, whole)
    check.by_hand()
    for sample in samples:
        check.over(sample)


class _Lost(Exception):
    """What the source of a stream fails with here."""


_ENDINGS: tuple[End, ...] = (Eof(), Failed(_Lost("the source failed")), Closed(), Cancelled())


class _Check(Generic[B]):
    def __init__(
        self,
        make: Callable[[], Stage[B]],
        level: Level,
        facts: Callable[..., object] | None,
        head: Head,
        whole: int,
    ) -> None:
        self._make = make
        self._level = level
        self._facts = facts
        self._head = head
        self._whole = whole

    def by_hand(self) -> None:
        """Check what a pipeline would forgive."""
        for end in _ENDINGS:
            try:
                _, after = self._make().end(end)
            except Exception as error:
                raise AssertionError(
                    f"end({_show(end)}) must return a last batch and an ending\n  -> {error!r}"
                ) from error
            if isinstance(after, Eof) and end != after:
                raise AssertionError(
                    f"a stream that did not end cleanly must not look complete\n  {_show(end)} -> Eof()"
                )

    def over(self, sample: bytes) -> None:
        """Run the stage over one sample."""
        whole = [sample] if sample else []
        for end in _ENDINGS[:2]:
            one = self._run(whole, end)
            for chunks in every_split(sample):
                self._compare(one, self._run(chunks, end), "cuts must not matter")
        for end in _ENDINGS:
            one = self._run(whole, end)
            for chunks in (whole, [sample[at : at + 1] for at in range(len(sample))]):
                self._compare(one, self._run(chunks, end), "cuts must not matter")
                self._compare(one, self._run(chunks, end, asks=True), "asking for the head must change nothing")

    def _run(self, chunks: list[bytes], end: End, *, asks: bool = False) -> _Run:
        stage = self._make()
        before, after = _Before[B](), _After[B](self._level)
        pipeline = _pipeline(Chain(before, stage, after), self._level, self._whole)
        run = _Run()
        run.add("head", self._head, pipeline.head(self._head))
        for chunk in chunks:
            items = pipeline.feed(chunk) if pipeline.ending is None else []
            run.add("feed", chunk, items)
            if asks:
                answers = [item for item in items if isinstance(item, Head)] + [stage.head(self._head)]
                if any(stage.head(self._head) != answer for answer in answers):
                    run.complain(f"head must be pure: asked again it answered another than {_show(answers[0])}")
            # With several chunks an equal one may be another that had been held.
            if len(chunks) == 1 and chunk in items and not any(item is chunk for item in items):
                run.complain("a chunk that nobody changed must come out as the same object")
        run.add("end", end, pipeline.end(end))
        if complaint := before.look() or after.complaint:
            run.complain(complaint)
        if self._facts is not None:
            run.facts = self._facts(stage)
        return run

    def _compare(self, one: _Run, other: _Run, rule: str) -> None:
        for name, is_that, is_this in zip(("head", "bytes", "ending", "facts"), one.sum(), other.sum(), strict=True):
            if is_that != is_this:
                raise AssertionError(
                    f"{rule}: another {name}\n"
                    f"one way:\n{one}  {name}: {_show(is_that)}\n"
                    f"another:\n{other}  {name}: {_show(is_this)}"
                )


class _Run:
    """What went in and what came out, once."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Item, list[Item]]] = []
        self.facts: object = None

    def add(self, call: str, value: Item, items: list[Item]) -> None:
        self._steps.append((call, value, items))

    def sum(self) -> tuple[Head | None, bytes, tuple[type, ...], object]:
        """What must be the same for every run."""
        items = [item for _, _, out in self._steps for item in out]
        ending = items[-1]
        return (
            next((item for item in items if isinstance(item, Head)), None),
            b"".join(item for item in items if isinstance(item, bytes)),
            (type(ending), type(ending.error)) if isinstance(ending, Failed) else (type(ending),),
            self.facts,
        )

    def complain(self, complaint: str) -> NoReturn:
        raise AssertionError(f"{complaint}\n{self}")

    def __str__(self) -> str:
        lines = [f"  {call}({_show(value)}) -> [{', '.join(map(_show, out))}]\n" for call, value, out in self._steps]
        return "".join(lines)


class _Before(Stage[B]):
    """Remember what the stage was given last."""

    needs_whole_lines = False

    def __init__(self) -> None:
        self._given: B | None = None
        self._copy: B | None = None
        self._complaint: str | None = None

    def feed(self, batch: B, /) -> B:
        self.look()
        self._given, self._copy = batch, batch[:]  # type: ignore[index]  # bytes and lists can be sliced
        return batch

    def look(self) -> str | None:
        """What is to be said against what the stage did with the batches it was given."""
        if self._given != self._copy:
            self._complaint = f"feed must not change its batch in place\n  {_show(self._copy)} -> {_show(self._given)}"
        return self._complaint


class _After(Stage[B]):
    """Look at what the stage gives back."""

    needs_whole_lines = False

    def __init__(self, level: Level) -> None:
        self._level = level
        self.complaint: str | None = None

    def feed(self, batch: B, /) -> B:
        if not _is_batch(batch, self._level):
            self.complaint = f"a stage of {self._level} must give back a batch of {self._level}, not {_show(batch)}"
        return batch


def _is_batch(batch: object, level: Level) -> bool:
    match level:
        case "bytes":
            return type(batch) is bytes
        case "lines":
            return type(batch) is list and all(type(line) is bytes and line for line in batch)
        case _:
            return type(batch) is list and all(isinstance(event, Event) for event in batch)


def _pipeline(stage: Stage[B], level: Level, whole: int) -> Pipeline:
    match level:
        case "bytes":
            return Pipeline(cast("Stage[bytes]", stage))
        case "lines":
            return Pipeline(by_line(cast("Stage[Lines]", stage), whole=whole))
        case _:
            return Pipeline(by_line(by_event(cast("Stage[Events]", stage)), whole=whole))


def _show(value: object) -> str:
    text = repr(value)
    left_out = len(text) - _SHOWN - _SHOWN // 2
    return text if left_out <= 0 else f"{text[:_SHOWN]}...{left_out} more...{text[-(_SHOWN // 2) :]}"
