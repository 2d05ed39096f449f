"""What is timed is right: the shapes are what they say, and whoever loses, doubles or swaps a byte is found out."""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from benchmarks import __main__ as program
from benchmarks import bench, core, loadgen, proxy, results
from benchmarks.checking import LAST_CHUNK, Check, Count, Script
from benchmarks.ends import Requests
from benchmarks.jobs import Job
from benchmarks.processes import ROOT, Target, Wrong, is_supported
from benchmarks.results import Missing, Reading, Results, Series
from benchmarks.shapes import LINES, SHAPES, Shape, frame
from sseflow import Eof, EventParser, Head, Pipeline, StandardPipeline, by_line
from sseflow.stages import DataCounter

SMALL = [name for name in SHAPES if not name.startswith("line-")]

needs_linux = pytest.mark.skipif(not is_supported(), reason="the load generator needs Linux: epoll and /proc")


def flow(pipeline: Pipeline, chunks: Iterable[bytes]) -> bytes:
    """Send a stream through a pipeline; return all bytes that come out. It must end well."""
    items = pipeline.head(core.HEAD)
    for chunk in chunks:
        items += pipeline.feed(chunk)
    items += pipeline.end(Eof())
    assert pipeline.ending == Eof()
    assert [type(item) for item in items if not isinstance(item, bytes)] == [Head, Eof]
    return b"".join(item for item in items if isinstance(item, bytes))


# Shapes.


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_holds_what_it_says(name: str) -> None:
    """The parser finds as many events, and the counter as many comments."""
    shape = SHAPES[name]()
    repeat = 1 if name in LINES else 2
    parser, counter = EventParser(), DataCounter()
    pipeline = Pipeline(by_line(counter))
    events = []
    for chunk in shape.chunks(repeat):
        events += parser.feed(chunk)
    parser.end()
    assert shape.name == name
    assert len(events) == shape.events * repeat + shape.tail_events
    assert flow(pipeline, shape.chunks(repeat)) == b"".join(shape.chunks(repeat))
    assert counter.data_events == len(events)
    assert counter.comments == shape.comments * repeat
    assert counter.raw_bytes == shape.size * repeat + sum(map(len, shape.tail))


@pytest.mark.parametrize("name", SHAPES)
def test_the_default_pipeline_lets_out_what_a_shape_says(name: str) -> None:
    """Byte for byte, to a clean end, with the same counts."""
    shape = SHAPES[name]()
    repeat = 1 if name in LINES else 2
    pipeline = StandardPipeline(core.dialect_of(shape))
    assert flow(pipeline, shape.chunks(repeat)) == shape.out(repeat)
    assert pipeline.counter.data_events == shape.events * repeat + shape.tail_events
    assert pipeline.counter.comments == shape.comments * repeat


@pytest.mark.parametrize("name", SMALL)
def test_the_cuts_of_a_shape_do_not_matter(name: str) -> None:
    """The same stream cut anywhere else comes to the same bytes: what is timed is no accident of its chunks."""
    shape = SHAPES[name]()
    whole = b"".join(shape.chunks())
    draw = random.Random(name)
    cuts = sorted({0, len(whole), *(draw.randrange(len(whole)) for _ in range(200))})
    pieces = [whole[a:b] for a, b in itertools.pairwise(cuts)]
    assert flow(StandardPipeline(core.dialect_of(shape)), pieces) == shape.out()


@pytest.mark.parametrize("name", ["token", "one", "coalesced", "comments", "bulk"])
def test_what_is_kept_is_kept_chunk_by_chunk(name: str) -> None:
    """In lock step what comes of each chunk comes before the next is sent."""
    shape = SHAPES[name]()
    pipeline = StandardPipeline(core.dialect_of(shape))
    pipeline.head(core.HEAD)
    out = [b"".join(item for item in pipeline.feed(chunk) if isinstance(item, bytes)) for chunk in shape.body]
    assert out == list(shape.kept or shape.body)


def test_shapes_are_as_long_as_they_are_called() -> None:
    """A token is about 220 bytes, a bulk event 4 KiB, and a line as long as it says, without its line end."""
    assert {round(len(token), -1) for token in SHAPES["token"]().body} == {220}
    assert {len(event) for event in SHAPES["bulk"]().body} == {4096}
    for name, size in LINES.items():
        assert {len(line) for line in b"".join(SHAPES[name]().body).splitlines() if line} == {size}
    assert max(map(len, SHAPES["drip"]().body)) == 256


# Checking.


@pytest.fixture(params=[True, False], ids=["http", "bare"])
def script(request: pytest.FixtureRequest) -> Script:
    """The token shape on a wire."""
    return Script(SHAPES["token"](), http=request.param, stripped=False)


def received(script: Script, repeat: int = 2) -> bytes:
    """All that comes of it, as it was sent."""
    return b"".join(script.pieces) * repeat + script.tail


def check(script: Script, data: bytes, size: int, repeat: int = 2) -> Check:
    """Receive ``data`` in reads of ``size`` bytes."""
    found = Check(script, repeat * len(script.pieces))
    for at in range(0, len(data), size):
        found.take(data[at : at + size])
    return found


@pytest.mark.parametrize("size", [1, 7, 225, 4096, 10**6])
def test_what_is_right_is_right(script: Script, size: int) -> None:
    """However it is read; and it is done with the last byte only."""
    data = received(script)
    whole = check(script, data, size)
    assert whole.done
    assert whole.payload == len(SHAPES["token"]().out(2))
    assert not check(script, data[:-1], size).done


@pytest.mark.parametrize("size", [1, 100, 10**6])
def test_chunks_may_be_cut_otherwise(size: int) -> None:
    """A relay that sends the same payload in other chunks is right, too."""
    script = Script(SHAPES["token"](), http=True, stripped=False)
    payload = SHAPES["token"]().out(2)
    data = b"".join(frame(payload[at : at + 1000]) for at in range(0, len(payload), 1000)) + LAST_CHUNK
    assert check(script, data, size).done
    mixed = b"".join(script.pieces) + b"".join(frame(payload[at : at + 1]) for at in range(9000, len(payload)))
    assert check(script, mixed + LAST_CHUNK, size).done


def _without(data: bytes) -> bytes:
    return data[:5000] + data[5001:]


def _changed(data: bytes) -> bytes:
    return data[:5000] + b"\0" + data[5001:]


def _doubled(data: bytes) -> bytes:
    return data[:5001] + data[5000:]


def _swapped(data: bytes) -> bytes:
    return data.replace(b"token03", b"token??", 1).replace(b"token04", b"token03", 1).replace(b"token??", b"token04", 1)


def _longer(data: bytes) -> bytes:
    return data + b"x"


@pytest.mark.parametrize("size", [1, 7, 225, 10**6])
@pytest.mark.parametrize("spoil", [_without, _changed, _doubled, _swapped, _longer])
def test_what_is_wrong_is_found(script: Script, spoil: Callable[[bytes], bytes], size: int) -> None:
    """A byte that is missing, other, double or too many, and two events in the wrong order."""
    data = spoil(received(script))
    with pytest.raises((Wrong, ValueError)):
        check(script, data, size).eof()


def test_an_end_that_comes_too_early_is_found(script: Script) -> None:
    """A lost event, and a lost last chunk."""
    short = b"".join(script.pieces[:-1]) + script.tail
    with pytest.raises(Wrong):
        check(script, short, 10**6, repeat=1).eof()
    with pytest.raises(Wrong):
        check(script, received(script)[:-5], 10**6).eof()


def test_somebody_else_may_have_looked() -> None:
    """`Check.skip` goes on behind the pieces that were compared before."""
    script = Script(SHAPES["comments"](), http=True, stripped=True)
    found = Check(script)
    found.skip(41)
    found.take(script.expected[1])
    assert found.payload == script.payload_size(42)
    found.end(42)
    found.take(script.tail)
    assert found.done


@pytest.mark.parametrize("size", [1, 7, 225, 10**6])
def test_what_is_written_anew_is_counted(size: int) -> None:
    """All events have to come, and the last chunk; what they are called does not matter."""
    script = Script(SHAPES["token"](), http=True, stripped=False)
    anew = b"".join(frame(b'data: {"x":%d}\n\n' % i) for i in range(80)) + frame(b"data: [DONE]\n\n") + LAST_CHUNK

    def count(data: bytes) -> Count:
        found = Count(script, 80)
        for at in range(0, len(data), size):
            found.take(data[at : at + size])
        return found

    assert count(anew).done
    assert count(anew).has(80)
    assert not count(anew).has(81)
    count(anew).eof()
    for short in (anew[:-1], anew.replace(b"{", b"", 1)):
        assert not count(short).done
        with pytest.raises(Wrong, match="ended after"):
            count(short).eof()


# The generator.


def test_a_request_is_known_again() -> None:
    """Also behind a relay that writes it anew; one of another job is not, and none is before its end."""
    requests, others = Requests(chat=True), Requests(chat=False)
    for at in range(len(requests[7])):
        assert not requests.is_whole(requests[7][:at])
    assert requests.is_whole(requests[7])
    assert (requests.stream_of(requests[7]), others.stream_of(requests[7])) == (7, None)
    head, _, body = requests[7].partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    anew = json.dumps(dict(reversed(json.loads(body).items()))).encode()
    counted = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(anew), anew)
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + frame(anew) + LAST_CHUNK
    for request in (counted, chunked):
        assert requests.is_whole(request)
        assert not requests.is_whole(request[:-1])
        assert requests.stream_of(request) == 7


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where its upstream listens."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        sock.setblocking(False)
        yield sock


@needs_linux
@pytest.mark.parametrize("http", [True, False], ids=["http", "bare"])
@pytest.mark.parametrize(
    "job",
    [
        Job(mode="lockstep", shape="token", port=None, streams=3, seconds=0.02, limit=20),
        Job(mode="lockstep", shape="comments", port=None, streams=3, seconds=0.02, limit=20),
        Job(mode="pour", shape="coalesced", port=None, streams=2, repeat=50, limit=20),
        Job(mode="paced", shape="token", port=None, streams=3, rate=2000, repeat=10, limit=20),
        Job(mode="idle", shape="token", port=None, streams=3, limit=20),
        Job(mode="soak", shape="token", port=None, streams=2, rate=500, repeat=5, seconds=0.1, limit=20),
    ],
    ids=lambda job: f"{job.mode}-{job.shape}",
)
def test_the_generator_hears_itself(listener: socket.socket, job: Job, http: bool) -> None:
    """Connected to itself it loses nothing, and counts what it sent."""
    report = loadgen.do(attrs.evolve(job, http=http), listener)
    assert report.wrong is None
    expected = {"pour": 2 * 50 * 40, "paced": 30, "idle": 3}.get(job.mode)
    assert report.count == expected if expected else report.count > 0


@needs_linux
def test_the_generator_makes_requests(listener: socket.socket) -> None:
    """Each answer is a whole stream, and its time is taken."""
    report = loadgen.do(Job(mode="requests", shape="one", port=None, streams=2, seconds=0.02, limit=20), listener)
    assert report.wrong is None
    assert report.count > 0
    assert 0 < report.median <= report.p99


@needs_linux
@pytest.mark.parametrize("mode", ["lockstep", "requests", "soak"])
def test_the_generator_speaks_tls(listener: socket.socket, mode: str) -> None:
    """Client and upstream, both."""
    with bench.Setup(smoke=True) as setup:
        job = Job(mode=mode, shape="one", port=None, streams=3, seconds=0.02, rate=500, upstream_tls=True, limit=20)
        report = loadgen.do(attrs.evolve(job, certificates=str(setup.certificates)), listener)
    assert report.wrong is None
    assert report.count > 0


@needs_linux
def test_a_soak_is_looked_at_again_and_again(listener: socket.socket) -> None:
    """The memory of the target, from the beginning on."""
    job = Job(mode="soak", shape="token", port=None, streams=2, rate=500, repeat=5, seconds=0.6, pids=(os.getpid(),))
    report = loadgen.do(job, listener)
    assert report.wrong is None
    assert len(report.samples) == 2
    assert all(size > 0 for _, size in report.samples)


def test_a_trend_is_a_slope_with_its_error() -> None:
    """Of what comes behind the first third; exact for what is a line there."""
    line = tuple((float(at), 100.0 + 3 * at if at >= 5 else 0.0) for at in range(15))
    assert proxy.trend(line) == pytest.approx((3.0, 0.0))
    noisy = tuple((at, value + (-1) ** int(at)) for at, value in line)
    slope, error = proxy.trend(noisy)
    assert abs(slope - 3.0) < 2 * error < 1.0
    assert proxy.trend(line[:2]) == (0.0, 0.0)


@needs_linux
def test_the_generator_gives_up(listener: socket.socket) -> None:
    """A target that accepts and never answers costs the limit, not for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        job = Job(mode="idle", shape="token", port=silent.getsockname()[1], limit=0.05)
        report = loadgen.do(job, listener)
    assert report.wrong is not None
    assert "the time was over" in report.wrong


# Results.


def reading(value: float, **more: Any) -> Reading:
    """A reading of one benchmark."""
    made = Reading(benchmark="b", metric="m", unit="us", subject="s", value=value)
    return attrs.evolve(made, **more)


def test_runs_become_medians_with_quartiles() -> None:
    """Of five runs the third in order, between the second and the fourth."""
    found = Results()
    for value in (5.0, 1.0, 2.0, 4.0, 3.0):
        found.add("g", reading(value))
    rows: Any = found.as_json()["results"]
    assert [(row["q1"], row["median"], row["q3"]) for row in rows] == [(2.0, 3.0, 4.0)]
    assert found.rows("g") == (["", "", "unit", "s"], [["b", "m", "us", "3.00 (2.00..4.00)"]])


def test_what_comes_near_the_ceiling_is_marked() -> None:
    """From nine tenths of what the generator reaches alone it may be the generator that is measured."""
    found = Results()
    found.add("g", reading(89.0, ceiling=100.0))
    found.add("g", reading(90.0, ceiling=100.0, subject="t"))
    found.add("g", reading(99.0, subject="u"))
    assert found.rows("g")[1] == [["b", "m", "us", "89.0", "90.0*", "99.0"]]


def test_what_was_disturbed_is_marked() -> None:
    """One run in which something else had the cores is enough."""
    found = Results()
    found.add("g", reading(1.0, waited=0.05))
    found.add("g", reading(1.0, waited=0.1, subject="t"))
    found.add("g", reading(1.0, subject="t"))
    assert found.rows("g")[1] == [["b", "m", "us", "1.00", "1.00~ (1.00..1.00)"]]


def test_what_is_missing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """In its column, and below with the reason: once for what is not there, and for each benchmark that failed."""
    found = Results()
    for benchmark in ("b", "c"):
        found.add("g", reading(1.0, benchmark=benchmark))
        found.add("g", Missing(benchmark=benchmark, subject="t", short="not installed", why="apt-get install t"))
    found.add("g", Missing(benchmark="b", subject="u", short="failed", why="lost a byte"))
    assert found.rows("g")[0] == ["", "", "unit", "s", "t", "u"]
    assert [row[3:] for row in found.rows("g")[1]] == [
        ["1.00", "not installed", "failed"],
        ["1.00", "not installed", ""],
    ]
    results.show(found)
    printed = capsys.readouterr().out
    assert printed.count("t not installed: apt-get install t") == 1
    assert "u b failed: lost a byte" in printed
    assert found.problems == []


def test_tables_are_printed_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed has every number either way."""
    found = Results()
    found.add("g", reading(1234.5))
    results.show(found)
    assert "1,234" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "rich.box", None)
    results.show(found)
    assert "1,234" in capsys.readouterr().out


# The program.


def test_names_choose_benchmarks() -> None:
    """A name is that of a benchmark or of a group; an unknown one is refused with those that there are."""
    assert [b.name for b in program.choose(["integrity"])] == ["integrity"]
    assert {b.group for b in program.choose(["core", "events"])} == {"core", "proxy"}
    assert program.choose([]) == [b for b in program.BENCHMARKS if b.name != "soak"]
    assert "soak" not in {b.name for b in program.choose(["scaling"])}
    assert [b.name for b in program.choose(["soak"])] == ["soak"]
    assert [b.name for b in program.parse(["--only", "events", "--soak", "9"]).benchmarks] == ["events", "soak"]
    with pytest.raises(ValueError, match=r"there are: .*integrity"):
        program.choose(["nonsense"])
    with pytest.raises(SystemExit) as exited:
        program.main(["--only", "nonsense"])
    assert exited.value.code == 2


def test_what_is_wrong_is_in_the_exit_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A benchmark that found something wrong does not stop the others, and the program says so."""

    def broken(_: bench.Setup) -> Iterator[Reading]:
        yield reading(1.0)
        raise Wrong("a byte was lost")

    series = Series(benchmark="b", metric="m", unit="us", subject="s", points=((0.0, 1.0),))

    def sound(_: bench.Setup) -> Iterator[Reading | Series]:
        yield reading(2.0)
        yield series

    pair = (bench.Benchmark("g", "broken", broken, False), bench.Benchmark("g", "sound", sound, False))
    monkeypatch.setattr(program, "BENCHMARKS", pair)
    path = tmp_path / "results.json"
    assert program.main(["--smoke", "--json", str(path)]) == 1
    written = json.loads(path.read_text())
    assert written["problems"] == ["broken: a byte was lost"]
    assert written["results"][0]["values"] == [1.0, 2.0]
    assert written["machine"]["generator"] == loadgen.KIND
    assert written["missing"] == []
    assert written["series"] == [{**attrs.asdict(series), "points": [[0.0, 1.0]]}]
    assert program.main(["--smoke", "--only", "sound"]) == 0


def test_a_core_pipeline_that_loses_bytes_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out is counted in every pass."""

    def short(shape: Shape, repeat: int = 1) -> bytes:
        return b""

    monkeypatch.setattr(Shape, "out", short)
    with bench.Setup(smoke=True) as setup, pytest.raises(Wrong, match="came out of 'strip'"):
        list(core._measure(setup, SHAPES["comments"](), core.pipelines(core.dialect_of(SHAPES["comments"]()))))


def test_what_the_proxy_logs_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that it calls truncated, and one with another number of events, is wrong."""
    monkeypatch.setattr(proxy, "WARM_STREAMS", 0)
    monkeypatch.setattr(proxy, "LOG_SECONDS", 0.5)
    log = tmp_path / "log"
    target = Target(1, 0, log)
    job = Job(mode="pour", shape="token", port=1, repeat=2)

    def logged(**fields: object) -> None:
        log.write_text("noise\n" + json.dumps({"event": "exchange", **fields}) + "\n")

    logged(verdict="complete", events=81)
    proxy.check_log(target, job)
    logged(verdict="complete", events=80)
    with pytest.raises(Wrong, match="0 of 1 streams"):
        proxy.check_log(target, job)
    logged(verdict="truncated", events=81)
    with pytest.raises(Wrong, match="did not end well"):
        proxy.check_log(target, job)


@needs_linux
@pytest.mark.slow
def test_the_proxy_loses_nothing(tmp_path: Path) -> None:
    """The whole way: generator, proxy, log, table, file."""
    path = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--only", "integrity", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, json.loads(path.read_text())["problems"]) == (0, []), done.stderr
    found = {(r["benchmark"], r["subject"]): r["median"] for r in json.loads(path.read_text())["results"]}
    assert found["one long stream", "sseflow"] == found["one long stream", results.ALONE] == 10_000
