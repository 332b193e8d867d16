"""Errors that point at the place in a text where they arose."""

import unicodedata
from typing import Final

from profilelake.errors import Invalid
from profilelake.semantics.conditions.tree import Span

SHOWN_CHARACTERS_MAX: Final = 100
"""Characters of a line that are shown around the place that is pointed at."""


class ParseError(Invalid):
    """A text that is no condition: where, why, and what could stand there instead.

    `line` and `column` count characters from 1. The message ends with the line and a caret under the place.
    """

    def __init__(self, text: str, span: Span, problem: str, expected: tuple[str, ...] = ()) -> None:
        self.span = span
        self.problem = problem
        self.expected = expected
        self.line, self.column = position(text, span[0])
        super().__init__(
            f"reading a condition: line {self.line}, column {self.column}: {problem}\n{pointed(text, span)}"
        )


def position(text: str, at: int) -> tuple[int, int]:
    """Return line and column, from 1, of the character at an index."""
    before = _lines(text[:at])
    return len(before), len(before[-1]) + 1


def pointed(text: str, span: Span) -> str:
    """Return the line a span begins in and, below it, carets under the span; both indented by two."""
    start, end = span
    line, column = position(text, start)
    whole = _lines(text)[line - 1]
    first = max(0, min(column - 1 - SHOWN_CHARACTERS_MAX // 2, len(whole) - SHOWN_CHARACTERS_MAX))
    shown = whole[first : first + SHOWN_CHARACTERS_MAX]
    before = shown[: column - 1 - first]
    under = shown[column - 1 - first : column - 1 - first + max(1, end - start)]
    lead = "…" if first else ""
    trail = "…" if first + len(shown) < len(whole) else ""
    carets = "^" * max(1, _width(under))
    return f"  {lead}{_printable(shown)}{trail}\n  {' ' * (len(lead) + _width(before))}{carets}"


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", " \n").replace("\r", "\n").split("\n")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if not character.isprintable():
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
