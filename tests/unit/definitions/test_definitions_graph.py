"""Entities and how profiles are linked with them: what becomes a query, and what is told of a file that cannot."""

import duckdb
import pytest

from profilelake.definitions.computed import InvalidDefinitions, parse
from profilelake.semantics.definitions import Definition

GRAPH = """
data_graph: {version: v1.0.0}
entities:
  account: {table_ref: PROD.CUST.account, primary_key: id}
  cart:    {table_ref: carts, primary_key: id, enrichment_enabled: true, every: 15 minutes}
  item:    {table_ref: other.items}
  plan:    {table_ref: plans}
  score:   {sql: "SELECT user_id, score FROM scores", id: user_id}
profile:
  relationships:
    user-accounts:
      related_entity: account
      external_id: {type: email, join_key: EMAIL_ID}
      relationships:
        user-carts:
          related_entity: cart
          join_on: account.ID = cart.ACCOUNT_ID
          relationships:
            items:
              related_entity: item
              junction_table: {table_ref: cart_items, primary_key: id, left_join_on: cart.id = cart_id, right_join_on: item_id = item.id}
    plans:
      related_entity: plan
      trait: {name: "my plan", join_key: code}
"""


def entities(text: str) -> dict[str, Definition]:
    """Return the entities of a file by slug."""
    found = parse(text, "entities", "entities.yaml")
    return {slug: one.definition for slug, one in found.written.items()}


def test_each_entity_becomes_a_query_that_gives_its_rows_by_id() -> None:
    found = entities(GRAPH)
    assert {slug: (one.key, one.kind, one.id_type, one.every_seconds) for slug, one in found.items()} == {
        "account": ("account", "entity", "email", 43_200),
        "cart": ("cart", "entity", "email", 900),
        "item": ("item", "entity", "email", 43_200),
        "plan": ("plan", "entity", "profile_id", 43_200),
        "score": ("score", "entity", "user_id", 43_200),
    }
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA ws_default_linked; CREATE SCHEMA other; SET schema='main'")
        for statement in (
            "CREATE TABLE ws_default_linked.account AS SELECT * FROM (VALUES (1, 'a@x'), (2, NULL)) AS t(id, email_id)",
            "CREATE TABLE ws_default_linked.carts AS SELECT * FROM (VALUES (10, 1), (11, 2)) AS t(id, account_id)",
            "CREATE TABLE ws_default_linked.cart_items AS SELECT * FROM (VALUES (10, 7), (10, 8), (11, 7)) AS t(cart_id, item_id)",
            "CREATE TABLE other.items AS SELECT * FROM (VALUES (7, 'tea'), (8, 'jam')) AS t(id, title)",
            "CREATE TABLE ws_default_linked.plans AS SELECT 3 AS code, 'gold' AS title",
            "CREATE TABLE scores AS SELECT 'u1' AS user_id, 0.5 AS score",
            """CREATE TABLE profiles AS SELECT 'use_1' AS profile_id, 'users' AS collection, '{"my plan": 3}' AS traits""",
        ):
            connection.execute(statement)
        rows = {slug: connection.sql(one.query).fetchall() for slug, one in found.items()}
    assert rows["account"] == [("a@x", 1, "a@x")]
    assert rows["cart"] == [("a@x", 10, 1)]
    assert sorted(rows["item"]) == [("a@x", 7, "tea"), ("a@x", 8, "jam")]
    assert rows["plan"] == [("use_1", 3, "gold")]
    assert rows["score"][0][0] == "u1"


def test_an_empty_file_has_none() -> None:
    assert entities("") == {}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("entities: {a: {sql: SELECT 1}}", 1, "name the column of identifiers"),
        ("entities: {a: {sql: SELECT 1, id: user_id, table_ref: x}}", 1, "`sql`, or with `table_ref`"),
        ("entities: {a: {table_ref: x}}", 1, "no relationship leads to it"),
        ("entities: {a: {table_ref: x.y.z.w}}", 1, "name a table"),
        ("entities: {a: {tabel_ref: x}}", 1, "did you mean table_ref"),
        (
            "profile:\n  relationships:\n    r: {related_entity: b, external_id: {type: email, join_key: k}}",
            3,
            "entities with a table",
        ),
        (
            "entities: {a: {table_ref: x}}\nprofile:\n  relationships:\n    r: {related_entity: a, join_on: a.x = b.y}",
            4,
            "by external_id or trait",
        ),
        (
            (
                "entities: {a: {table_ref: x}, b: {table_ref: y}}\nprofile:\n  relationships:\n    r:\n      related_entity: a\n"
                "      external_id: {type: email, join_key: k}\n      relationships:\n"
                "        s: {related_entity: b, join_on: 'a.x = 1; DROP TABLE y'}"
            ),
            8,
            "which columns are equal",
        ),
        ("entities: {a: {sql: SELECT 1, id: user_id, every: sometimes}}", 1, "write how often"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(InvalidDefinitions) as told:
        entities(text)
    problems = [problem for file in told.value.files for problem in file.problems]
    assert any(problem.line == line and said in problem.message for problem in problems), told.value


def test_names_cannot_break_out_of_the_query() -> None:
    text = """
entities: {a: {table_ref: 'x" AS y; DROP TABLE z --'}}
profile: {relationships: {r: {related_entity: a, trait: {name: "it's \\"so\\"", join_key: 'k"k'}}}}
"""
    query = entities(text)["a"].query
    assert '"x"" AS y; DROP TABLE z --"' in query
    assert '"k""k"' in query
    assert "it''s" in query
