"""Text from outside, as it may be shown: on one line, with nothing in it that a terminal would obey."""

from typing import Any

__all__ = ["in_words", "one_line", "plain_console", "visible"]

MOST = 600  # characters of a message; libraries put whole listings into theirs


def visible(text: object) -> str:
    r"""Return text with control characters, line ends, marks of direction and bytes that are no text written out.

    >>> visible("a\x1b[31m\nb"), visible("caf\u00e9 \u202e \udcff")
    ('a\\x1b[31m\\nb', 'café \\u202e \\xff')
    """
    return "".join(char if char.isprintable() else _written_out(char) for char in str(text))


def _written_out(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def one_line(text: object, most: int = MOST) -> str:
    """Return text as `visible` does, the middle of a long one left out."""
    line = visible(" ".join(str(text).splitlines()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"


def in_words(error: object) -> str:
    """Return what an error says, to stand within a sentence: libraries put whole tracebacks into their messages."""
    return one_line(" ".join(str(error).split()), 300).rstrip(".") or type(error).__name__


def plain_console(width: int | None = None, *, stderr: bool = False) -> Any:
    """Return a rich console that prints text as it is: no markup, no emoji codes, no colours of its own."""
    from rich.console import Console

    return Console(width=width, stderr=stderr, markup=False, emoji=False, highlight=False)
