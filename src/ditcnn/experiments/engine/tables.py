"""What an experiment says: paragraphs and tables, whole in Markdown, and in brief on a terminal."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from ditcnn.analysis.intervals import Interval

__all__ = ["Block", "Table", "Verdict", "brief_text", "interval_text", "markdown"]


@dataclass(frozen=True)
class Table:
    """Rows of values below their headings; ``brief`` are the columns that a terminal shows, by number."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    brief: Sequence[int] = ()

    def markdown(self) -> str:
        """Return the table in Markdown: the first column aligned left where it is text, all others right.

        >>> print(Table(["net", "top-1 [%]"], [["plain", 83.7]]).markdown())
        | net | top-1 [%] |
        | --- | ---: |
        | plain | 83.7 |
        """
        first = self.rows[0] if self.rows else [""] * len(self.head)
        rule = ["---" if isinstance(value, str) and column == 0 else "---:" for column, value in enumerate(first)]
        return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [self.head, rule, *self.rows])

    def brief_lines(self, width: int) -> tuple[list[str], list[str]]:
        """Return the columns of ``brief``, aligned: headings, and rows; a first column that is too wide gives way."""
        columns = [[str(row[number]) for row in self.rows] for number in self.brief]
        heads = [self.head[number] for number in self.brief]
        room = width - 2 * (len(columns) - 1)
        widths = [max(map(len, [*column, head])) for column, head in zip(columns, heads, strict=True)]
        if sum(widths) > room:
            widths = [max(map(len, [*column, *head.split()])) for column, head in zip(columns, heads, strict=True)]
            widths[0] = min(widths[0], max(8, room - sum(widths[1:])))
        wrapped = [textwrap.wrap(head, w) for head, w in zip(heads, widths, strict=True)]
        height = max(map(len, wrapped))
        above = zip(*([""] * (height - len(lines)) + lines for lines in wrapped), strict=True)

        def text(words: Sequence[str]) -> str:
            return "  ".join([_cut(words[0], widths[0]), *map(str.rjust, words[1:], widths[1:])]).rstrip()

        return list(map(text, above)), [text(row) for row in zip(*columns, strict=True)]


class Verdict(str):
    """A paragraph that a terminal shows too."""


Block = str | Table


def markdown(blocks: Sequence[Block]) -> str:
    """Return paragraphs and tables one below the other."""
    texts = (block.markdown() if isinstance(block, Table) else block.rstrip() for block in blocks)
    return "\n\n".join(text for text in texts if text)


def brief_text(blocks: Sequence[Block], *, width: int = 80, rows: int = 12) -> str:
    """Return what a terminal shows: verdicts, and so many rows of the tables that have a brief form.

    >>> print(brief_text([Table(["net", "seeds", "top-1"], [["a", 5, 83.7], ["b", 5, 84.0]], brief=(0, 2))], rows=1))
    net  top-1
    a     83.7
    and 1 row more
    """
    parts, left, more = [], rows, 0
    for block in blocks:
        if isinstance(block, Verdict):
            parts.append(textwrap.fill(block, width))
        elif isinstance(block, Table) and block.brief:
            above, lines = block.brief_lines(width)
            more += len(lines[left:])
            parts += ["\n".join([*above, *lines[:left]])] if left else []
            left -= len(lines[:left])
    note = f"\nand {more} row{'s' * (more != 1)} more" if more else ""
    return "\n\n".join(parts) + note


def _cut(words: str, width: int) -> str:
    return words.ljust(width) if len(words) <= width else words[: width - 3] + "..."


def interval_text(interval: Interval | None, digits: int = 1) -> str:
    """Return a mean with its interval, or alone where one run gives none; a dash for None.

    >>> interval_text(Interval(91.23, 90.8, 91.7, 5)), interval_text(Interval(91.23, None, None, 1)), interval_text(None)
    ('91.2 [90.8, 91.7]', '91.2', '-')
    """
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
