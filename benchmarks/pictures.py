"""Draw results as SVG: bars per scenario and peer, curves over sizes and numbers, memory over time.

The same results make the same bytes. A picture has a ground of its own, so that it can be read on any page, and turns
dark with its reader's settings.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from .goals import NAMES, SUBJECT
from .results import ALONE, Cell, Key, Results
from .tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = ("proxy", "scaling")
"""What is drawn; the others measure no proxy."""

PAPER, INK, QUIET, RULE, BAR = "#fcfcfb", "#24292f", "#59636e", "#d8dee4", "#8c9db3"
"""Ground, text, text beside it, lines between, and the bars of peers."""

OURS = "#d55e00"
"""Of sseflow, in every picture."""

DARK = {PAPER: "#15191f", INK: "#e6edf3", QUIET: "#9aa4af", RULE: "#343b44", BAR: "#66788f"}
"""What they become for a reader who prefers dark; all other colours are seen on both grounds."""

STYLES = {
    SUBJECT: (OURS, "-", "o"),
    "nginx": ("#0072b2", "-", "s"),
    "haproxy": ("#0072b2", "--", "D"),
    "go": ("#009e73", "-", "^"),
    "go-filter": ("#009e73", "--", "v"),
    "go-filter-events": ("#009e73", ":", "d"),
    "aiohttp": ("#c06b9e", "-", "P"),
    "starlette": ("#c06b9e", "--", "X"),
    "mitmproxy": ("#8a8f98", "-", "<"),
    "litellm": ("#8a8f98", "--", ">"),
}
"""Colour, line and mark of a curve, from the palette of Okabe and Ito: relatives share a colour, never a mark."""

FURTHER = 4.0
"""A bar that is more than so many times the longer of sseflow's and the median one is cut there, and has its figure."""

MOST_TICKS = 8
"""More do not stand side by side."""

SETTINGS: Mapping[Any, object] = {
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": QUIET,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": PAPER,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": RULE,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    # Text stays text: it can be found and read aloud, and a changed figure is one changed line.
    "svg.fonttype": "none",
    "svg.hashsalt": "sseflow",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}


#: Draws one panel.
Paint: TypeAlias = "Callable[[Axes], None]"


class Missing(Exception):
    """What draws is not installed."""


def check() -> None:
    """See that there is something to draw with.

    Raises:
        Missing: there is not; the message says what to do.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise Missing(f"pictures need matplotlib ({error}): pip install 'sseflow[bench]'") from error


@attrs.frozen
class Bars:
    """One scenario: a bar for each subject."""

    title: str
    metric: str
    benchmarks: tuple[str, ...]
    """The first of them that was measured."""


@attrs.frozen
class Curves:
    """One figure over the size or the number that its metric names."""

    title: str
    benchmark: str
    pattern: str
    """Of the metric: what it is, the number, and the unit of a size."""

    axis: str
    sizes: bool = False
    """Both axes are logarithmic; else only the one of the numbers, and the other begins at zero."""


BARS = {
    "throughput": (
        Bars("Streams of one event", "requests per second", ("requests",)),
        Bars("One event per chunk and read", "events per second", ("events",)),
        Bars("Comments between events", "events per second", ("comments",)),
        Bars("40 events per chunk", "events per second", ("coalesced",)),
        Bars("Events of 4 KiB", "throughput", ("bulk",)),
        Bars("Lines of 32 MiB", "throughput", ("line-32m",)),
    ),
    "cpu": (
        Bars("One event per chunk and read", "CPU per event", ("events",)),
        Bars("Comments between events", "CPU per event", ("comments",)),
        Bars("40 events per chunk", "CPU per event", ("coalesced",)),
        Bars("Streams of one event", "CPU per request", ("requests",)),
        Bars("TLS to the upstream", "CPU per event", ("tls-upstream",)),
        Bars("TLS on both sides", "CPU per event", ("tls-both",)),
    ),
    "latency": (
        Bars("Until the first byte, p50", "p50, added", ("first-byte",)),
        Bars("Until the first byte, p99", "p99, added", ("first-byte",)),
        Bars("Of an event, paced, p50", "p50, added", ("latency",)),
        Bars("Of an event, paced, p99", "p99, added", ("latency",)),
    ),
    "memory": (
        Bars("Of an open stream", "memory per idle stream", ("idle-5000", "idle")),
        Bars("Growth during a line of 32 MiB", "peak memory growth", ("line-32m",)),
    ),
}

CURVES = {
    "line-size": Curves("One line", "lines", r"(CPU per byte), (\d+) ([KM])iB", "size of the line", sizes=True),
    "streams": Curves("One event per chunk and read", "streams", r"(CPU per event), ([\d,]+) streams?()", "streams"),
}

FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20}
"""What the unit of a size makes of its number."""

SOAK = "soak"

TITLES = {
    "throughput": "Throughput: longer is better",
    "cpu": "CPU time: shorter is better",
    "latency": "Added time: shorter is better",
    "memory": "Memory: shorter is better",
    "line-size": "Cost against the size of a line",
    "streams": "Cost against the number of streams",
    SOAK: "Memory over time",
}

_CUT = "a bar with a gap is longer than drawn"

NOTES = {
    "throughput": ("dotted: the load generator alone; " + _CUT,),
    "cpu": (_CUT,),
    "latency": (_CUT,),
    "memory": (_CUT,),
    SOAK: ("beside the names: the slope behind the first third, in which a process warms up",),
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write every picture that there are figures for; returns where.

    Raises:
        Missing: there is nothing to draw with.
    """
    check()
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    # Nothing of what a reader has set up at home: the same results are the same picture.
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        for name, panels in drawable(results).items():
            path = folder / f"{name}.svg"
            path.write_text(_picture(results, name, panels), encoding="utf-8")
            written.append(path)
    return written


def drawable(results: Results) -> dict[str, list[Paint]]:
    """The panels of each picture that there are figures for."""
    found: dict[str, list[Paint | None]] = {}
    found |= {name: [_bars(results, panel) for panel in bars] for name, bars in BARS.items()}
    found |= {name: [_curves(results, panel)] for name, panel in CURVES.items()}
    found[SOAK] = [_soak(results)]
    return {name: there for name, panels in found.items() if (there := [panel for panel in panels if panel])}


def _picture(results: Results, name: str, panels: Sequence[Paint]) -> str:
    from matplotlib.figure import Figure

    columns = min(2 if name in BARS else 1, len(panels))
    rows = -(-len(panels) // columns)
    height = (2.4 if columns > 1 else 3.4) * rows + 0.5
    figure = Figure(figsize=(8.5, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        panel(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(TITLES[name], x=0.01, ha="left", fontsize=11, fontweight="bold")
    marks = results.marks() if name in BARS else []
    footer = "\n".join([results.conditions(), *NOTES.get(name, ()), *marks])
    figure.supxlabel(footer, x=0.01, ha="left", fontsize=7, color=QUIET)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f'<style type="text/css">@media (prefers-color-scheme:dark){{{rules}}}</style>\n</svg>'
    text = file.getvalue().replace("</svg>", style)
    return re.sub(r" +$", "", text, flags=re.M)


def _name(subject: str) -> str:
    return NAMES.get(subject, subject)


def _row(results: Results, benchmark: str, metric: str) -> tuple[Key, Mapping[str, Cell]] | None:
    for key, cells in results.table.items():
        if key.group in GROUPS and (key.benchmark, key.metric) == (benchmark, metric):
            return key, cells
    return None


def _bars(results: Results, panel: Bars) -> Paint | None:
    rows = [row for benchmark in panel.benchmarks if (row := _row(results, benchmark, panel.metric))]
    if not rows:
        return None
    key, cells = rows[0]
    values = {subject: cell.quartiles() for subject, cell in cells.items() if subject != ALONE}
    if not values:
        return None
    order = sorted(values, key=lambda subject: values[subject][1], reverse=bool(key.more_is_better))
    medians = [values[subject][1] for subject in order]
    usual = FURTHER * max(statistics.median(medians), values.get(SUBJECT, (0.0, 0.0, 0.0))[1])
    limit = min(max(third for _, _, third in values.values()), usual)
    limit = limit if limit > 0 else 1.0
    ceiling = cells[ALONE].quartiles()[1] if ALONE in cells and key.more_is_better else None

    def paint(axes: Axes) -> None:
        for at, subject in enumerate(order):
            first, median, third = values[subject]
            axes.barh(at, min(median, limit), height=0.66, color=OURS if subject == SUBJECT else BAR)
            if median > limit:  # it has a gap
                axes.plot([limit * 0.93, limit * 0.95], [at + 0.4, at - 0.4], color=PAPER, linewidth=2.5)
            if first < third and first < limit:
                axes.plot([first, min(third, limit)], [at, at], color=INK, linewidth=1.2, solid_capstyle="butt")
            text = number(median) + cells[subject].marks
            ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
            axes.text(max(min(third, limit), 0.0) + limit * 0.02, at, text, va="center", fontsize=8, bbox=ground)
        if ceiling is not None and ceiling <= 1.2 * limit:
            axes.axvline(ceiling, color=QUIET, linewidth=1, linestyle=":")
        axes.set_title(f"{panel.title}, {_unit(key)}")
        axes.set_xlim(min(0.0, *medians), limit * 1.22)
        axes.set_yticks(range(len(order)), [_name(subject) for subject in order])
        axes.set_ylim(max(len(order), 5) - 0.5, -0.5)
        axes.tick_params(length=0)
        axes.locator_params(axis="x", nbins=4)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        for label, subject in zip(axes.get_yticklabels(), order, strict=True):
            label.set_color(INK)
            label.set_fontweight("bold" if subject == SUBJECT else "normal")
        axes.spines["bottom"].set_visible(False)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_axisbelow(True)

    return paint


def _unit(key: Key) -> str:
    return key.metric.replace(" per second", "/s") if key.unit == "1/s" else key.unit


def _curves(results: Results, panel: Curves) -> Paint | None:
    points: dict[str, dict[int, Cell]] = {}
    label = ""
    for key, cells in results.table.items():
        match = re.fullmatch(panel.pattern, key.metric)
        if match and key.group in GROUPS and key.benchmark == panel.benchmark:
            label = f"{match[1]}, {key.unit}"
            at = int(match[2].replace(",", "")) * FACTORS[match[3]]
            for subject, cell in cells.items():
                points.setdefault(subject, {})[at] = cell
    return _plot(panel, points, label) if points else None


def _plot(panel: Curves, points: Mapping[str, Mapping[int, Cell]], label: str) -> Paint:
    def paint(axes: Axes) -> None:
        for subject, curve in points.items():
            colour, line, mark = STYLES.get(subject, (QUIET, ":", ""))
            places = sorted(curve)
            lows, medians, highs = zip(*(curve[at].quartiles() for at in places), strict=True)
            ours = subject == SUBJECT
            axes.plot(
                places,
                medians,
                color=colour,
                linestyle=line,
                marker=mark,
                markersize=4.5,
                linewidth=2.4 if ours else 1.2,
                zorder=3 if ours else 2,
                label=_name(subject),
            )
            axes.vlines(places, lows, highs, color=colour, linewidth=1)
        axes.set_xscale("log", base=2 if panel.sizes else 10)
        every = sorted({at for curve in points.values() for at in curve})
        every = every[:: -(len(every) // MOST_TICKS + 1)]  # the largest in any case
        axes.set_xticks(every, [_size(at) if panel.sizes else f"{at:,}" for at in every])
        axes.minorticks_off()
        if panel.sizes:
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter(lambda value, _: f"{value:,.10g}" if f"{value:e}"[0] in "25" else "")
        else:
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set_title(panel.title)
        axes.set_xlabel(panel.axis)
        axes.set_ylabel(label)
        axes.grid(linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)

    return paint


def _size(size: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} B"


def _soak(results: Results) -> Paint | None:
    runs = [series for series in results.series if series.benchmark == SOAK and series.points]
    if not runs:
        return None

    def paint(axes: Axes) -> None:
        for series in runs:
            colour, line, _ = STYLES.get(series.subject, (QUIET, ":", ""))
            times, values = zip(*series.points, strict=True)
            slope = results.find(SOAK, "slope", series.subject)
            label = _name(series.subject)
            if slope:
                label += f"\n{slope.text()} {results.unit('slope')}"
            axes.plot([time / 60 for time in times], values, color=colour, linestyle=line, linewidth=1.6, label=label)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.set_title("A steady load")
        axes.set_xlabel("minutes")
        axes.set_ylabel(f"{runs[0].metric}, {runs[0].unit}")
        axes.grid(linewidth=0.6)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)

    return paint
