import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.manifest import ManifestContent

from lake_examples import MEMBERS, VISITS, changes, members, open_lake, upto, visits
from profilelake.errors import Invalid, Unavailable
from profilelake.lake.catalog import PublishedTable
from profilelake.lake.current import Generation
from profilelake.lake.reading import attach, damage_told
from profilelake.lake.sql import connect, identifier, text
from profilelake.lake.tables import Column


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = connection.sql(query).to_arrow_table().to_pylist()
    return rows


def test_every_table_is_a_view_typed_even_when_empty(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS)
    lake.current_table("w", MEMBERS)
    connection = duckdb.connect()
    assert attach(connection, lake, "w") == ["members", "members_changes", "visits"]
    schema = connection.sql("SELECT * FROM visits").to_arrow_table().schema
    assert schema.names == VISITS.schema().names
    assert schema.field("tags").type.value_type == pa.string()
    assert str(schema.field("seen_at").type) == "timestamp[us, tz=UTC]"
    assert _rows(connection, "SELECT * FROM members") == []
    assert attach(connection, lake, "other") == []


def test_tables_of_profiles_sync_have_a_schema_of_their_own(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 3), upto(1))
    lake.table("w", replace(VISITS, part="sync")).append(visits(0, 5), upto(1))
    connection = duckdb.connect()
    assert attach(connection, lake, "w") == ["visits", "ws_w_sync.visits"]
    counted = "SELECT (SELECT count(*) FROM visits) AS own, (SELECT count(*) FROM ws_w_sync.visits) AS sync"
    assert _rows(connection, counted) == [{"own": 3, "sync": 5}]
    assert attach(connection, lake, "w") == ["visits", "ws_w_sync.visits"]


def test_no_workspace_is_named_like_the_tables_of_another(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    with pytest.raises(Invalid, match="must not end in"):
        lake.table("w_sync", VISITS)


def test_views_show_what_tables_scan(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    current = lake.current_table("w", MEMBERS)
    schema = current.log.definition.schema()
    connection = duckdb.connect()
    for sequence in (1, 2, 3):
        table.append(visits(sequence * 10, 3), upto(sequence))
        made = changes(schema, [(sequence, "m1", sequence), (sequence, f"m{sequence + 1}", 5)])
        current.append_changes(made, upto(sequence))
        if sequence == 2:
            current.merge()
        attach(connection, lake, "w")
        seen = connection.sql("SELECT * FROM visits ORDER BY visit_id").to_arrow_table().cast(VISITS.schema())
        assert seen.equals(table.scan().sort_by("visit_id"))
        seen = connection.sql("SELECT * FROM members ORDER BY member_id").to_arrow_table()
        assert seen.cast(MEMBERS.schema()).equals(current.scan().sort_by("member_id"))
    log = "SELECT seq, op FROM members_changes WHERE member_id = 'm1' ORDER BY seq"
    assert [row["seq"] for row in _rows(connection, log)] == [1, 2, 3]


def test_a_view_stays_what_it_was_until_attached_again(tmp_path: Path) -> None:
    lake = open_lake(tmp_path)
    table = lake.table("w", VISITS)
    table.append(visits(0, 2), upto(1))
    connection = duckdb.connect()
    attach(connection, lake, "w")
    table.append(visits(2, 2), upto(2))
    assert _rows(connection, "SELECT count(*) AS n FROM visits") == [{"n": 2}]
    attach(connection, lake, "w")
    assert _rows(connection, "SELECT count(*) AS n FROM visits") == [{"n": 4}]


def test_columns_are_found_by_id_in_files_of_any_age(tmp_path: Path) -> None:
    struct = pa.list_(pa.struct([("kind", pa.string()), ("id", pa.binary(4))]))
    nested = (Column("id", pa.binary(4), "x", required=True), Column("parts", struct, "x"))
    definition = replace(VISITS, columns=nested, day=None)
    row = {"id": b"abcd", "parts": [{"kind": "k", "id": b"wxyz"}]}
    open_lake(tmp_path).table("w", definition).append(
        pa.Table.from_pylist([row], schema=definition.schema()), upto(1)
    )
    grown = replace(definition, columns=(Column("note", pa.string(), "x"), *nested))
    lake = open_lake(tmp_path)
    newer = {"note": "n", "id": b"efgh", "parts": None}
    lake.table("w", grown).append(pa.Table.from_pylist([newer], schema=grown.schema()), upto(2))
    connection = duckdb.connect()
    attach(connection, lake, "w")
    assert _rows(connection, "SELECT note, id, parts FROM visits ORDER BY id") == [
        {"note": None, **row},
        newer,
    ]


def test_times_are_utc_whatever_the_machine_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 1), upto(1))
    connection = duckdb.connect()
    attach(connection, lake, "w")
    assert _rows(connection, "SELECT CAST(seen_at AS VARCHAR) AS at FROM visits") == [
        {"at": "2023-11-14 22:13:20+00"}
    ]


def test_a_table_with_delete_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 1), upto(1))
    # PyIceberg cannot write delete files, so a manifest that says it lists some stands for them.
    published = lake.load("w", "visits")
    snapshot = published.table.current_snapshot()
    assert snapshot is not None
    manifest = snapshot.manifests(published.table.io)[0]
    monkeypatch.setattr(type(manifest), "content", ManifestContent.DELETES)
    with pytest.raises(Invalid, match="has delete files"):
        attach(duckdb.connect(), lake, "w")


def test_a_linked_table_with_delete_files_is_refused_to_whoever_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    lake.table("w", VISITS).append(visits(0, 1), upto(1))
    lake.put_linked("w", "orders", pa.table({"number": [1]}))
    files = PublishedTable.__dict__["files"].func

    def refused(published: PublishedTable) -> object:
        if published.table.name()[-1] == "orders":
            raise Invalid(
                "reading table ws_w_linked.orders: has delete files, of a merge-on-read; run: CALL it('x')"
            )
        return files(published)

    monkeypatch.setattr(PublishedTable, "files", property(refused))
    connection = duckdb.connect()
    attach(connection, lake, "w")
    assert _rows(connection, "SELECT count(*) AS rows FROM visits") == [{"rows": 1}]
    with pytest.raises(Invalid, match=r"^reading table ws_w_linked.orders: .* CALL it\('x'\)"), damage_told():
        connection.execute("FROM ws_w_linked.orders").fetchall()


def test_a_log_that_was_cut_beyond_the_base_is_never_combined_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(tmp_path)
    current = lake.current_table("w", MEMBERS)
    current.replace(members({"m1": 1}), upto(1))
    reader = open_lake(tmp_path)
    old_base = reader.load("w", "members")
    schema = current.log.definition.schema()
    for sequence in (2, 3, 4):
        current.append_changes(changes(schema, [(sequence, f"m{sequence}", 1)]), upto(sequence))
        current.merge()
    assert Generation.cut(current.log.properties()) > Generation.of_base(old_base.table.properties)

    load, stale = reader.load, [old_base]
    monkeypatch.setattr(
        reader, "load", lambda w, n, _: stale.pop() if n == "members" and stale else load(w, n)
    )
    connection = duckdb.connect()
    attach(connection, reader, "w")
    assert [r["member_id"] for r in _rows(connection, "SELECT member_id FROM members ORDER BY 1")] == [
        "m1",
        "m2",
        "m3",
        "m4",
    ]
    monkeypatch.setattr(reader, "load", lambda w, n, _: old_base if n == "members" else load(w, n))
    with pytest.raises(Unavailable, match="merged faster than read"):
        attach(connection, reader, "w")


def test_quoting_keeps_a_name_a_name() -> None:
    assert identifier('a"b') == '"a""b"'
    assert text("it's") == "'it''s'"
    row = duckdb.connect().execute(f"SELECT {text(chr(39) + ' OR 1=1')} AS {identifier('x; --')}").fetchone()
    assert row == ("' OR 1=1",)


_WRITER = """
    import sys
    from pathlib import Path
    from lake_examples import MEMBERS, VISITS, changes, open_lake, upto, visits
    lake = open_lake(Path(sys.argv[1]))
    table, current = lake.table("w", VISITS), lake.current_table("w", MEMBERS)
    schema = current.log.definition.schema()
    for i in range(1, 11):
        table.append(visits(i * 7, 7), upto(i))
        current.append_changes(changes(schema, [(i, f"m{m}", i) for m in range(1, 9)]), upto(i))
        if i % 3 == 0:
            current.merge()
        print(i, flush=True)
"""


def test_a_reader_in_another_process_sees_whole_snapshots_only(tmp_path: Path) -> None:
    open_lake(tmp_path).table("w", VISITS)
    open_lake(tmp_path).current_table("w", MEMBERS)
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_WRITER), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert writer.stdout is not None
    lake, connection, counts = open_lake(tmp_path), duckdb.connect(), [0]
    with writer.stdout:
        for _ in writer.stdout:  # One look after each commit, while the next is under way.
            attach(connection, lake, "w")
            (found,) = _rows(connection, "SELECT count(*) AS n, sum(amount) AS amount FROM visits")
            assert found["n"] % 7 == 0  # type: ignore[operator]
            assert found["amount"] == found["n"] * 10  # type: ignore[operator]
            assert found["n"] >= counts[-1]  # type: ignore[operator]
            counts.append(found["n"])  # type: ignore[arg-type]
            points = _rows(connection, "SELECT count(*) AS n, count(DISTINCT points) AS d FROM members")
            assert points == [{"n": 8, "d": 1}]
    assert writer.wait(30) == 0
    attach(connection, lake, "w")
    assert _rows(connection, "SELECT count(*) AS n FROM visits") == [{"n": 70}]


def test_no_bar_of_progress_goes_to_stdout(tmp_path: Path) -> None:
    def shown(connection: duckdb.DuckDBPyConnection) -> object:
        return connection.sql("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]

    attached = duckdb.connect()
    attach(attached, open_lake(tmp_path), "w")
    assert shown(attached) is False
    assert shown(connect("1GB", str(tmp_path))) is False
