"""The one abstraction: a stage, chains of stages, and observers."""

# A stage is three functions from a value to a value. It is told of the head, of each batch and of the ending, and
# returns what the next stage is to see. It owns nothing and calls nobody, so all the rules that make a pipeline
# honest live in `Chain`, once:
#
# * Ending has no early exit. A stage that raises turns the ending into `Failed`; every later stage is still ended.
# * What a stage gives back at the ending goes through the `feed` of the later stages before they are ended.
# * A stage that raised in `feed` is not fed again; it is ended, like all others.
# * Nobody turns another ending into `Eof`: a stage that tries is overruled.
#
# A line that is longer than a chain wants to hold is fed by its beginning (`_feed_open`). The chain notes which
# stage was the last to have it, and shows the rest of the line to the stages up to that one.

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Generic, NoReturn, TypeAlias, TypeVar

import attrs

from ._form import Form, Note
from ._items import Cancelled, Closed, End, Eof, Failed, Head

#: Lines with their terminators; joined they are the bytes again.
Lines: TypeAlias = list[bytes]

#: What a batch is at a level: ``bytes``, ``list[bytes]`` (lines) or ``list[Event]``.
B = TypeVar("B", bound=Sized)

DEFAULT_OBSERVE_LIMIT = 256 * 1024
"""Bytes of one event that an observer may keep: the largest event whose fields are wanted whole is far smaller."""


class Cut(Exception):
    """Raised by `Stage.feed`: let ``batch`` out, then fail with ``error``.

    A stage that just raises loses what it had of the batch before the fault. One that finds the fault in the middle of
    a batch raises this, so that the output does not depend on how the stream was cut into chunks.
    """

    def __init__(self, batch: object, error: Exception) -> None:
        super().__init__(batch, error)
        self.batch = batch
        self.error = error


class Stage(Generic[B]):
    """What a stream flows through. Override any of `head`, `feed`, `end` and `rest`; each does nothing by default.

    ``B`` is the level: ``bytes``, ``list[bytes]`` for lines, ``list[Event]`` for events. Batches are never empty.
    """

    needs_whole_lines = True
    """Whether `feed` must be given whole lines. A stage of lines that is content with the beginning of a line sets this
    to False; if all stages of a `by_line` do, long lines flow through it without being held."""

    def head(self, head: Head, /) -> Head | None:
        """Return the head as the next stage is to see it; None means "not yet".

        Pure: it may be asked many times, with the same head.
        """
        return head

    def feed(self, batch: B, /) -> B:
        """Return what the next stage is to see of ``batch``; unchanged means the same object, empty means nothing yet.

        Raising fails the stream; raise `Cut` to let the part before the fault out first.
        """
        return batch

    def rest(self, piece: bytes, last: bool, /) -> None:
        """Look at a further piece of a line whose beginning was the last element of the batch fed before.

        ``last`` says that the line ends with this piece, which then has its terminator. An LF that came in another
        chunk than the CR it belongs to is such a piece, too. What became of the beginning becomes of the piece; a
        stage that held the beginning back must keep the piece, as well.
        """

    def end(self, end: End, /) -> tuple[B | None, End]:
        """Called exactly once, whatever happens; return a last batch, or None, and the ending.

        An ending other than `Eof` cannot be turned into `Eof`.
        """
        return None, end

    def _ask(self, head: Head) -> tuple[Head, bool]:
        """The head as it would leave this stage, and whether it may leave now."""
        answer = self.head(head)
        return (head, False) if answer is None else (answer, True)

    def _feed_open(self, batch: B) -> B:
        """Like `feed`, for a batch whose last line is only the beginning of one."""
        return self.feed(batch)

    def _observer(self, limit: int) -> Stage[B]:
        """This stage as it is to be inside `Observe`."""
        return self

    def _learn(self, form: Form) -> bool:
        """Say whether blocks of ``form`` need not be fed, because this stage would return them as they are.

        Asked between two blocks, right behind one of that form. It still holds in any later state between two blocks.
        What the stage notes of such blocks it adds to the form's ``notes``.
        """
        return False

    def _learn_comments(self, notes: list[Note]) -> bool | None:
        """Say what becomes of blocks of one comment and a blank line, in any state between two blocks.

        True: they are dropped; False: they pass. Either way what the stage notes of them is added to ``notes``, and
        they need not be fed. None: they have to be.
        """
        return None


def _end_stage(stage: Stage[B], end: End) -> tuple[B | None, End]:
    """End one stage; whatever it does there is an ending that does not hide a failure."""
    try:
        last, after = stage.end(end)
    except Cut as cut:
        return cut.batch, Failed(cut.error)  # type: ignore[return-value]  # a Cut's batch is of its stage's level
    except Exception as error:
        return None, Failed(error)
    if type(after) not in (Eof, Failed, Closed, Cancelled):
        return None, Failed(TypeError(f"{type(stage).__name__}.end returned {type(after).__name__} for an ending"))
    if isinstance(after, Eof) and not isinstance(end, Eof):
        return last, end
    return last, after


def _feed_last(stage: Stage[B], batch: B | None, end: End) -> tuple[B | None, End]:
    """Feed a stage the last batch of the stages before it, on the way to its ending."""
    try:
        return stage.feed(batch) if batch else None, end
    except Cut as cut:
        return cut.batch, Failed(cut.error)  # type: ignore[return-value]  # as in _end_stage
    except Exception as error:
        return None, Failed(error)


def _add(first: B | None, second: B | None) -> B | None:
    if not first or not second:
        return first or second
    return first + second  # type: ignore[operator, no-any-return]  # bytes and lists can be added; Sized does not say so


def _overrides(stage: Stage[B], name: str) -> bool:
    """Whether a stage, or its class, has a function of its own; found out without a look at its `__dict__`, which many
    objects have no need to make."""
    return getattr(getattr(stage, name), "__func__", None) is not getattr(Stage, name)


@attrs.frozen
class _Plan:
    """Which stages of a chain are to be called, by their places."""

    asked: tuple[int, ...]
    fed: tuple[int, ...]
    depths: tuple[int, ...]
    inherited: tuple[tuple[int, str], ...]
    """What is not called: places, and names of functions."""


def _plan(stages: tuple[Stage[B], ...]) -> _Plan:
    fed = [at for at, stage in enumerate(stages) if _overrides(stage, "feed") or _overrides(stage, "_feed_open")]
    return _Plan(
        asked=tuple(at for at, stage in enumerate(stages) if _overrides(stage, "head") or _overrides(stage, "_ask")),
        fed=tuple(fed),
        depths=tuple(at + 1 for at in fed),
        inherited=tuple(
            (at, name) for at, stage in enumerate(stages) for name in ("head", "feed") if not _overrides(stage, name)
        ),
    )


#: Plans by classes, since streams of one kind have stages of the same.
_plans: dict[tuple[type, ...], _Plan] = {}

_MAX_PLANS = 256
"""A program has a handful of kinds of streams."""


def _plan_for(stages: tuple[Stage[B], ...]) -> _Plan:
    kinds = tuple(map(type, stages))
    plan = _plans.get(kinds)
    if plan is None or any([_overrides(stages[at], name) for at, name in plan.inherited]):
        plan = _plan(stages)
        if kinds not in _plans and len(_plans) < _MAX_PLANS:
            _plans[kinds] = plan
    return plan


def _flatten(stages: Iterable[Stage[B]]) -> tuple[Stage[B], ...]:
    """Stages, with those of each chain in its place."""
    flat: list[Stage[B]] = []
    for stage in stages:
        flat += stage.stages if type(stage) is Chain else (stage,)
    if len(flat) > 1 and len(set(map(id, flat))) != len(flat):
        raise ValueError("a stage stands in the chain twice; each place needs one of its own")
    return tuple(flat)


def _learn_by(stage: Stage[B], form: Form) -> bool:
    """Ask a stage whether it knows a form."""
    return _answers(stage, "_learn") and stage._learn(form)


def _answers(stage: Stage[B], name: str) -> bool:
    """Whether ``name`` speaks for the stage's `feed`: not if that was overridden further down."""
    classes = type(stage).__mro__
    answers, feeds = (next(at for at, cls in enumerate(classes) if of in vars(cls)) for of in (name, "feed"))
    return answers <= feeds and getattr(stage.feed, "__func__", None) is type(stage).feed


_NONE: frozenset[int] = frozenset()


class Chain(Stage[B]):
    """One stage made of many, in order.

    A stage that does not override ``feed`` costs nothing per batch, nor one without a ``head`` when that is asked for.
    """

    def __init__(self, *stages: Stage[B]) -> None:
        self.stages = _flatten(stages)
        self.needs_whole_lines = any([stage.needs_whole_lines for stage in self.stages])
        plan = _plan_for(self.stages)
        self._plan = plan
        self._fed: Sequence[Stage[B]] = tuple([self.stages[at] for at in plan.fed])
        self._feeding = self._fed  # the same, up to a stage that raised
        self._rests: tuple[Stage[B], ...] = ()
        self._broken = _NONE  # the identities of stages that raised

    def head(self, head: Head, /) -> Head | None:
        answer, ready = self._ask(head)
        return answer if ready else None

    def _ask(self, head: Head) -> tuple[Head, bool]:
        # Every stage is asked, also behind one that says "not yet": a later one may have to know what kind of body
        # it is fed in the meantime, and at a clean ending the head leaves all the same.
        ready = True
        for at in self._plan.asked:
            head, agrees = self.stages[at]._ask(head)
            ready = ready and agrees
        return head, ready

    def feed(self, batch: B, /) -> B:
        stage = None
        try:
            for stage in self._feeding:
                batch = stage.feed(batch)
                if not batch:
                    break
        except Exception as error:
            self._fail(next(at for at, other in enumerate(self._feeding) if other is stage), error)
        return batch

    def _fail(self, at: int, error: Exception) -> NoReturn:
        """Note that the stage ``at`` (of those that are fed) raised, and raise what is to become of it."""
        self._broken |= {id(self._fed[at])}
        self._feeding = (*self._feeding[:at], _Swallow())
        if not isinstance(error, Cut):
            raise error
        batch = error.batch
        for i, stage in enumerate(self._fed[at + 1 :], at + 1):
            if not batch:
                break
            try:
                batch = stage.feed(batch)  # type: ignore[arg-type]  # a Cut's batch is of its stage's level
            except Exception as earlier:  # it failed at bytes that come before the first fault
                self._fail(i, earlier)
        raise Cut(batch, error.error)

    def rest(self, piece: bytes, last: bool, /) -> None:
        for stage in self._rests:
            try:
                stage.rest(piece, last)
            except Exception:
                self._broken |= {id(stage)}
                raise

    def end(self, end: End, /) -> tuple[B | None, End]:
        batch: B | None = None
        for stage in self.stages:
            if self._broken and id(stage) in self._broken:
                batch = None
            elif batch is not None:
                batch, end = _feed_last(stage, batch, end)
            last, end = _end_stage(stage, end)
            try:
                batch = _add(batch, last)
            except Exception as error:
                end = Failed(error)
        return batch, end

    def _learn(self, form: Form) -> bool:
        return not self._broken and all(_learn_by(stage, form) for stage in self._fed)

    def _drops(self) -> Sequence[Note] | None:
        """What is to be noted of blocks of one comment that a stage drops; None if they have to be fed."""
        notes: list[Note] = []
        for stage in self._fed:
            drops = stage._learn_comments(notes) if _answers(stage, "_learn_comments") else None
            if drops is not False:
                return notes if drops else None
        return None

    def _feed_open(self, batch: B) -> B:
        return self.feed_open(batch)[0]

    def feed_open(self, batch: B) -> tuple[B, bool]:
        """Feed lines of which the last is only a beginning; also say whether the rest of that line is to go out.

        Where the line stops being as open as it was, it was dropped, or is held; the stages up to there see its rest.
        """
        line = _last(batch)
        depth = at = 0
        try:
            for at, stage in enumerate(self._fed):
                batch = stage.feed(batch) if depth else stage._feed_open(batch)
                if not depth and not _is_open(batch, line):
                    depth = self._plan.depths[at]
                if not batch:
                    break
        except Exception as error:
            self._fail(at, error)
        concerned = self.stages[:depth] if depth else self.stages
        self._rests = tuple(stage for stage in concerned if _overrides(stage, "rest"))
        return batch, not depth


class _Swallow(Stage[B]):
    """What stands in a chain for a stage that raised."""

    def feed(self, batch: B, /) -> B:
        return batch[:0]  # type: ignore[index, no-any-return]  # bytes and lists can be sliced; Sized does not say so


def _last(lines: Sized) -> bytes:
    return lines[-1]  # type: ignore[index, no-any-return]  # only batches of lines have an open end


def _is_open(batch: Sized, line: bytes) -> bool:
    """Whether the last line of ``batch`` is ``line``, or was made from it and is as unfinished as it is.

    A line is open if it has no terminator yet, or a CR at the end of a chunk: an LF may follow.
    """
    if not batch:
        return False
    last = _last(batch)
    return last is line or (last.endswith(b"\r") if line.endswith(b"\r") else not last.endswith((b"\n", b"\r")))


class Observe(Stage[B]):
    """Let stages look at a stream that they cannot touch.

    The same object comes out at once, whatever the stages return, hold or raise. Nothing is delayed, no whole line is
    asked for, and the ending is never changed. Around `by_event`, an event of up to ``limit`` bytes is shown whole when
    its blank line comes; of a longer one the first and the last half of ``limit`` are shown, see `Event.cut`.

    Args:
        limit: bytes of one event that may be kept, 256 KiB by default.
        on_error: called, once, with what a stage raised; nothing is shown to the stages from then on, but they are
            still ended. Without it the error is forgotten.
    """

    needs_whole_lines = False

    def __init__(
        self,
        *stages: Stage[B],
        limit: int = DEFAULT_OBSERVE_LIMIT,
        on_error: Callable[[Exception], object] | None = None,
    ) -> None:
        if limit < 2:
            raise ValueError(f"limit={limit}: an observer needs at least 2 bytes")
        self._chain = Chain(*[stage._observer(limit) for stage in _flatten(stages)])
        self._on_error = on_error
        self._looking = True
        self._notes: list[Note] = []  # what the stages note of blocks of a form that they know

    def _ask(self, head: Head) -> tuple[Head, bool]:
        if self._looking:
            try:
                self._chain._ask(head)
            except Exception as error:
                self._stop(error)
        return head, True

    def feed(self, batch: B, /) -> B:
        if self._looking:
            try:
                self._chain.feed(_copy(batch))
            except Exception as error:
                self._stop(error)
        return batch

    def _feed_open(self, batch: B) -> B:
        if self._looking:
            try:
                self._chain.feed_open(_copy(batch))
            except Exception as error:
                self._stop(error)
        return batch

    def _learn(self, form: Form) -> bool:
        if not self._looking:
            return True
        others = len(form.notes)
        try:
            learned = self._chain._learn(form)
        except Exception as error:
            self._stop(error)
            learned = False
        if not learned:
            return False
        self._notes = form.notes[others:]
        form.notes[others:] = [self._note]
        return True

    def _note(self, count: int, size: int, data: int) -> None:
        if self._looking:
            for note in self._notes:
                note(count, size, data)

    def rest(self, piece: bytes, last: bool, /) -> None:
        if self._looking:
            try:
                self._chain.rest(piece, last)
            except Exception as error:
                self._stop(error)

    def end(self, end: End, /) -> tuple[B | None, End]:
        _, after = self._chain.end(end)
        if isinstance(after, Failed) and after != end:
            self._stop(after.error)
        return None, end

    def _stop(self, error: Exception) -> None:
        if self._looking:
            self._looking = False
            if self._on_error is not None:
                with contextlib.suppress(Exception):  # an observer cannot touch the stream by this way either
                    self._on_error(error.error if isinstance(error, Cut) else error)


def _copy(batch: B) -> B:
    return batch[:]  # type: ignore[index, no-any-return]  # of bytes the same object, of a list another
