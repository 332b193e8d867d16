"""Tables copied elsewhere: every engine reads the same rows there, and ours goes on committing."""

import json
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from lake_examples import MEMBERS, START, VISITS, changes, members, open_lake, upto, visits
from profilelake.errors import Conflict, Corrupt, Unavailable
from profilelake.lake.catalog import Lake, register_tables
from profilelake.lake.files import local_path
from profilelake.lake.reachable import Reachable, reachable
from profilelake.lake.reading import attach
from profilelake.lake.relocate import relocate

DAY = 86_400_000_000


def lived_in(folder: Path) -> Lake:
    """Return a lake with partitions, merges, compaction and several snapshots."""
    lake = open_lake(folder)
    table = lake.table("w", VISITS)
    for number in range(1, 6):
        table.append(visits(10 * number, 4, at=START + number % 2 * DAY), upto(number))
    while table.compact(open_from=None) is not None:
        pass
    current = lake.current_table("w", MEMBERS)
    current.replace(members({"m1": 1, "m2": 2}), upto(1))
    schema = current.log.definition.schema()
    for number in range(2, 5):
        current.append_changes(changes(schema, [(number, "m1", number), (number, "m3", None)]), upto(number))
    current.merge()
    current.append_changes(changes(schema, [(5, "m4", 5)]), upto(5))
    return lake


def copy(lake: Lake, target: Path) -> list[tuple[str, str, str]]:
    moved = []
    for (namespace, name), location in lake.pointers().items():
        table = reachable(location)
        place = target / "warehouse" / namespace / name
        for file in (table.metadata_file, *table.files):
            to = place / file.below
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(local_path(file.location), to)
        moved.append((namespace, name, move(table, place)))
    return moved


def move(table: Reachable, place: Path) -> str:
    file = place / table.metadata_file.below
    return relocate(file, table.location, f"file://{place}", table.snapshots)


def rows(lake: Lake, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        attach(connection, lake, "w")
        return connection.sql(query).fetchall()


VISITED = "SELECT * FROM visits ORDER BY visit_id"
JOINED = "SELECT * FROM members ORDER BY member_id"


def test_a_copy_elsewhere_is_whole_without_the_original(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "a longer name of a folder" / "there"
    lake = lived_in(here)
    visited, joined = rows(lake, VISITED), rows(lake, JOINED)
    progress = lake.load("w", "visits").progress
    moved = copy(lake, there)
    lake.close()
    here.rename(tmp_path / "gone")
    register_tables(f"sqlite:///{there}/catalog.db", there / "warehouse", moved)
    again = open_lake(there)
    assert rows(again, VISITED) == visited
    assert rows(again, JOINED) == joined
    assert again.load("w", "visits").progress == progress
    for namespace, name, location in moved:
        table = again.load("w", name).table
        assert table.metadata_location == location
        assert namespace == "ws_w"
        scanned = table.scan().to_arrow().num_rows
        assert scanned == sum(file.rows for file in again.load("w", name).files)
        for snapshot in table.metadata.snapshots:
            for manifest in snapshot.manifests(table.io):
                path = local_path(manifest.manifest_path)
                assert manifest.manifest_length == path.stat().st_size
                for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=False):
                    assert entry.data_file.file_path.startswith(f"file://{there}/")
    assert not again.table("w", VISITS).append(visits(50, 1), upto(5))
    assert again.table("w", VISITS).append(visits(60, 1), upto(6))
    current = again.current_table("w", MEMBERS)
    assert current.merge()
    assert rows(again, JOINED) == joined
    assert not [f for f in again.load("w", "visits").unreachable(1 << 40) if f.location.endswith(".parquet")]


def test_only_needed_snapshots_come_along(tmp_path: Path) -> None:
    lake = lived_in(tmp_path / "here")
    table = reachable(lake.pointers()["ws_w", "visits"])
    snapshots = lake.table("w", VISITS).snapshots()
    assert len(snapshots) > 1
    assert table.snapshots == (snapshots[-1].snapshot_id,)
    (moved,) = [m for m in copy(lake, tmp_path / "there") if m[1] == "visits"]
    metadata = local_path(moved[2]).read_text()
    for snapshot in snapshots[:-1]:
        assert f'"snapshot-id": {snapshot.snapshot_id}' not in metadata
    assert str(tmp_path / "here") not in metadata


def test_a_moved_on_or_damaged_table_is_told(tmp_path: Path) -> None:
    lake = lived_in(tmp_path / "here")
    location = lake.pointers()["ws_w", "visits"]
    table = reachable(location)
    lists = [file for file in table.files if Path(file.below).name.startswith("snap-")]
    (manifest,) = [f for f in table.files if f.below.endswith(".avro") and f not in lists][:1]
    path = local_path(manifest.location)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises((Corrupt, Unavailable)):
        copy(open_lake(tmp_path / "here"), tmp_path / "there")
    path.unlink()
    with pytest.raises(Unavailable, match="it has moved on"):
        reachable(location)
    with pytest.raises(Unavailable, match="it has moved on"):
        reachable(location + "x")


def test_a_file_outside_of_the_table_is_refused(tmp_path: Path) -> None:
    lake = lived_in(tmp_path / "here")
    location = lake.pointers()["ws_w", "visits"]
    table = reachable(location)
    aside = tmp_path / "aside.metadata.json"
    aside.write_bytes(local_path(location).read_bytes())
    with pytest.raises(Conflict, match=r"table w.visits: .*aside.* lies outside of its folder"):
        reachable(f"file://{aside}", name="w.visits")
    with pytest.raises(Corrupt, match="lies outside of it"):
        relocate(
            local_path(table.metadata_file.location), "file:///elsewhere", "file:///there", table.snapshots
        )
    # Somebody may have made it up: it begins with the folder, and leads out of it.
    metadata = json.loads(aside.read_bytes())
    folder = metadata["location"]
    for snapshot in metadata["snapshots"]:
        snapshot["manifest-list"] = f"{folder}/../../escaped.avro"
    aside.write_text(json.dumps(metadata))
    with pytest.raises(Corrupt, match=r"escaped.avro, which lies outside of it"):
        relocate(aside, folder, f"file://{tmp_path}/there/visits", table.snapshots)


def test_a_table_is_registered_once_at_a_place(tmp_path: Path) -> None:
    lake = lived_in(tmp_path / "here")
    moved = copy(lake, tmp_path / "there")
    uri = f"sqlite:///{tmp_path}/there/catalog.db"
    for _ in range(2):  # the second time after a crash, say
        register_tables(uri, tmp_path / "there" / "warehouse", moved)
    elsewhere = [(namespace, name, f"{location}.other") for namespace, name, location in moved]
    with pytest.raises(Conflict):
        register_tables(uri, tmp_path / "there" / "warehouse", elsewhere)


def test_an_empty_table_moves_too(tmp_path: Path) -> None:
    lake = open_lake(tmp_path / "here")
    lake.table("w", VISITS)
    moved = copy(lake, tmp_path / "there")
    register_tables(f"sqlite:///{tmp_path}/there/catalog.db", tmp_path / "there" / "warehouse", moved)
    again = open_lake(tmp_path / "there")
    assert again.table("w", VISITS).append(visits(1, 2), upto(1))
    assert isinstance(again.table("w", VISITS).scan(), pa.Table)
