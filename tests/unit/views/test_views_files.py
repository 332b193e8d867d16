"""The shapes of tables for other tools: a DuckDB file, and Iceberg tables."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from pipeline_driver import WORKSPACE, Desk
from profilelake.errors import Conflict, Invalid, NotFound
from profilelake.lake.catalog import Lake
from profilelake.semantics.rules import segment_defaults
from profilelake.views.database import write_database
from profilelake.views.materialize import materialize
from profilelake.views.places import Places
from sync_vectors import TWO_PLANS, Sender, profile

PLACES = Places("raw", "identified_events", "shop")
SEEN = {"type": "track", "messageId": "s1", "userId": "u7", "event": "Seen", "properties": {"size": 3}}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "data", rules=segment_defaults())
    yield made
    made.close()


def test_a_file_shows_what_was_published_when_it_was_written(desk: Desk, tmp_path: Path) -> None:
    path, sender = tmp_path / "lake.duckdb", Sender(desk)
    sender.send([SEEN])
    first = write_database(desk.lake, WORKSPACE, path, PLACES)
    assert first.sequence == 1
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS one")
        assert connection.sql("SELECT id, size FROM shop.seen").fetchall() == [("s1", 3)]
    sender.send(TWO_PLANS)
    assert write_database(desk.lake, WORKSPACE, path, PLACES).views > first.views
    with duckdb.connect() as connection:
        # Under whatever name the file is opened, its views find their tables.
        connection.execute(f"ATTACH '{path}' AS lake (READ_ONLY)")
        plans = connection.sql("SELECT canonical_segment_id, value FROM lake.identified_events.user_traits")
        assert plans.fetchall() == [(profile(anonymous_id="a1"), "pro")]
        assert connection.sql("SELECT count(*) FROM lake.raw.events").fetchall() == [(5,)]
        assert connection.sql("FROM lake.main.mine").fetchall() == [(1,)]


def test_a_view_of_which_there_is_nothing_any_more_goes(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "lake.duckdb"
    Sender(desk).send([SEEN])
    write_database(desk.lake, WORKSPACE, path, PLACES)
    with duckdb.connect(str(path)) as connection:
        connection.execute("ALTER VIEW shop.seen RENAME TO gone")
        connection.execute("CREATE VIEW shop.mine AS SELECT 1")
    write_database(desk.lake, WORKSPACE, path, PLACES)
    with duckdb.connect(str(path)) as connection:
        shop = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'shop'"
        names = {name for (name,) in connection.sql(shop).fetchall()}
    assert {"seen", "mine"} <= names
    assert "gone" not in names


def test_what_is_in_the_way_is_left_alone(desk: Desk, tmp_path: Path) -> None:
    Sender(desk).send([SEEN])
    notes = tmp_path / "notes.txt"
    for size in (1, 10_000):
        notes.write_text("not a database" * size)
        with pytest.raises(Invalid, match="name another file"):
            write_database(desk.lake, WORKSPACE, notes, PLACES)
        assert notes.read_text() == "not a database" * size
    path = tmp_path / "own.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE SCHEMA shop; CREATE TABLE shop.users AS SELECT 1 AS one")
    with pytest.raises(Conflict, match="users"):
        write_database(desk.lake, WORKSPACE, path, PLACES)
    with duckdb.connect(str(path)) as connection:
        assert connection.sql("FROM shop.users").fetchall() == [(1,)]
        assert connection.sql("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchall() == [(0,)]


def test_views_become_tables(desk: Desk, tmp_path: Path) -> None:
    sender, spill = Sender(desk), str(tmp_path / "spill")
    sender.send([SEEN, *TWO_PLANS])
    written = {each.table: each for each in materialize(desk.lake, WORKSPACE, (), spill)}
    assert written["ws_default_warehouse.seen"].rows == 1
    assert written["ws_default_sync.user_traits"].sequence == 5
    assert "ws_default_sync.id_graph_updates" not in written
    # The journal is a view over a narrow table, so it is written as well.
    assert written["ws_default_sync.profile_traits_updates"].rows == 3
    sender.send([{**SEEN, "messageId": "s2", "properties": {"size": "large", "colour": "red"}}])
    (again,) = materialize(desk.lake, WORKSPACE, ["warehouse.seen"], spill)
    assert (again.rows, again.sequence) == (2, 6)
    table = desk.lake.load(WORKSPACE, "seen", "warehouse")
    assert table.progress is not None
    assert table.progress.sequence == 6
    rows = table.table.scan().to_arrow().sort_by("id").select(["id", "size", "colour"]).to_pylist()
    assert rows == [
        {"id": "s1", "size": "3", "colour": None},
        {"id": "s2", "size": "large", "colour": "red"},
    ]
    assert desk.verify() == []


def test_only_views_that_there_are(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing was published"):
        list(materialize(desk.lake, WORKSPACE, (), str(tmp_path)))
    Sender(desk).send([SEEN])
    for name in ("warehouse.nothing", "id_graph", "sync.id_graph_updates"):
        with pytest.raises(Invalid, match="no such view"):
            list(materialize(desk.lake, WORKSPACE, [name], str(tmp_path)))


def test_a_lake_without_tables_has_no_views(tmp_path: Path) -> None:
    lake = Lake.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}", tmp_path / "lake")
    with pytest.raises(NotFound):
        write_database(lake, WORKSPACE, tmp_path / "lake.duckdb", PLACES)
    lake.close()
