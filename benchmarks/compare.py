"""Hold a measurement against an earlier one: what has become better, what worse, and what may be chance."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from .results import Cell, Key, Results
from .tables import Table, number

ENOUGH = 3
"""Runs on each side from which quartiles say what is chance; of fewer no difference is called one."""


@attrs.frozen
class Change:
    """One figure of one subject, before and now."""

    key: Key
    subject: str
    old: Cell
    new: Cell

    @property
    def ratio(self) -> float | None:
        """The new median over the old one; None where that says nothing, beside a zero or less."""
        old, new = self.old.quartiles()[1], self.new.quartiles()[1]
        return new / old if old > 0 and new > 0 else None

    @property
    def verdict(self) -> str:
        """``better`` or ``worse``, or ``other`` of a count, if the ranges between the quartiles do not overlap."""
        if min(len(self.old.values), len(self.new.values)) < ENOUGH:
            return ""
        (old_first, _, old_third), (new_first, _, new_third) = self.old.quartiles(), self.new.quartiles()
        if new_first <= old_third and old_first <= new_third:
            return ""
        more = self.key.more_is_better
        if more is None:
            return "other"
        return "better" if (new_first > old_third) == more else "worse"


def changes(new: Results, old: Results) -> Iterator[Change]:
    """What both have measured, in the order of the new one."""
    for key, cells in new.table.items():
        for subject, cell in cells.items():
            if before := old.table.get(key, {}).get(subject):
                yield Change(key, subject, before, cell)


def table(new: Results, old: Results) -> Table:
    """Every figure that both have."""
    headings = ["", "", "unit", "subject", "", "old", "new", "new/old"]
    rows = []
    for change in changes(new, old):
        key, ratio = change.key, change.ratio
        figures = (change.old.text(), change.new.text(), "-" if ratio is None else number(ratio))
        rows.append([f"{key.group}: {key.benchmark}", key.metric, key.unit, change.subject, change.verdict, *figures])
    title = f"{_commit(new)} against {_commit(old)}"
    return Table(title, headings, rows, figures=(5, 6, 7))


def _commit(results: Results) -> str:
    return str(results.machine.get("commit", "unknown"))


def remarks(new: Results, old: Results) -> list[str]:
    """What is to be known about a comparison: what differs besides the code, and what only one side has."""
    found = [f"not the same conditions, so this compares more than the code: {d}" for d in new.differences(old)]
    for only, missing, name in ((new, old, "new"), (old, new, "old")):
        lone = [
            f"{key.benchmark}, {key.metric}, {subject}"
            for key, cells in only.table.items()
            for subject in cells
            if subject not in missing.table.get(key, {})
        ]
        if lone:
            found.append(f"only in the {name} one: {len(lone)} figures, like {lone[0]}")
    if any(min(len(c.old.values), len(c.new.values)) < ENOUGH for c in changes(new, old)):
        found.append(f"fewer than {ENOUGH} runs on a side: no difference of such a row is called better or worse")
    return found
