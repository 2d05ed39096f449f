"""Write figures into a page, between its markers; what stands around them is written by people.

A page has ``<!-- figures: NAME -->`` and, further down, ``<!-- end of figures -->``, each on a line of its own, for
any of the parts in `PARTS`. What is between the two is replaced, and nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from . import goals
from .pictures import TITLES, drawable
from .results import Results

FOLDER = "pictures"
"""Where pictures are, seen from a page."""

_PART = re.compile(r"^(<!-- figures: (.*?) -->\n)(.*?)^(<!-- end of figures -->)$", re.M | re.S)
_MARK = re.compile(r"<!-- (?:end of )?figures")


class NoPlace(ValueError):
    """A page has no markers, or some that do not fit together."""


def conditions(results: Results) -> str:
    """On what, with what and how often; and what was wrong."""
    about = results.machine
    packages = ", ".join(f"{name} {version}" for name, version in dict(about.get("packages", {})).items())
    rest = ", ".join(filter(None, (str(about.get("system", "")), packages)))
    wrong = "".join(f"\n**Wrong:** {problem}\n" for problem in results.problems)
    return f"{results.conditions()}.\n{rest}. Load generator: {about.get('generator', 'unknown')}.\n{wrong}"


def judged(results: Results) -> str:
    """The table of goals, and how many are met."""
    rulings = goals.judge(results)
    return f"{goals.table(rulings).markdown()}\n{goals.summary(rulings)}.\n"


def tables(results: Results) -> str:
    """All tables, each under its heading, and what their marks mean."""
    parts = [f"### {table.title}\n\n{table.markdown()}" for table in results.tables()]
    legend = "".join(f"- {line}\n" for line in _escaped([*results.marks(), *results.absences()]))
    return "\n".join([*parts, *([legend] if legend else [])])


def _escaped(lines: list[str]) -> list[str]:
    return [line.replace("*", "\\*") for line in lines]


def picture(name: str, results: Results) -> str:
    """A link to a picture, which is drawn from the same results."""
    return f"![{TITLES[name]}]({FOLDER}/{name}.svg)\n" if name in drawable(results) else "This was not measured.\n"


PARTS: dict[str, Callable[[Results], str]] = {
    "conditions": conditions,
    "goals": judged,
    "tables": tables,
    **{f"picture {name}": functools.partial(picture, name) for name in TITLES},
}


def fill(text: str, results: Results) -> str:
    """A page with its figures.

    Raises:
        NoPlace: its markers do not fit together.
    """
    check(text)
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]](results)}\n{part[4]}", text)


def check(text: str) -> None:
    """See that a page has a place for figures.

    Raises:
        NoPlace: it has none, or one that nothing is known for, or a marker without its other.
    """
    names = [part[2] for part in _PART.finditer(text)]
    if not names:
        raise NoPlace("there is no '<!-- figures: NAME -->' with its '<!-- end of figures -->' in it")
    if unknown := [name for name in names if name not in PARTS]:
        raise NoPlace(f"there are no figures {unknown[0]!r}; there are: {', '.join(PARTS)}")
    if len(_MARK.findall(text)) != 2 * len(names):
        raise NoPlace("a marker has no other, or is not on a line of its own")


def read(path: Path) -> str:
    """Read a page that has a place for figures.

    Raises:
        NoPlace: it has none.
        OSError: it cannot be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        check(text)
    except NoPlace as error:
        raise NoPlace(f"{path}: {error}") from error
    return text


def update(path: Path, results: Results) -> None:
    """Write the figures into a page."""
    path.write_text(fill(read(path), results), encoding="utf-8")
