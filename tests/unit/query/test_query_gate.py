"""What the gate lets through, and which tables it finds; what it refuses is in tests/spec/sql_attacks."""

from collections.abc import Iterator

import duckdb
import pytest

from profilelake.query import gate
from profilelake.query.failures import Failed


@pytest.fixture(scope="module")
def parser() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(config={"errors_as_json": "true", "enable_external_access": "false"}) as connection:
        yield connection


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SELECT 1", []),
        ("SELECT 1;", []),
        ("  -- note\n SELECT 1 -- more\n;", []),
        ("FROM events", [".events"]),
        ("TABLE events", [".events"]),
        ("FROM events, Events e, EVENTS AS f", [".events"]),
        ("WITH A AS (FROM events) FROM a, Information_Schema.tables", [".events"]),
        ("VALUES (1), (2)", []),
        ("WITH a AS (FROM events), b AS (FROM a) SELECT * FROM a, b, profiles", [".events", ".profiles"]),
        ("WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) FROM r", []),
        ("SELECT * FROM ws_default_sync.id_graph_updates", ["ws_default_sync.id_graph_updates"]),
        ("SELECT (SELECT max(a) FROM x) FROM y WHERE b IN (FROM z)", [".x", ".y", ".z"]),
        ("SELECT * FROM a ANTI JOIN b USING (k) LEFT JOIN c ON true", [".a", ".b", ".c"]),
        ("SELECT * FROM a UNION BY NAME SELECT * FROM b EXCEPT SELECT * FROM c", [".a", ".b", ".c"]),
        ("SELECT * FROM (PIVOT a ON x IN (1, 2) USING sum(y))", [".a"]),
        ("UNPIVOT a ON x, y INTO NAME n VALUE v", [".a"]),
        ("SELECT * FROM a, LATERAL (SELECT * FROM b WHERE b.i = a.i)", [".a", ".b"]),
        ("SELECT unnest(range(3)), * FROM generate_series(1, 3), unnest([1])", []),
        ("SELECT sum(x) OVER (PARTITION BY y ORDER BY z) FROM a QUALIFY row_number() OVER () = 1", [".a"]),
        (
            "SELECT properties->>'$.price', list_transform([1], lambda v: v + 1) FROM events TABLESAMPLE 5%",
            [".events"],
        ),
        ("SUMMARIZE events", [".events"]),
        ("DESCRIBE SELECT * FROM events", [".events"]),
        ("SHOW TABLES", []),
        ("EXPLAIN SELECT * FROM events", [".events"]),
        ("explain analyze FROM events", [".events"]),
        ("SELECT * FROM information_schema.tables", []),
    ],
)
def test_a_query_passes_with_its_tables(
    parser: duckdb.DuckDBPyConnection, query: str, tables: list[str]
) -> None:
    found = gate.check(parser, query).tables
    assert sorted(f"{table.schema}.{table.name}".lower() for table in found) == tables


def test_a_table_has_its_place_in_the_whole_text(parser: duckdb.DuckDBPyConnection) -> None:
    query = "EXPLAIN SELECT 'é' FROM events"
    (table,) = gate.check(parser, query).tables
    assert table.offset is not None
    assert query.encode()[table.offset :] == b"events"


@pytest.mark.parametrize("query", ["", "  ", "-- note", ";", "SELECT 1; SELECT 2", "SELECT 1;;SELECT 2"])
def test_it_is_one_statement(parser: duckdb.DuckDBPyConnection, query: str) -> None:
    with pytest.raises(Failed) as failed:
        gate.check(parser, query)
    assert failed.value.failure.code == "one_statement"


def test_a_query_has_a_length(parser: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(Failed) as failed:
        gate.check(parser, "SELECT '" + "x" * gate.QUERY_BYTES_MAX + "'")
    assert failed.value.failure.code == "too_complex"
