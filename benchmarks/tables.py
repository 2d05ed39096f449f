"""Tables: for a terminal, for a pipe, and in Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs


@attrs.frozen
class Table:
    """Text in rows and columns."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Collection[int] = attrs.field(kw_only=True)
    """The columns that are figures and stand at the right; all others are words."""

    def print(self) -> None:
        """Print it, with rich if that is installed."""
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.table import Table as RichTable
        except ImportError:
            print(self.plain())
            return
        table = RichTable(title=self.title, title_justify="left", box=SIMPLE_HEAD)
        for at, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if at in self.figures else "left", no_wrap=at in self.figures)
        for row in self.rows:
            table.add_row(*row)
        # What is piped to a file or a pager is not to be cut at 80 columns. rich pads a column more than `plain` does.
        width = None if Console().is_terminal else max(map(len, self.plain().splitlines())) + 2 * len(self.headings)
        Console(width=width, markup=False, highlight=False).print(table)

    def plain(self) -> str:
        """The same in nothing but characters."""
        widths = [max(map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        lines = [self.title]
        for row in (self.headings, *self.rows):
            cells = [
                cell.rjust(width) if at in self.figures else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  " + "  ".join(cells).rstrip())
        return "\n".join([*lines, ""])

    def markdown(self) -> str:
        """The same for a page, without the title."""
        rule = ["---:" if at in self.figures else "---" for at in range(len(self.headings))]
        rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in (self.headings, *self.rows)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))


def number(value: float) -> str:
    """Three digits, or all in front of the point."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
