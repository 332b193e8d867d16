"""Files of computed traits and audiences: what they say, and all that is wrong with them, with its line."""

import json
from pathlib import Path

import pytest

from profilelake.definitions.computed import Computed, InvalidDefinitions, load, parse
from profilelake.definitions.names import Names
from profilelake.definitions.schemas import SECTIONS, Section, schema
from profilelake.definitions.testing import run
from profilelake.semantics.definitions import EXTERNAL_IDS, Definition

DOCS = Path(__file__).parents[3] / "docs"

AUDIENCES = """
audiences:
  loyal:
    name: Loyal people
    description: Two orders a month.
    query: |
      event('Order Completed')
        .within(30 days).count() >= 2
    external_ids: [user_id, crm_id]
  paying:
    when: {trait: plan, equals: pro}
    enabled: false
    external_ids: none
    historical: false
  big_accounts:
    target: accounts
    query: trait('employees') > 100
  from_sql:
    sql: SELECT user_id FROM orders
    id: user_id
    every: 6 hours
    destinations: [crm]
"""


def problems(text: str, section: str = "audiences") -> list[str]:
    with pytest.raises(InvalidDefinitions) as raised:
        parse(text, section, "the file")
    return str(raised.value).splitlines()[1:]


def test_what_files_say() -> None:
    found = parse(AUDIENCES, name="definitions/audiences.yaml").written
    said = {key: one.definition for key, one in found.items()}
    file = "definitions/audiences.yaml"
    assert said == {
        "loyal": Definition(
            key="loyal",
            kind="audience",
            query="event('Order Completed')\n  .within(30 days).count() >= 2",
            name="Loyal people",
            description="Two orders a month.",
            external_ids=("user_id", "crm_id"),
            managed_by=file,
        ),
        "paying": Definition(
            key="paying",
            kind="audience",
            query="trait('plan') = 'pro'",
            enabled=False,
            external_ids=(),
            historical=False,
            managed_by=file,
        ),
        "big_accounts": Definition(
            key="big_accounts",
            kind="audience",
            query="trait('employees') > 100",
            target="accounts",
            external_ids=EXTERNAL_IDS,
            managed_by=file,
        ),
        "from_sql": Definition(
            key="from_sql",
            kind="sql_audience",
            query="SELECT user_id FROM orders",
            every_seconds=21_600,
            id_type="user_id",
            managed_by=file,
        ),
    }
    assert found["from_sql"].destinations == ("crm",)
    assert found["loyal"].line == 4


def test_a_text_and_a_tree_of_one_meaning_are_one_definition() -> None:
    text = "traits: {spend: {query: \"event('Order Completed').sum(property('revenue'))\"}}"
    tree = "traits: {spend: {value: {event: Order Completed, sum: revenue}}}"
    first, second = (parse(one, "traits").written["spend"] for one in (text, tree))
    assert first.root == second.root
    assert first.definition == second.definition


def test_entities_are_not_conditions(tmp_path: Path) -> None:
    (tmp_path / "entities.yaml").write_text(
        "entities: {orders_rows: {sql: SELECT user_id, total FROM t, id: user_id}}\n".replace(
            "SELECT user_id, total FROM t", "'SELECT user_id, total FROM t'"
        )
    )
    (tmp_path / "audiences.yaml").write_text(
        "audiences: {k: {query: entity('orders_rows').where(property('total') > 5).count() >= 1}}\n"
    )
    found = load(tmp_path).written
    assert (found["orders_rows"].definition.kind, found["k"].definition.kind) == ("entity", "audience")
    (told,) = problems("entities: {e: {query: x}}", "entities")[:1]
    assert "say which rows there are once: with `sql`" in told


def test_empty_files_say_nothing() -> None:
    assert parse("").written == parse("audiences:\n").written == parse("tests:\n", "tests").written == {}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("{}", "line 2: audiences.k: say what it is once: one of `query` (text), `when` (a tree) and `sql`"),
        ("{query: x, sql: y}", "line 2: audiences.k: say what it is once"),
        ("{query: ''}", "line 2: audiences.k.query: write the query as text"),
        ("{query: [1]}", "line 2: audiences.k.query = a list: write the query as text"),
        ("{value: {}}", "line 2: audiences.k"),
        ("{sql: SELECT 1}", "line 2: audiences.k: name the column of identifiers with `id`"),
        ("{sql: SELECT 1, id: u, every: 1 hours ago}", "write how often from 15 minutes to 31 days"),
        ("{sql: SELECT 1, id: u, every: 5 minutes}", "write how often from 15 minutes to 31 days"),
        ("{query: trait('x').exists(), every: 1 hour}", "only SQL has a schedule"),
        ("{query: trait('x').exists(), id: u}", "only SQL has a column of ids"),
        ("{query: trait('x').exists(), enabled: maybe}", "audiences.k.enabled = maybe: write true or false"),
        ("{query: trait('x').exists(), target: cats}", "audiences.k.target = cats: it is one of users and"),
        ("{query: trait('x').exists(), external_ids: 7}", "write a list of at most 20 types of identifiers"),
        (
            "{query: trait('x').exists(), external_ids: [a], target: accounts}",
            "accounts ask for no identifiers",
        ),
        ("{query: trait('x').exists(), nmae: y}", "unknown key; did you mean name?"),
        (f"{{query: trait('x').exists(), name: {'y' * 201}}}", "it has 201 characters, the most is 200"),
        ("{when: {trait: plan, equlas: pro}}", "audiences.k.when"),
        ("{query: event('x').count()}", "a condition"),
    ],
)
def test_what_is_wrong_with_an_entry(entry: str, told: str) -> None:
    lines = problems(f"audiences:\n  k: {entry}\n")
    assert told in lines[0], lines


def test_a_query_is_told_by_its_line_in_the_file_and_its_place_in_the_line() -> None:
    text = (
        "audiences:\n"
        "  k:\n"
        "    query: |\n"
        "\n"
        "      event('Order Completed')\n"
        "        .wehre( property('x') = 1 ).count() >= 1\n"
    )
    assert problems(text) == [
        "  line 6: audiences.k.query: column 4: unknown function .wehre(); did you mean where()?",
        "        .wehre( property('x') = 1 ).count() >= 1",
        "         ^^^^^",
    ]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "definitions"
    (folder / "audiences").mkdir(parents=True)
    (folder / "audiences.yaml").write_text("audiences:\n  a: {query: nonsense}\n  b c: {query: x}\n")
    (folder / "audiences" / "more.yaml").write_text("audiences: [\n")
    (folder / "traits.yaml").write_bytes(b"traits:\n  \xff: {}\n")
    with pytest.raises(InvalidDefinitions) as raised:
        load(folder)
    assert sorted(one.name for one in raised.value.files) == [
        "definitions/audiences.yaml",
        "definitions/audiences/more.yaml",
        "definitions/traits.yaml",
    ]
    assert "reading definitions/audiences.yaml: 2 errors; nothing was changed" in str(raised.value)


def test_a_key_is_one_definition_in_all_files(tmp_path: Path) -> None:
    (tmp_path / "traits").mkdir()
    (tmp_path / "audiences.yaml").write_text("audiences: {k: {query: trait('x').exists()}}\n")
    (tmp_path / "traits" / "a.yaml").write_text("traits:\n  k: {query: event('x').count()}\n")
    with pytest.raises(InvalidDefinitions, match=r"traits/a.yaml line 2 defines k too; give one another key"):
        load(tmp_path)


def test_circles_over_several_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "audiences.yaml").write_text("audiences: {a: {query: trait('t') = 1}}\n")
    (tmp_path / "traits.yaml").write_text(
        "traits: {t: {query: event('x').where(property('p') = trait('a')).count()}}\n"
    )
    with pytest.raises(InvalidDefinitions, match="in a circle: a -> t -> a; break it"):
        load(tmp_path)


def test_deep_trees_are_read_and_aliases_are_not() -> None:
    tree = "{trait: x, exists: true}"
    for _ in range(20):
        tree = f"{{not: {tree}}}"
    assert parse(f"audiences: {{k: {{when: {tree}}}}}").written["k"].root is not None
    assert "anchors and aliases are not taken" in problems("audiences: {a: &x {query: y}}")[0]


def test_names_nobody_has_sent_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "audiences.yaml").write_text(
        "audiences:\n  k:\n    query: event('Order Compelted').count() >= 1\n"
    )
    names = Names(events={"Order Completed": {"revenue"}})
    (told,) = load(tmp_path, names).warnings
    assert "audiences.yaml: line 3: audiences.k.query: column 1: no event 'Order Compelted'" in told
    assert "did you mean 'Order Completed'?" in told
    assert load(tmp_path).warnings == []


# ---- cases -------------------------------------------------------------------------------------

CASES = """
traits:
  orders: {query: event('Order Completed').count()}
  top: {query: "event('Order Completed').max(property('revenue'))"}
tests:
  - about: two orders
    at: 2026-02-15T00:00:00Z
    given:
      events:
        - {at: 2026-02-01T00:00:00Z, event: Order Completed, properties: {revenue: 10}}
        - {at: 2026-03-01T00:00:00Z, event: Order Completed, properties: {revenue: 30.5}}
    expect:
      - {orders: 1, top: 10}
      - {at: 2026-03-01T00:00:00Z, orders: 2, top: 30.5}
      - {at: 2026-01-01T00:00:00Z, orders: 0, top: null}
"""


def missed(computed: Computed) -> list[str]:
    return [
        f"{one.key}: {one.fault or f'{one.expected!r} != {one.got!r}'} (line {one.line})"
        for outcome in run(computed)
        for one in outcome.missed
    ]


def test_good_cases() -> None:
    assert missed(parse(CASES, "traits")) == []


def test_a_case_that_fails_says_what_came_instead() -> None:
    spoilt = CASES.replace("orders: 2", "orders: 3").replace("top: null", "top: 7")
    assert missed(parse(spoilt, "traits")) == ["orders: 3 != 2 (line 14)", "top: 7 != None (line 15)"]


def test_definitions_see_those_they_read_and_identifiers_count() -> None:
    text = """
audiences:
  buyers: {query: event('Order').count() >= 1, enabled: false}
  vips: {query: trait('buyers') = true AND trait('plan') = 'pro', external_ids: [email]}
tests:
  - at: 2026-01-02T00:00:00Z
    given: {identifiers: [email], traits: {plan: pro}, events: [{at: 2026-01-01T00:00:00Z, event: Order}]}
    expect: {buyers: true, vips: true}
  - at: 2026-01-02T00:00:00Z
    given: {traits: {plan: pro}, events: [{at: 2026-01-01T00:00:00Z, event: Order}]}
    expect: {buyers: true, vips: false}
"""
    assert missed(parse(text)) == []


def test_accounts_have_users() -> None:
    text = """
audiences:
  busy: {target: accounts, query: "ANY ( event('Login').count() >= 2 )"}
tests:
  - at: 2026-01-02T00:00:00Z
    given:
      users:
        - events: [{at: 2026-01-01T00:00:00Z, event: Login}, {at: 2026-01-01T01:00:00Z, event: Login}]
        - traits: {plan: pro}
    expect: {busy: true}
"""
    assert missed(parse(text)) == []


def test_what_cannot_be_tested_is_said() -> None:
    text = """
audiences:
  s: {sql: SELECT 1, id: user_id}
tests: [{at: 2026-01-02T00:00:00Z, expect: {s: true, no: 1}}]
"""
    assert missed(parse(text)) == [
        "s: it is SQL, which is not run here; give its value among the traits instead (line 4)",
        "no: no file defines it (line 4)",
    ]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("{}", "say what to expect"),
        ("{expect: {a: 1}}", "say when"),
        ("{at: soon, expect: {a: 1}}", "write a time such as"),
        ("{at: 2026-01-01, expect: {}}", "name what is expected"),
        ("{at: 2026-01-01, expect: {a: 1}, given: {events: 7}}", "write a list of at most 10,000 events"),
        ("{at: 2026-01-01, expect: {a: 1}, given: {events: [{at: 2026-01-01}]}}", "a name and a time"),
        ("{at: 2026-01-01, expect: {a: 1}, given: {people: 7}}", "unknown key"),
        (f"{{at: 2026-01-01, expect: {{a: {'1' * 5000}}}}}", "a number has at most 400 digits"),
        ("{at: 2026-01-01, expect: {a: 1}, given: {users: [{users: []}]}}", "unknown key"),
    ],
)
def test_what_is_wrong_with_a_case(case: str, told: str) -> None:
    assert told in problems(f"tests: [{case}]", "tests")[0]


# ---- schemas -----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_the_published_schema_is_what_the_program_prints(section: Section) -> None:
    published = (DOCS / "schemas" / f"{section}.json").read_text()
    assert json.loads(published) == schema(section)
