"""Where errors point, also in lines that are long, wide, or full of tabs."""

import pytest

from profilelake.semantics.conditions.pointing import SHOWN_CHARACTERS_MAX, ParseError, pointed, position


def under(text: str, part: str) -> tuple[str, str]:
    """Return the two lines that point at a part of a text."""
    start = text.index(part)
    line, carets = pointed(text, (start, start + len(part))).split("\n")
    return line, carets


@pytest.mark.parametrize(
    ("text", "at", "place"),
    [
        ("", 0, (1, 1)),
        ("ab", 2, (1, 3)),
        ("a\nb", 2, (2, 1)),
        ("a\r\nb", 3, (2, 1)),
        ("a\rb", 2, (2, 1)),
        ("a\n", 2, (2, 1)),
    ],
)
def test_lines_end_as_they_may(text: str, at: int, place: tuple[int, int]) -> None:
    assert position(text, at) == place


def test_the_carets_stand_below_the_part() -> None:
    assert under("one two three", "two") == ("  one two three", "      ^^^")
    assert under("first\n\tone two", "two") == ("   one two", "       ^^^")
    assert under("日本 two", "two") == ("  日本 two", "       ^^^")
    assert under("one 日本", "日本") == ("  one 日本", "      ^^^^")
    assert under("e\u0301 two", "two") == ("  e\u0301 two", "    ^^^")


def test_the_end_has_a_caret_too() -> None:
    assert pointed("ab", (2, 2)) == "  ab\n    ^"
    assert pointed("", (0, 0)) == "  \n  ^"


def test_of_a_long_line_what_is_around_is_shown() -> None:
    text = "x" * 500 + "two" + "y" * 500
    line, carets = under(text, "two")
    assert len(line) == SHOWN_CHARACTERS_MAX + 4
    assert line.startswith("  …x")
    assert line.endswith("y…")
    assert line[carets.index("^") : carets.rindex("^") + 1] == "two"


def test_a_part_over_several_lines_is_shown_from_its_beginning() -> None:
    assert under("one two\nthree", "two\nthree") == ("  one two", "      ^^^")


def test_an_error_says_where_and_what() -> None:
    error = ParseError("a\nbc", (3, 4), "expected d, found c", ("d",))
    assert (error.line, error.column, error.span, error.expected) == (2, 2, (3, 4), ("d",))
    assert str(error) == "reading a condition: line 2, column 2: expected d, found c\n  bc\n   ^"
