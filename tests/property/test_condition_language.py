"""Laws of the language: what is written is read back, and no text does harm."""

from hypothesis import example, given
from hypothesis import strategies as st

from condition_trees import roots
from profilelake.semantics.conditions.parse import ParseError, parse
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import Root

WORDS = st.sampled_from(
    [
        "event(",
        "entity(",
        "trait(",
        "property(",
        "context(",
        "literal(",
        "parent:",
        "'a'",
        '"b"',
        "'x.y'",
        "7",
        "-1.5",
        "1e9",
        "days",
        "hour",
        "2026-01-01",
        "true",
        "2026-01-01T00:00:00Z",
        ")",
        "(",
        ".",
        ".where(",
        ".within(",
        ".between(",
        ".sources(",
        "{exclude:",
        "}",
        ".count()",
        ".sum(",
        ".mode(",
        "as",
        "string",
        ",",
        "=",
        "!=",
        ">=",
        "<=",
        "<",
        ">",
        ".exists()",
        ".contains(",
        ".any(",
        ".all(",
        "NOT",
        "ANY",
        "ALL",
        "AND",
        "OR",
        "not",
        "and",
        "or",
        "'",
        "\\",
        "\n",
        "“",
        "\x00",
        "é",
        "日",
        "$",
        ".one_of(",
    ]
)


@given(roots())
def test_what_is_written_is_read_back(root: Root) -> None:
    text = written(root)
    assert parse(text) == root
    assert written(parse(text)) == text


@given(
    st.one_of(
        st.text(), st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map("".join)
    )
)
@example("(" * 60_000)
@example("NOT " * 15_000)
@example("trait('a')" * 5_000)
@example("trait('a').equals(" * 3_000)
@example("trait('a').any(" * 3_000)
@example("event('a').where(" * 3_000)
@example("9" * 60_000)
@example("'" + "\\" * 60_000)
@example("a" * 70_000)
@example("\ud800")
@example("'\ud800'")
def test_any_text_is_a_definition_or_an_error_that_points_into_it(text: str) -> None:
    match _read(text):
        case ParseError() as error:
            start, end = error.span
            assert 0 <= start <= end <= max(len(text), 1)
            assert len(str(error)) < 1_000
            assert error.line >= 1
            assert error.column >= 1
        case root:
            assert parse(written(root)) == root


def _read(text: str) -> Root | ParseError:
    try:
        return parse(text)
    except ParseError as error:
        return error
