"""by_line: lines, and nothing but lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseflow import Cut, End, Eof, Failed, Head, Lines, LineTooLong, Pipeline, Stage, by_line
from sseflow._lines import _content, _line_end
from sseflow.stages import EofRecorder
from sseflow.testing import every_split

from .strategies import HEAD, LOST, TERMINATORS, drive, run

ERROR = ValueError("broken")


class Spy(Stage[Lines]):
    """Note each call."""

    def __init__(self, *, needs_whole_lines: bool = True) -> None:
        self.needs_whole_lines = needs_whole_lines
        self.calls: list[Lines | tuple[bytes, bool]] = []

    def feed(self, batch: Lines, /) -> Lines:
        self.calls.append(batch)
        return batch

    def rest(self, piece: bytes, last: bool, /) -> None:
        self.calls.append((piece, last))


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        pytest.param([b"a\nb\n"], [[b"a\n", b"b\n"]], id="a-batch"),
        pytest.param([b"a", b"b", b"\nc"], [[b"ab\n"], [b"c"]], id="fragments"),
        pytest.param([b"a\r", b"b\n"], [[b"a\r"], [b"b\n"]], id="cr-ends-at-once"),
        pytest.param([b"a\r", b"\n", b"\n"], [[b"a\r"], (b"\n", True), [b"\n"]], id="crlf-cut"),
        pytest.param([b"a", b"\r", b"\nb\n"], [[b"a\r"], (b"\n", True), [b"b\n"]], id="crlf-drip"),
        pytest.param([b"a\rb\r\nc\n\r"], [[b"a\r", b"b\r\n", b"c\n"], [b"\r"]], id="mixed"),
        pytest.param([b"\r", b"\r"], [[b"\r"], [b"\r"]], id="two-cr"),
        pytest.param([b"a\x0bb\x0cc\x1c\x1d\x1e\x85\n"], [[b"a\x0bb\x0cc\x1c\x1d\x1e\x85\n"]], id="no-other-line-end"),
        pytest.param(["a\u2028b\u2029c\u0085\n".encode()], [["a\u2028b\u2029c\u0085\n".encode()]], id="no-unicode-end"),
        pytest.param([b"\xef\xbb\xbfa\n"], [[b"a\n"]], id="bom"),
        pytest.param([b"\xef", b"\xbb", b"\xbfa\n"], [[b"a\n"]], id="bom-in-three"),
        pytest.param([b"\xef\xbb", b"a\n"], [[b"\xef\xbba\n"]], id="no-bom-after-all"),
        pytest.param([b"\xef\xbb"], [[b"\xef\xbb"]], id="half-a-bom"),
        pytest.param([b"\xef\xbb\xbf"], [], id="bom-only"),
        pytest.param([b"\xef\xbb\xbf\xef\xbb\xbf\n"], [[b"\xef\xbb\xbf\n"]], id="one-bom-only"),
        pytest.param([b"a\n\xef\xbb\xbfb\n"], [[b"a\n", b"\xef\xbb\xbfb\n"]], id="bom-later"),
        pytest.param([], [], id="nothing"),
    ],
)
def test_what_stages_of_lines_are_shown(chunks: list[bytes], calls: list[object]) -> None:
    """Batches of lines with their terminators; an LF that comes later; the byte order mark never."""
    spy = Spy()
    assert run(by_line(spy), chunks=chunks) == (b"".join(chunks), Eof())
    assert spy.calls == calls


@pytest.mark.parametrize("end", TERMINATORS, ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("length", [64, 65], ids=["whole", "longer"])
def test_whole_is_exact(length: int, end: bytes) -> None:
    """A line of up to ``whole`` bytes of content is shown whole, a longer one by its beginning; for each cut."""
    line = b"a" * 63 + b"b" * (length - 63)
    for chunks in every_split(line + end + b"c\n"):
        spy = Spy(needs_whole_lines=False)
        assert run(by_line(spy, whole=64), chunks=chunks) == (line + end + b"c\n", Eof())
        batches = [call for call in spy.calls if isinstance(call, list)]
        rests = b"".join(call[0] for call in spy.calls if isinstance(call, tuple))
        lines = [line for batch in batches for line in batch]
        if length == 64:
            assert lines in ([line + end, b"c\n"], [line + b"\r", b"c\n"])
        else:
            assert lines[0] == line[:64]
            assert rests == b"b" + end


def test_a_long_line_leaves_when_its_beginning_is_there() -> None:
    """As soon as one byte more than ``whole`` has come, everything is out, and the rest flows through uncopied."""
    spy = Spy(needs_whole_lines=False)
    pipeline = Pipeline(by_line(spy, whole=64))
    assert pipeline.feed(b"x" * 64) == []
    assert pipeline.feed(b"y") == [b"x" * 64 + b"y"]
    piece = b"z" * 50
    (out,) = pipeline.feed(piece)
    assert out is piece
    assert pipeline.feed(b"\r") == [b"\r"]
    assert pipeline.feed(b"\nnext\n") == [b"\nnext\n"]
    assert spy.calls == [[b"x" * 64], (b"y", False), (piece, False), (b"\r", True), (b"\n", True), [b"next\n"]]


def test_a_long_line_that_never_ends() -> None:
    """What of a long line is there at the ending is out; the ending adds nothing."""
    spy = Spy(needs_whole_lines=False)
    assert run(by_line(spy, whole=64), chunks=[b"x" * 100]) == (b"x" * 100, Eof())
    assert spy.calls == [[b"x" * 64], (b"x" * 36, False)]


def test_chains_that_need_whole_lines_hold_them() -> None:
    """One stage that needs whole lines is enough: nothing of a line goes out before its end."""
    spy = Spy(needs_whole_lines=False)
    pipeline = Pipeline(by_line(spy, Stage[Lines](), whole=64))
    assert pipeline.feed(b"x" * 100) == []
    assert pipeline.feed(b"\n") == [b"x" * 100 + b"\n"]
    assert spy.calls == [[b"x" * 100 + b"\n"]]


@pytest.mark.parametrize("holds", [True, False], ids=["held", "judged"])
@pytest.mark.parametrize("end", [*TERMINATORS, b""], ids=["lf", "crlf", "cr", "none"])
@pytest.mark.parametrize("max_line", [5, 63, 64, 65, 70, 128])
def test_max_line_is_exact(max_line: int, end: bytes, holds: bool) -> None:
    """Exactly ``max_line`` bytes of content pass, whatever the terminator and the cuts; one byte more fails."""
    fits, too_long = b"a\n" + b"x" * max_line + end, b"a\n" + b"x" * (max_line + 1) + end
    for chunks in [[fits], [fits[i : i + 1] for i in range(len(fits))], [fits[:-1], fits[-1:]], [fits[:4], fits[4:]]]:
        assert run(by_line(Spy(needs_whole_lines=holds), max_line=max_line, whole=64), chunks=chunks) == (fits, Eof())
    for cut in range(1, len(too_long)):
        chunks = [too_long[:cut], too_long[cut:]]
        out, ending = run(by_line(Spy(needs_whole_lines=holds), max_line=max_line, whole=64), chunks=chunks)
        assert isinstance(ending, Failed)
        error = ending.error
        assert isinstance(error, LineTooLong)
        assert (error.limit, error.knob, error.seen) == (max_line, "max_line", max_line + 1)
        assert out == (b"a\n" if holds else b"a\n" + b"x" * max_line)


def test_what_was_let_out_before_a_line_too_long() -> None:
    """The lines before it in the same chunk leave, and nothing behind it."""
    for chunks in every_split(b"a\nb\n" + b"x" * 9 + b"\nc\n"):
        out, ending = run(by_line(Spy(), max_line=8), chunks=chunks)
        assert out == b"a\nb\n"
        assert isinstance(ending, Failed)
        assert isinstance(ending.error, LineTooLong)


def test_a_dropped_line_is_not_bounded() -> None:
    """A line that is dropped by its beginning may be of any length, and counts for nothing."""

    class DropX(Stage[Lines]):
        needs_whole_lines = False

        def feed(self, batch: Lines, /) -> Lines:
            return [line for line in batch if not line.startswith(b"x")]

    chunks = [b"a\n", *[b"x" * 50] * 20, b"\r", b"\nb\n"]
    assert run(by_line(DropX(), max_line=70, whole=64), chunks=chunks) == (b"a\nb\n", Eof())


def test_the_rest_of_a_line_is_never_empty() -> None:
    """Where the limit falls between two chunks, no empty piece is shown."""
    spy = Spy(needs_whole_lines=False)
    _, ending = run(by_line(spy, max_line=64, whole=64), chunks=[b"x" * 64, b"x"])
    assert isinstance(ending, Failed)
    assert spy.calls == [[b"x" * 64]]


@pytest.mark.parametrize(
    "chunks", [[b"a\n"] * 3, [b"a", b"\n"], [b"a\r", b"b"], [b"x" * 100]], ids=["plain", "drip", "cr", "long"]
)
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "raise"])
def test_a_stage_that_raises(chunks: list[bytes], cut: bool) -> None:
    """Its error ends the stream, on every path; a `Cut` of lines becomes one of bytes."""

    class Bad(Stage[Lines]):
        needs_whole_lines = False

        def __init__(self) -> None:
            self.fed = 0

        def feed(self, batch: Lines, /) -> Lines:
            self.fed += 1
            if chunks[0] == b"a\n" and self.fed < 3:
                return batch
            raise Cut([b"good\n"], ERROR) if cut else ERROR

    before = b"a\na\n" if chunks[0] == b"a\n" else b""
    assert run(by_line(Bad(), whole=64), chunks=chunks) == (before + b"good\n" * cut, Failed(ERROR))


def test_an_unchanged_chunk_is_the_same_object() -> None:
    """A chunk comes out as it went in when the lines are equal, also if the list is another, and as a whole."""

    class Copy(Stage[Lines]):
        def feed(self, batch: Lines, /) -> Lines:
            return list(batch)

    pipeline = Pipeline(by_line(Copy()))
    for chunk in (b"\xef\xbb\xbfa\n", b"a\nb\r\n", b"c\nd\r", b"\ne\n", b"f\n"):
        (out,) = pipeline.feed(chunk)
        assert out is chunk


def test_when_lets_bodies_through() -> None:
    """A body that is none of the chain's business goes through untouched; the stages are ended, and change nothing."""

    class Last(Stage[Lines]):
        def head(self, head: Head, /) -> Head | None:
            return None

        def end(self, end: End, /) -> tuple[Lines | None, End]:
            return [b"last"], Failed(ERROR)

    spy, recorder = Spy(), EofRecorder[Lines]()
    asked: list[Head] = []

    def when(head: Head) -> bool:
        asked.append(head)
        return False

    stage = by_line(spy, recorder, Last(), when=when, max_line=2)
    data = b"\xef\xbbmore than two"
    items = drive(Pipeline(stage), [data], LOST)
    assert items == [HEAD, data, LOST]
    assert items[1] is data
    assert (spy.calls, recorder.ending, asked) == ([], LOST, [HEAD])


def test_when_says_yes() -> None:
    """A body that is the chain's business runs through it, and so does its head."""
    spy = Spy()
    stage = by_line(spy, when=lambda head: head.status == 200)
    assert drive(Pipeline(stage), [b"a\n"], Eof()) == [HEAD, b"a\n", Eof()]
    assert spy.calls == [[b"a\n"]]
    assert stage.head(HEAD) is HEAD


def test_a_head_that_is_held_by_a_stage_of_lines() -> None:
    """Stages of lines are asked for the head like any other."""

    class Shut(Stage[Lines]):
        def head(self, head: Head, /) -> None:
            return None

    assert by_line(Shut()).head(HEAD) is None


@pytest.mark.parametrize(("option", "value"), [("max_line", 0), ("whole", 63)], ids=["max_line", "whole"])
def test_limits_that_cannot_be(option: str, value: int) -> None:
    """A limit that makes no sense is refused, with its name and value."""
    with pytest.raises(ValueError, match=f"{option}={value}"):
        by_line(**{option: value})  # type: ignore[arg-type]
    by_line(**{option: value + 1})  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r"]), max_size=12).map(b"".join))
def test_line_end_is_that_of_splitlines(data: bytes) -> None:
    """The search for one line end agrees with the splitting of many."""
    lines = data.splitlines(keepends=True)
    has_end = bool(lines) and lines[0].endswith((b"\n", b"\r"))
    assert _line_end(data) == (len(lines[0]) if has_end else 0)
    assert [_content(line) for line in lines] == [len(line) for line in data.splitlines()]
