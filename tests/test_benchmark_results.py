"""What was measured is shown as it was: figures can be read back, compared, judged and drawn, and none is bent."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import attrs
import pytest

from benchmarks import __main__ as program
from benchmarks import bench, compare, core, goals, page, pictures, progress, proxy, scenarios
from benchmarks.goals import Goal, at_least, at_most, judge
from benchmarks.peers import PEERS
from benchmarks.processes import ROOT
from benchmarks.results import ALONE, Cell, Key, Malformed, Missing, Reading, Results, Series, load
from benchmarks.tables import Table

MACHINE = {
    "cpu": "a processor",
    "cores": 2,
    "system": "a system",
    "python": "CPython 3.11.7",
    "packages": {"trio": "0.35.0"},
    "commit": "abc1234",
    "generator": "a generator",
}

EVENTS = "CPU per event"

MEASURED = (*scenarios.SCENARIOS, scenarios.MANY_IDLE)


def made(figures: Mapping[tuple[str, str, str, str], Sequence[float]], **machine: Any) -> Results:
    """Results of ``(benchmark, metric, unit, subject): values of the runs``."""
    results = Results()
    results.machine = {**MACHINE, **machine}
    for (benchmark, metric, unit, subject), values in figures.items():
        for value in values:
            results.add("proxy", Reading(benchmark=benchmark, metric=metric, unit=unit, subject=subject, value=value))
    return results


def events(**subjects: Sequence[float]) -> Results:
    """Microseconds per event of some subjects; ``go_filter`` is ``go-filter``."""
    return made({("events", EVENTS, "us", name.replace("_", "-")): values for name, values in subjects.items()})


def write(path: Path, results: Results, **more: object) -> Path:
    """A file of results."""
    path.write_text(json.dumps(results.as_json(**more)))
    return path


# Files.


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """Every value, mark, absence and series comes back."""
    results = events(sseflow=[9.0, 8.0, 10.0], nginx=[6.0, 7.0, 5.0])
    results.add("proxy", Reading(benchmark="b", metric="m", unit="1/s", subject="s", value=99, ceiling=100, waited=0.2))
    results.add("proxy", Missing(benchmark="b", subject="t", short="not installed", why="install it"))
    points = ((0.0, 1.0), (2.5, 3.0))
    results.add("scaling", Series(benchmark="soak", metric="memory", unit="KiB", subject="s", points=points))
    results.problems.append("a byte was lost")
    read = load([write(tmp_path / "a.json", results, runs=3, smoke=True)])
    assert read.table == results.table
    assert read.table[Key("proxy", "b", "m", "1/s")]["s"].marks == "*~"
    assert (read.missing, read.series, read.problems) == (results.missing, results.series, results.problems)
    assert (read.machine, read.smoke) == (MACHINE, True)
    assert read.tables() == results.tables()


def test_files_without_a_format_are_of_the_first(tmp_path: Path) -> None:
    """Nobody has to measure again because a file is older than its name."""
    data = events(sseflow=[9.0]).as_json()
    del data["format"], data["missing"], data["series"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    assert load([path]).find("events", EVENTS, "sseflow") == Cell([9.0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "Expecting value"),
        ("[]", "attribute"),
        ('{"format": 2}', "its format is 2, and what is read here is 1"),
        ('{"benchmarks": []}', "there is no 'machine' in it"),
        ('{"machine": {}, "problems": [], "results": [{"group": "g"}]}', "there is no 'benchmark' in it"),
        ('{"machine": {}, "problems": [], "results": 1}', "not iterable"),
        ('{"machine": {}, "problems": [], "results": [], "missing": [{"x": 1}]}', "unexpected keyword"),
    ],
    ids=["no-json", "list", "newer", "other", "row", "rows", "missing"],
)
def test_other_files_are_refused(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With their name and what is wrong, and with status 2, before anything is measured."""
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(Malformed, match=rf"other\.json: .*{message}"):
        load([path])
    assert program.main(["--compare", str(path)]) == 2
    assert program.main(["--show", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert program.main(["--show", str(tmp_path / "none.json")]) == 2


def test_a_row_without_values_is_refused() -> None:
    """It has no median."""
    data: Any = events(sseflow=[9.0]).as_json()
    data["results"][0]["values"] = []
    with pytest.raises(Malformed, match="no value"):
        Results.from_json(data)


def test_files_are_put_together(tmp_path: Path) -> None:
    """The values of later files stand behind those of earlier ones, and other figures beside them."""
    first = write(tmp_path / "1.json", events(sseflow=[9.0, 8.0]))
    second = write(tmp_path / "2.json", events(sseflow=[7.0], nginx=[6.0]))
    other = made({("bulk", "throughput", "MB/s", "sseflow"): [1.0]}, commit="def5678")
    both = load([first, second, write(tmp_path / "3.json", other)])
    assert both.table == {
        Key("proxy", "events", EVENTS, "us"): {"sseflow": Cell([9.0, 8.0, 7.0]), "nginx": Cell([6.0])},
        Key("proxy", "bulk", "throughput", "MB/s"): {"sseflow": Cell([1.0])},
    }
    assert (
        both.conditions()
        == "a processor, 2 cores, CPython 3.11.7, commit abc1234, def5678; medians of 3 runs, with quartiles"
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [({"cpu": "another"}, "cpu: a processor and another"), ({"commit": "def5678"}, "but of another commit")],
    ids=["machine", "commit"],
)
def test_what_cannot_be_one_median_is_not_put_together(other: dict[str, str], message: str, tmp_path: Path) -> None:
    """Figures of two machines never, the same figure of two commits neither."""
    paths = [write(tmp_path / "1.json", events(sseflow=[9.0]))]
    paths.append(write(tmp_path / "2.json", made({("events", EVENTS, "us", "sseflow"): [9.0]}, **other)))
    with pytest.raises(Malformed, match=f"2.json: .*{message}"):
        load(paths)


# Tables.

WIDE = Table("t", ("name", "figure"), [("[bold]a|b", "1"), ("c*", "1,234")], figures=(1,))


def test_a_table_is_printed_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With rich and without, however wide it is, and nothing in it is markup."""
    wide = attrs.evolve(WIDE, headings=("name", "x" * 300))
    for missing in (False, True):
        if missing:
            monkeypatch.setitem(sys.modules, "rich.table", None)
        wide.print()
        printed = capsys.readouterr().out
        assert all(text in printed for text in ("[bold]a|b", "1,234", "x" * 300))


def test_a_table_in_markdown() -> None:
    """What means something in Markdown is escaped."""
    assert WIDE.markdown() == "| name | figure |\n| --- | ---: |\n| [bold]a\\|b | 1 |\n| c\\* | 1,234 |\n"


def test_many_subjects_are_rows() -> None:
    """Side by side they would be cut; those that are not installed have a row that says so."""
    names = ["sseflow", "nginx", "haproxy", "go"]
    few = events(**{name: [1.0] for name in names})
    assert [table.title for table in few.tables()] == ["proxy"]
    few.add("proxy", Missing(benchmark="events", subject="litellm", short="not installed", why="pip install litellm"))
    (table,) = few.tables()
    assert (table.title, table.headings) == ("proxy: events", ["", "CPU per event, us"])
    assert table.rows == [*([name, "1.00"] for name in names), ["litellm", "not installed"]]
    assert few.absences() == ["litellm not installed: pip install litellm"]


# Comparisons.


def test_what_changed_is_compared() -> None:
    """In the direction of its metric, and only where the quartiles do not overlap."""
    units = {"cost": "us", "rate": "MB/s", "count": "events", "same": "us", "gone": "us"}

    def of(**figures: Sequence[float]) -> Results:
        return made({(name, "m", units[name], "s"): values for name, values in figures.items()})

    old = of(cost=[10, 11, 12], rate=[10, 11, 12], count=[5, 5, 5], same=[10, 11, 12], gone=[1, 1, 1])
    new = of(cost=[5, 5.5, 6], rate=[5, 5.5, 6], count=[6, 6, 6], same=[9, 11, 13])
    found = {change.key.benchmark: (change.verdict, change.ratio) for change in compare.changes(new, old)}
    assert found == {"cost": ("better", 0.5), "rate": ("worse", 0.5), "count": ("other", 1.2), "same": ("", 1.0)}
    row = compare.table(new, old).rows[0]
    assert row == ["proxy: cost", "m", "us", "s", "better", "11.0 (10.5..11.5)", "5.50 (5.25..5.75)", "0.50"]
    assert compare.remarks(new, old) == ["only in the old one: 1 figures, like gone, m, s"]


def test_few_runs_show_no_difference() -> None:
    """Of two runs nobody can tell what is chance."""
    new, old = events(sseflow=[1.0, 1.0]), events(sseflow=[9.0, 9.0, 9.0])
    (change,) = compare.changes(new, old)
    assert change.verdict == ""
    assert change.ratio == pytest.approx(1 / 9)
    assert "fewer than 3 runs" in compare.remarks(new, old)[0]


def test_beside_zero_there_is_no_ratio() -> None:
    """It would say nothing, or divide by it."""
    (change,) = compare.changes(events(sseflow=[1.0]), events(sseflow=[0.0]))
    assert change.ratio is None
    assert compare.table(events(sseflow=[1.0]), events(sseflow=[0.0])).rows[0][-1] == "-"


def test_a_comparison_says_what_else_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another Python is not another commit; both files can be saved ones."""
    new = write(tmp_path / "new.json", events(sseflow=[5.0] * 3))
    old = made({("events", EVENTS, "us", "sseflow"): [9.0] * 3}, python="CPython 3.12.1", commit="0ld")
    assert program.main(["--show", str(new), "--compare", str(write(tmp_path / "old.json", old))]) == 0
    shown = capsys.readouterr()
    assert "abc1234 against 0ld" in shown.out
    assert re.search(r"better +9\.00 \(9\.00\.\.9\.00\) +5\.00 \(5\.00\.\.5\.00\) +0\.56", shown.out)
    assert "python: CPython 3.11.7 and CPython 3.12.1" in shown.err
    assert "commit" not in shown.err


# The judge.


def ruled(results: Results, benchmark: str = "events") -> list[goals.Ruling]:
    """What is said of one benchmark."""
    return [ruling for ruling in judge(results) if ruling.goal.benchmark == benchmark]


def test_ratios_are_taken_run_by_run() -> None:
    """What hits a whole run hits both, and their ratio does not show it."""
    (must, aim) = ruled(events(sseflow=[8.0, 16.0, 4.0], go_filter=[16.0, 32.0, 8.0], go=[16.0, 8.0, 8.0]))
    assert (must.measure, must.value, must.verdict) == ("Go with filter", (0.5, 0.5, 0.5), "must met")
    assert (aim.measure, aim.value, aim.verdict) == ("Go", (0.5, 0.5, 1.25), "aim met")
    assert must.row()[2:] == ["8.00", "Go with filter", "16.0", "0.50 (0.50..0.50)", "at most 0.8 x", "", "must met"]


def test_unlike_numbers_of_runs_are_compared_by_their_medians() -> None:
    """The quartiles of both bound how far that could move."""
    must, _ = ruled(events(sseflow=[8.0, 9.0, 10.0], go_filter=[10.0, 20.0, 30.0, 20.0, 20.0]))
    assert must.value == (8.5 / 20, 9 / 20, 9.5 / 20)


@pytest.mark.parametrize(
    ("benchmark", "metric", "unit", "ours", "theirs", "value", "verdict"),
    [
        ("events", EVENTS, "us", 9.0, {"go-filter": 10.0}, 0.9, "must missed"),
        ("coalesced", EVENTS, "us", 0.5, {"go-filter": 12.0}, 24.0, "must met"),
        ("coalesced", EVENTS, "us", 0.5, {"nginx": 0.2}, 0.4, "aim missed"),
        ("comments", EVENTS, "us", 4.0, {"go-filter": 5.2}, 1.3, "must met"),
        ("comments", EVENTS, "us", 4.0, {"nginx": 3.6}, 0.9, "aim met"),
        ("line-32m", "throughput", "MB/s", 1000.0, {"go-filter": 100.0}, 10.0, "must missed"),
        ("bulk", "throughput", "MB/s", 1300.0, {"go": 1000.0}, 1.3, "aim met"),
        ("requests", "requests per second", "1/s", 4000.0, {"starlette": 500.0}, 8.0, "must met"),
        ("first-byte", "p50, added", "us", 200.0, {"nginx": 100.0}, 2.0, "must met, aim missed"),
        ("latency", "p50, added", "us", 160.0, {"nginx": 100.0}, 1.6, "must missed, aim missed"),
        ("latency", "p99, added", "us", 160.0, {"nginx": 100.0}, 1.6, "reported"),
        ("line-32m", "peak memory growth", "KiB", 600.0, {}, 600.0, "must met, aim missed"),
        ("idle-5000", "memory per idle stream", "KiB", 6.0, {}, 6.0, "must met, aim met"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_the_direction_of_a_goal(
    benchmark: str, metric: str, unit: str, ours: float, theirs: dict[str, float], value: float, verdict: str
) -> None:
    """At most is of a cost, at least is of how good it is, whatever the figure is: a rate or a cost."""
    subjects = {"sseflow": ours, **theirs}
    results = made({(benchmark, metric, unit, name): [figure] * 3 for name, figure in subjects.items()})
    (ruling,) = (r for r in ruled(results, benchmark) if r.metric == metric and r.value)
    assert ruling.value == pytest.approx((value,) * 3)
    assert ruling.verdict == verdict


def test_tls_is_measured_by_ours_without() -> None:
    """Another benchmark of the same subject."""
    names = {"events": 10.0, "tls-upstream": 16.0, "tls-both": 21.0}
    results = made({(name, EVENTS, "us", "sseflow"): [value] for name, value in names.items()})
    (upstream,), (both,) = ruled(results, "tls-upstream"), ruled(results, "tls-both")
    assert (upstream.measure, upstream.verdict) == ("sseflow, events", "must met, aim missed")
    assert (both.measure, both.verdict) == ("sseflow, events", "aim missed")


def test_a_gateway_is_measured_by_the_plain_proxy_of_the_same_run() -> None:
    """The plain one is a subject of the same benchmark, so what a run was disturbed by hits both."""
    figures = {("gateway-events", EVENTS, "us", "sseflow"): [11.0, 24.0, 11.4]}
    figures["gateway-events", EVENTS, "us", "plain"] = [10.0, 20.0, 10.0]
    (ruling,) = ruled(made(figures), "gateway-events")
    assert (ruling.measure, ruling.verdict) == ("sseflow, no gateway", "must met")
    assert ruling.value is not None
    assert ruling.value[1] == pytest.approx(1.14)


def test_equal_is_what_cannot_be_told_apart() -> None:
    """A ratio whose quartiles reach 1 is no difference; one whose do not is one."""
    key = ("latency", "p50, added", "us")
    for ours, verdict in (([49.0, 51.0, 52.0], "must met, aim met"), ([52.0, 53.0, 54.0], "must met, aim missed")):
        assert ruled(made({(*key, "sseflow"): ours, (*key, "nginx"): [50.0] * 3}), "latency")[0].verdict == verdict


def test_what_has_no_figures_says_so() -> None:
    """A row for every goal: of nothing measured, of a peer that is not there, and of a zero."""
    results = events(sseflow=[9.0], go_filter=[0.0])
    results.add("proxy", Missing(benchmark="events", subject="go", short="not installed", why="apt-get install golang"))
    assert [r.verdict for r in ruled(results)] == [
        "no ratio: one of the figures is zero or less",
        "no figures: Go not installed",
    ]
    assert {r.verdict for r in ruled(results, "bulk")} == {"no figures: bulk was not measured"}
    assert {ruling.goal for ruling in judge(results)} == set(goals.GOALS)
    assert all(len(ruling.row()) == len(goals.HEADINGS) for ruling in judge(results))
    assert (
        goals.summary(judge(Results())) == "must: 0 of 17 met, 17 without figures; aim: 0 of 12 met, 12 without figures"
    )


def test_a_disturbed_run_below_zero_does_not_spoil_a_row() -> None:
    """An added time can be that, of a single run; then it is the medians that are compared."""
    figures = {("first-byte", "p50, added", "us", "sseflow"): [100.0] * 3}
    figures["first-byte", "p50, added", "us", "nginx"] = [-5.0, 50.0, 60.0]
    (ruling,) = ruled(made(figures), "first-byte")
    assert ruling.value == pytest.approx((100 / 55, 2.0, 100 / 22.5))


def test_at_the_ceiling_costs_are_compared() -> None:
    """A rate that is the generator's says nothing of the proxy; where there is no cost, the row is marked."""
    results = made({})
    for name, rate, cost in (("sseflow", 60_000.0, 10.0), ("go-filter", 8_000.0, 100.0)):
        for metric, unit, value in (("requests per second", "1/s", rate), ("CPU per request", "us", cost)):
            ceiling = 63_000.0 if unit == "1/s" else None
            one = Reading(benchmark="requests", metric=metric, unit=unit, subject=name, value=value, ceiling=ceiling)
            results.add("proxy", one)
            results.add("proxy", attrs.evolve(one, benchmark="bulk", metric="throughput" if ceiling else metric))
    aim = ruled(results, "requests")[1]
    assert (aim.row()[1], aim.value, aim.verdict) == ("CPU per request, us", (10.0, 10.0, 10.0), "aim met")
    bulk = ruled(results, "bulk")[0]
    assert (bulk.metric, bulk.marks, bulk.value) == ("throughput", "*", (7.5, 7.5, 7.5))
    assert "7.50*" in bulk.row()


def test_goals_of_ones_own() -> None:
    """The judge reads data, and knows nothing of its rows."""
    goal = Goal("s", "events", EVENTS, "us", at_least(2, "nginx"), at_most(0.25, "nginx"))
    rulings = judge(events(sseflow=[4.0], nginx=[12.0]), [goal])
    assert [r.value for r in rulings] == [(3.0, 3.0, 3.0), (4 / 12, 4 / 12, 4 / 12)]
    assert [r.verdict for r in rulings] == ["must met", "aim missed"]


def test_every_goal_is_measured() -> None:
    """Its benchmark has its figure, and its peers are there; so no row is without figures for a name alone."""
    known = {(scenario.name, figure.metric) for scenario in MEASURED for figure in scenario.figures}
    known |= {(name, f"{metric}, added") for name, metric in known}
    known |= {("dialects", f"{metric}{more}") for metric in core.WATCH.values() for more in ("", f", {core.USAGE}")}
    lines = scenarios.by_line(bench.Setup(smoke=False))
    known |= {(s.name, f"{figure.metric}, {s.at}") for s in lines for figure in s.figures}
    for goal in goals.GOALS:
        bounds = [bound for bound in (goal.must, goal.aim) if bound]
        assert {(goal.benchmark, goal.metric), *([goal.instead] if goal.instead else [])} <= known
        peers = {proxy.PLAIN.name} if goal.benchmark.startswith("gateway-") else PEERS.keys()
        assert {bound.measure.peer for bound in bounds} <= {*peers, None}
        assert {bound.measure.of for bound in bounds} <= {"events", None}


def test_every_picture_has_figures() -> None:
    """Each bar is of a scenario that there is, each curve of its row, and each proxy has a style of its own."""
    known = {(scenario.name, figure.metric) for scenario in MEASURED for figure in scenario.figures}
    known |= {(name, f"{metric}, added") for name, metric in known}
    bars = {(name, bar.metric) for panel in pictures.BARS.values() for bar in panel for name in bar.benchmarks}
    assert bars <= known
    setup = bench.Setup(smoke=False)
    rows = {"lines": scenarios.by_line(setup), "streams": scenarios.by_streams(setup)}
    for curve in pictures.CURVES.values():
        metrics = [f"{figure.metric}, {s.at}" for s in rows[curve.benchmark] for figure in s.figures]
        assert sum(re.fullmatch(curve.pattern, metric) is not None for metric in metrics) == len(rows[curve.benchmark])
    assert pictures.STYLES.keys() == {"sseflow", *PEERS}
    assert len(set(pictures.STYLES.values())) == len(pictures.STYLES)


def test_few_runs_settle_nothing() -> None:
    """The judge rules all the same, and says on how little."""
    few, enough = ([9.0] * runs for runs in (4, 5))
    doubt = "; a figure is of fewer than 5 runs"
    assert goals.summary(judge(events(sseflow=enough, go=few))).endswith(doubt)
    assert doubt not in goals.summary(judge(events(sseflow=enough, go=enough)))


def test_goals_are_printed_beside_peers_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a peer there is nothing to judge beside."""
    assert program.main(["--show", str(write(tmp_path / "alone.json", events(sseflow=[9.0])))]) == 0
    assert "must" not in capsys.readouterr().out
    assert program.main(["--show", str(write(tmp_path / "beside.json", events(sseflow=[9.0], go=[10.0])))]) == 0
    shown = capsys.readouterr().out
    assert "aim met" in shown
    assert "must: 0 of 17 met, 17 without figures; aim: 1 of 12 met, 11 without figures" in shown


# Pictures.


@pytest.fixture(scope="module")
def everything() -> Results:
    """Figures for every picture."""
    subjects = {"sseflow": 9.0, "nginx": 6.0, "go-filter": 15.0, "litellm": 600.0}
    results = Results()
    results.machine = dict(MACHINE)
    rows = {(panel.benchmarks[0], panel.metric) for bars in pictures.BARS.values() for panel in bars}
    numbers = [("streams", f"CPU per event, {n:,} stream{'s'[: n > 1]}") for n in (1, 64, 5000)]
    lines = [("lines", f"CPU per byte, {size}") for size in ("1 KiB", "256 KiB", "32 MiB")]
    for benchmark, metric in (*sorted(rows), *numbers, *lines):
        unit = {"throughput": "MB/s"}.get(metric, "1/s" if metric.endswith("second") else "us")
        for subject, value in ((ALONE, 50.0), *subjects.items()) if unit == "1/s" else subjects.items():
            for times in (1.0, 1.1, 0.8):
                one = Reading(benchmark=benchmark, metric=metric, unit=unit, subject=subject, value=value * times)
                results.add("scaling" if benchmark in ("streams", "lines") else "proxy", one)
    for subject, size in (("sseflow", 30_000.0), ("nginx", 5_000.0)):
        points = tuple((at * 10.0, size + at % 3) for at in range(60))
        results.add("scaling", Series(benchmark="soak", metric="memory", unit="KiB", subject=subject, points=points))
    results.add("scaling", Reading(benchmark="soak", metric="slope", unit="KiB/min", subject="sseflow", value=1.25))
    return results


@pytest.fixture(scope="module")
def drawn(everything: Results, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every picture."""
    pytest.importorskip("matplotlib")
    return {path.stem: path.read_text() for path in pictures.draw(everything, tmp_path_factory.mktemp("pictures"))}


def texts(svg: str) -> list[str]:
    """All that can be read in a picture."""
    return [text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip())]


def test_every_picture_is_drawn(drawn: dict[str, str]) -> None:
    """With units, the subjects by the names that people know, and what it was measured on."""
    assert drawn.keys() == pictures.TITLES.keys()
    for name, svg in drawn.items():
        shown = texts(svg)
        assert pictures.TITLES[name] in shown
        assert {"sseflow", "nginx"} <= set(shown)
        assert any("a processor, 2 cores, CPython 3.11.7, commit abc1234; medians of 3 runs" in text for text in shown)
    assert "Streams of one event, requests/s" in texts(drawn["throughput"])
    assert {"Go with filter", "LiteLLM", "9.00", "600"} <= set(texts(drawn["cpu"]))
    assert {"1 KiB", "256 KiB", "32 MiB", "CPU per byte, us"} <= set(texts(drawn["line-size"]))
    assert {"1", "64", "5,000", "CPU per event, us"} <= set(texts(drawn["streams"]))
    assert {"minutes", "memory, KiB", "1.25 KiB/min"} <= set(texts(drawn["soak"]))


def test_the_same_figures_are_the_same_picture(everything: Results, drawn: dict[str, str], tmp_path: Path) -> None:
    """Byte for byte, without a date, so that a difference is one of figures."""
    again = {path.stem: path.read_text() for path in pictures.draw(everything, tmp_path / "new" / "folder")}
    assert again == drawn
    assert not any("<dc:date>" in svg for svg in drawn.values())


def test_a_picture_can_be_read_in_the_dark(drawn: dict[str, str]) -> None:
    """Its ground and its text change together: each colour of a picture is one that changes, or is seen on both."""
    both = {colour for colour, _, _ in pictures.STYLES.values()}
    for svg in drawn.values():
        inline = re.findall(r'style="([^"]*)"', svg)
        used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", " ".join(inline)))
        assert {pictures.PAPER, pictures.INK} <= used <= pictures.DARK.keys() | both
        dark = re.findall(r'\[style\*="fill: (#\w+)"\]\{fill:(#\w+)!important\}', svg)
        assert dict(dark) == pictures.DARK
    light = (pictures.PAPER, pictures.INK, pictures.QUIET)
    for ground, *words in (light, [pictures.DARK[colour] for colour in light]):
        assert all(contrast(ground, colour) >= 4.5 for colour in words)
        assert all(contrast(ground, colour) >= 3 for colour in both)


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG has it: from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_only_what_was_measured_is_drawn(tmp_path: Path) -> None:
    """No empty picture, and none of the generator alone; zeros and figures below zero can be drawn."""
    pytest.importorskip("matplotlib")
    assert pictures.draw(made({("bulk", "throughput", "MB/s", ALONE): [1.0]}), tmp_path) == []
    figures = {("first-byte", "p50, added", "us", name): values for name, values in (("a", [-1.0]), ("b", [0.0]))}
    assert pictures.draw(made(figures), tmp_path) == [tmp_path / "latency.svg"]


def test_nothing_to_draw_with_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is measured, with what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert program.main(["--draw", str(tmp_path)]) == 2
    assert "pip install 'sseflow[bench]'" in capsys.readouterr().err


# The page.

PAGE = """# Figures

<!-- figures: conditions -->
old
<!-- end of figures -->

By hand.

<!-- figures: goals -->
<!-- end of figures -->
<!-- figures: tables -->
<!-- end of figures -->
<!-- figures: picture cpu -->
<!-- end of figures -->
<!-- figures: picture soak -->
<!-- end of figures -->
"""


def test_a_page_is_filled(tmp_path: Path) -> None:
    """Between its markers, and nowhere else; the same figures leave it as it is."""
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    results = events(sseflow=[9.0, 8.0, 10.0], go_filter=[18.0] * 3)
    results.add("proxy", Missing(benchmark="events", subject="go", short="not installed", why="apt-get install golang"))
    results.problems.append("latency: a byte was lost")
    figures = str(write(tmp_path / "figures.json", results))
    assert program.main(["--show", figures, "--page", str(path)]) == 1  # since something was wrong
    filled = path.read_text()
    assert filled.startswith("# Figures\n\n<!-- figures: conditions -->\n\na processor, 2 cores, CPython 3.11.7, ")
    assert "\n<!-- end of figures -->\n\nBy hand.\n\n<!-- figures: goals -->\n" in filled
    assert "old" not in filled
    for part in (
        "a system, trio 0.35.0. Load generator: a generator.",
        "**Wrong:** latency: a byte was lost",
        "| Go with filter | 18.0 | 0.50 (0.47..0.53) | at most 0.8 x |  | must met |",
        "must: 1 of 17 met, 16 without figures",
        "### proxy\n\n|",
        "| events | CPU per event | us | 9.00 (8.50..9.50) |",
        "- go not installed: apt-get install golang",
        "![CPU time: shorter is better](pictures/cpu.svg)",
        "This was not measured.",
    ):
        assert part in filled
    program.main(["--show", figures, "--page", str(path)])
    assert path.read_text() == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# Nothing\n", "there is no"),
        ("<!-- figures: goals -->\n", "there is no"),
        ("<!-- figures: nonsense -->\n<!-- end of figures -->\n", "there are no figures 'nonsense'; there are: cond"),
        (PAGE + "<!-- figures: goals -->\n", "has no other"),
        ("text <!-- figures: goals -->\n" + PAGE, "has no other"),
    ],
    ids=["none", "no-end", "unknown", "lost", "inline"],
)
def test_a_page_without_a_place_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stays as it is."""
    path = tmp_path / "page.md"
    path.write_text(text)
    assert program.main(["--show", str(write(tmp_path / "f.json", events(sseflow=[1.0]))), "--page", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert path.read_text() == text


def test_the_page_of_the_docs_is_in_step() -> None:
    """It shows the figures that are kept beside it; `make figures` writes them."""
    text = page.read(ROOT / "docs" / "explanation" / "performance.md")
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    if not files:
        pytest.skip("no figures are kept")
    assert page.fill(text, load(files)) == text


def test_the_page_of_the_docs_has_every_part() -> None:
    """Nothing that can be written into a page is left out of the one that is about it."""
    text = page.read(ROOT / "docs" / "explanation" / "performance.md")
    assert sorted(re.findall(r"<!-- figures: (.*?) -->", text)) == sorted(page.PARTS)


# The program.


def test_a_run_can_be_compared_drawn_and_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was just measured, against a file."""

    def measure(_: bench.Setup) -> Iterator[Reading]:
        for name, value in (("sseflow", 9.0), ("go", 10.0)):
            yield Reading(benchmark="events", metric=EVENTS, unit="us", subject=name, value=value)

    monkeypatch.setattr(program, "BENCHMARKS", (bench.Benchmark("proxy", "events", measure, False),))
    old = write(tmp_path / "old.json", events(sseflow=[18.0, 18.0, 18.0]))
    new = tmp_path / "new.json"
    assert program.main(["--runs", "3", "--json", str(new), "--compare", str(old)]) == 0
    shown = capsys.readouterr()
    assert "better" in shown.out
    assert "aim met" in shown.out
    assert shown.err.startswith("run 1 of 3: proxy, events\nrun 2 of 3: proxy, events\n")
    assert load([new]).find("events", EVENTS, "go") == Cell([10.0] * 3)


@pytest.mark.parametrize("option", [["--smoke"], ["--runs", "2"], ["--only", "events"], ["--json", "f"]])
def test_to_show_is_not_to_measure(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options of a measurement are refused, not ignored."""
    with pytest.raises(SystemExit) as exited:
        program.main(["--show", "f", *option])
    assert exited.value.code == 2
    assert "--show: nothing is measured" in capsys.readouterr().err


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It names the run, the benchmark and each subject of it that is done, once."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.progress(2, 3) as shown:
        shown.begin(1, "proxy, events")
        for subject in ("sseflow", "nginx", "nginx"):
            shown.measured(subject)
        shown.begin(1, "proxy, [bulk]")
    bar = capsys.readouterr().err
    assert "run 1 of 2: proxy, events; done: sseflow, nginx" in bar
    assert "nginx, nginx" not in bar
    assert re.search(r"1/6.*run 1 of 2: proxy, \[bulk\]", bar)


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each benchmark."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with progress.progress(2, 1) as shown:
        shown.begin(2, "proxy, events")
        shown.measured("sseflow")
    assert capsys.readouterr().err == "run 2 of 2: proxy, events\n"
