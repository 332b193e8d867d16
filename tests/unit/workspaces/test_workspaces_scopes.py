"""What the words of a token's scope open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilelake.errors import Invalid
from profilelake.workspaces.scopes import RATE_MAX, RESOURCES, SCOPE_CHARACTERS_MAX, WORDS_MAX, Scope

USERS = frozenset({"users"})
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("", Scope()),
        ("  ", Scope()),
        ("rate:200", Scope(rate=200)),
        ("collection:users", Scope(collections=USERS, sql="no", feed=False)),
        (
            "collection:users  collection:accounts",
            Scope(collections=frozenset({"users", "accounts"}), sql="no", feed=False),
        ),
        (
            "resource:events resource:traits",
            Scope(resources=frozenset({"events", "traits"}), sql="no", feed=False),
        ),
        # Events and identifiers show more than some traits do.
        (
            "trait:plan trait:a:b",
            Scope(resources=frozenset({"traits"}), traits=frozenset({"plan", "a:b"}), sql="no", feed=False),
        ),
        (
            "trait:plan resource:metadata",
            Scope(resources=frozenset({"metadata"}), traits=frozenset({"plan"}), sql="no", feed=False),
        ),
        (
            "trait:first%20name%3F",
            Scope(resources=frozenset({"traits"}), traits=frozenset({"first name?"}), sql="no", feed=False),
        ),
        ("sql", Scope(NONE, NONE, NONE, "masked", feed=False)),
        ("sql:personal", Scope(NONE, NONE, NONE, "whole", feed=False)),
        ("sql:personal sql rate:1", Scope(NONE, NONE, NONE, "whole", 1, feed=False)),
        ("sql collection:users", Scope(collections=USERS, sql="masked", feed=False)),
        ("feed", Scope(NONE, NONE, NONE, "no")),
        ("feed trait:plan", Scope(resources=frozenset({"traits"}), traits=frozenset({"plan"}), sql="no")),
    ],
)
def test_words_of_a_kind_add_up_and_kinds_narrow_apart(text: str, scope: Scope) -> None:
    assert Scope.parse(text) == scope


@pytest.mark.parametrize(
    "text",
    [
        "traits:age",
        "collection:people",
        "collection:",
        "collection",
        "resource:secrets",
        "trait:",
        "trait:%ff",
        "sql:all",
        "SQL",
        "rate:0",
        "rate:-1",
        "rate:ten",
        "rate:²",
        f"rate:{RATE_MAX + 1}",
        "rate:1 rate:2",
        "*",
        "trait:a " * (WORDS_MAX + 1),
        "trait:" + "a" * SCOPE_CHARACTERS_MAX,
    ],
)
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="reading a scope"):
        Scope.parse(text)


WORDS = st.sampled_from(
    ["collection:users", "collection:accounts", "trait:a", "trait:b", "sql", "sql:personal"]
    + [f"resource:{name}" for name in RESOURCES]
)


@given(st.lists(WORDS, min_size=1, max_size=6))
def test_neither_order_nor_repeats_matter_and_every_word_narrows(words: list[str]) -> None:
    scope = Scope.parse(" ".join(words))
    assert Scope.parse(" ".join(reversed(words))) == scope
    assert Scope.parse(" ".join([*words, *words])) == scope
    assert scope.sql == ("whole" if "sql:personal" in words else "masked" if "sql" in words else "no")
    assert (scope.collections, scope.resources, scope.traits) != (None, None, None)
