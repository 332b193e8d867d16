"""Laws of the language: what is written is read back, and no text and no form does harm."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from condition_trees import roots
from profilelake.semantics.conditions.bounds import PRIMARIES_MAX, TEXT_BYTES_MAX
from profilelake.semantics.conditions.check import Known, check, cycles, events_of, reads
from profilelake.semantics.conditions.forms import (
    ITEMS,
    JUNCTIONS,
    REDUCERS,
    SUBJECTS,
    WINDOWS,
    FormError,
    from_tree,
    to_tree,
)
from profilelake.semantics.conditions.parse import ParseError, parse
from profilelake.semantics.conditions.text import written
from profilelake.semantics.conditions.tree import Root
from profilelake.semantics.conditions.vocabulary import COMPARISONS

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


@settings(max_examples=40)
@given(roots())
def test_what_is_written_is_read_back(root: Root) -> None:
    text = written(root)
    assert parse(text) == root
    assert written(parse(text)) == text


@settings(max_examples=40)
@given(
    st.one_of(
        st.text(), st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map("".join)
    )
)
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


@pytest.mark.parametrize(
    "part",
    [
        "(", "NOT ", "trait('a')", "trait('a').equals(", "trait('a').any(", "event('a').where(", "9", "'\\", "\ud800",
        "trait('a') = 1 AND ", "trait('a') = (",
    ],
)  # fmt: skip
def test_what_goes_on_and_on_is_refused(part: str) -> None:
    for size in (TEXT_BYTES_MAX - 8, TEXT_BYTES_MAX + 8):
        error = _read(part * (size // len(part)))
        assert isinstance(error, ParseError)
        assert len(str(error)) < 1_000


def _read(text: str) -> Root | ParseError:
    try:
        return parse(text)
    except ParseError as error:
        return error


@settings(max_examples=40)
@given(roots())
def test_a_form_is_read_back(root: Root) -> None:
    form = to_tree(root)
    assert from_tree(form) == root
    assert from_tree(json.loads(json.dumps(form))) == root
    assert from_tree(written(root)) == root


@settings(max_examples=10)  # PyYAML is slow
@given(roots())
def test_a_form_is_read_back_through_yaml(root: Root) -> None:
    # Not `allow_unicode`: PyYAML writes U+0085 such that it reads it back as a space.
    assert from_tree(yaml.safe_load(yaml.safe_dump(to_tree(root)))) == root


_KEYS = st.sampled_from(
    [
        *JUNCTIONS,
        *SUBJECTS,
        *COMPARISONS,
        *REDUCERS,
        *WINDOWS,
        *ITEMS,
        "where",
        "exclude_sources",
        "as",
        "times",
        "x",
    ]
)
_SCALARS = st.one_of(
    st.sampled_from(["plan", "7 days", "2026-01-01", "trait('a') = 1", "number", "a..b", "", "\ud800", "\0"]),
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400),
)  # fmt: skip
FORMS = st.recursive(
    _SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(_KEYS, below, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=40)
@given(FORMS)
def test_any_value_is_a_form_or_an_error(value: Any) -> None:
    try:
        root = from_tree(value)
    except FormError:
        return
    assert from_tree(to_tree(root)) == root
    assert parse(written(root)) == root


def test_a_form_that_is_too_deep_is_refused_and_not_followed() -> None:
    form: Any = {"trait": "a", "equals": 1}
    for _ in range(100_000):
        form = {"not": form}
    assert isinstance(_read_form(form), FormError)
    form = {"trait": "a"}
    for _ in range(100_000):
        form = {"event": "e", "sum": {"property": "p", "equals": form}}
    assert isinstance(_read_form(form), FormError)
    assert isinstance(_read_form({"all": [{"trait": "a", "equals": 1}] * (PRIMARIES_MAX + 1)}), FormError)
    assert isinstance(_read_form({"trait": "a", "one_of": ["x" * TEXT_BYTES_MAX]}), FormError)


def _read_form(value: Any) -> Root | FormError:
    try:
        return from_tree(value)
    except FormError as error:
        return error


@settings(max_examples=40)
@given(roots(), st.sampled_from(("audience", "trait")), st.sampled_from(("users", "accounts")))
def test_every_tree_can_be_checked_and_findings_point_into_its_text(
    root: Root, kind: Any, target: Any
) -> None:
    known = Known(events={"pro": ["plan"]}, traits=["plan"], definitions={"revenue": "audience"}, sources=[])
    text = written(root)
    found = check(parse(text), kind=kind, target=target, known=known)
    assert [(one.code, one.message) for one in found] == [
        (one.code, one.message) for one in sorted(found, key=lambda one: one.span or (0, 0))
    ]
    for finding in found:
        assert finding.span is not None
        assert 0 <= finding.span[0] < finding.span[1] <= len(text)
        assert len(finding.message) < 600
        assert finding.message.split("\n")[0] in finding.shown(text)
    without = check(root, kind=kind, target=target, known=known)
    assert sorted(one.code for one in without) == sorted(one.code for one in found)
    assert reads(root) == reads(parse(text))
    assert events_of(root) == events_of(parse(text))


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), min_size=1, max_size=3)))
def test_circles_are_found_exactly_where_definitions_lead_back_to_themselves(
    asked: dict[str, set[str]],
) -> None:
    definitions = {
        key: parse(" AND ".join(f"trait('{other}') = true" for other in sorted(others)))
        for key, others in asked.items()
    }
    found = cycles(definitions)
    for circle in found:
        assert len(set(circle)) == len(circle)
        for key, other in zip(circle, [*circle[1:], circle[0]], strict=True):
            assert other in asked[key]
    assert {key for circle in found for key in circle} == {
        key for key in asked if key in _reached(key, asked)
    }


def _reached(start: str, asked: dict[str, set[str]]) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for other in asked.get(waiting.pop(), ()):
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return reached
