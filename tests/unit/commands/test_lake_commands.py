"""`profilelake lake …` on a directory without a server: what is printed, what is changed, what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from command_line import run, told
from lake_examples import START
from profilelake.app.directory import DirectoryLock
from profilelake.lake.catalog import Lake
from profilelake.lake.files import local_path
from profilelake.lake.progress import Progress
from profilelake.landing.tables import EVENTS, FAILED_EVENTS
from profilelake.settings import Layout
from stopped_directory import stopped_directory

HOUR = 3_600_000_000


def events(number: int) -> pa.Table:
    row = {
        "position": number.to_bytes(32, "big"),
        "received_at": START + number,
        "message_id": f"m{number}",
        "type": "track",
        "timestamp": START,
        "source_id": "shop",
        "region": "local",
    }
    return pa.Table.from_pylist([row], schema=EVENTS.schema())


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A stopped directory whose events came in three commits."""
    made = stopped_directory(tmp_path / "data")
    lake = Lake.of(made)
    table = lake.table("default", EVENTS)
    lake.table("default", FAILED_EVENTS)
    for number in (1, 2, 3):
        table.append(events(number), Progress("e", number, {"aa": (number, number)}, {"in_lake": number}))
    lake.close()
    return made


def lake(layout: Layout, *arguments: str) -> Any:
    ran = run("lake", *arguments, "--dir", layout.directory, "--json")
    assert ran.code == 0, ran
    return ran.json


def test_tables_and_snapshots(layout: Layout) -> None:
    rows = {row["table"]: row for row in lake(layout, "tables")}
    assert rows["events"].items() >= {"rows": 3, "files": 3, "snapshots": 3, "sequence": 3}.items()
    assert rows["events"]["committed_at"].endswith("Z")
    assert rows["failed_events"]["committed_at"] is None
    found = lake(layout, "snapshots", "events")
    assert [row["rows"] for row in found] == [1, 2, 3]
    assert [row["current"] for row in found] == [False, False, True]
    assert found[1]["parent_id"] == found[0]["snapshot_id"]
    told(run("lake", "snapshots", "nothing", "--dir", layout.directory), 3, "no such table")
    told(run("lake", "snapshots", "a.b", "--dir", layout.directory), 3, "no such namespace")


def test_differences_between_snapshots(layout: Layout) -> None:
    first, second, third = (row["snapshot_id"] for row in lake(layout, "snapshots", "events"))
    newest = lake(layout, "diff", "events")
    assert [(row["change"], row["message_id"]) for row in newest] == [("added", "m3")]
    back = lake(layout, "diff", "events", str(third), str(first))
    assert sorted((row["change"], row["message_id"]) for row in back) == [
        ("removed", "m2"),
        ("removed", "m3"),
    ]
    counted = lake(layout, "diff", "events", str(first), "--count")
    assert counted == [{"change": "added", "rows": 2}, {"change": "removed", "rows": 0}]
    told(run("lake", "diff", "events", "12", "--dir", layout.directory), 3, "snapshot 12 of events")
    told(run("lake", "diff", "failed_events", "--dir", layout.directory), 3, "not two of them")
    assert lake(layout, "compact", "events")[0]["files_after"] == 1
    # What compaction moved is no difference.
    assert lake(layout, "diff", "events", str(third), "--count")[0]["rows"] == 0
    assert lake(layout, "diff", "events", str(second), "--count")[0]["rows"] == 1


def test_compacting_and_expiring_without_a_server(layout: Layout) -> None:
    dry = lake(layout, "compact", "events", "--dry-run")
    assert dry == [
        {
            "table": "events",
            "steps": 0,
            "files_before": 3,
            "files_after": 3,
            "rows": 3,
            "bytes_before": dry[0]["bytes_before"],
            "bytes_after": 0,
            "finished": False,
        }
    ]
    done = lake(layout, "compact", "events")[0]
    assert (done["steps"], done["files_after"], done["finished"]) == (1, 1, True)
    dry = lake(layout, "expire", "events", "--older-than", "0", "--dry-run")[0]
    assert (dry["snapshots_expired"], dry["snapshots"]) == (3, 4)
    done = lake(layout, "expire", "events", "--older-than", "0")[0]
    assert (done["snapshots_expired"], done["snapshots"], done["files_swept"]) == (3, 1, 0)
    assert lake(layout, "verify") == []
    steps = [json.loads(line)["step"] for line in layout.maintenance_record.read_text().splitlines()]
    assert steps == ["compact", "expire"]
    told(run("lake", "compact", "nothing", "--dir", layout.directory), 3, "no such table")
    assert run("lake", "expire", "--orphans-older-than", "1", "--dir", layout.directory).code == 2


def test_a_directory_that_is_in_use_by_no_server_is_left_alone(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profilelake.commands.lake.WAIT_SECONDS_MAX", 0.1)
    lock = DirectoryLock(layout)
    try:
        told(run("lake", "expire", "--dir", layout.directory), 5, "no answer within")
    finally:
        lock.release()
    assert list(layout.lake_requests.iterdir()) == []


def test_verify_finds_what_is_damaged(layout: Layout) -> None:
    opened = Lake.of(layout)
    files = opened.load("default", "events").files
    opened.close()
    path = local_path(files[0].location)
    data = path.read_bytes()

    def problems(*options: str) -> list[tuple[str, str]]:
        ran = run("lake", "verify", *options, "--dir", layout.directory, "--json")
        assert ran.code == (6 if ran.json else 0)
        return [(row["table"], row["what"]) for row in ran.json]

    assert problems() == []
    flipped = bytearray(data)
    flipped[8] ^= 1  # Inside the first page: only its checksum can tell.
    path.write_bytes(bytes(flipped))
    assert ("events", "files") in problems()
    assert problems("--quick") == []
    path.write_bytes(data[:-1])
    assert ("events", "files") in problems("--quick")
    path.unlink()
    assert ("events", "files") in problems("--quick")
    ran = run("lake", "verify", "--quick", "--dir", layout.directory)
    assert ran.code == 6
    assert b"is missing" in ran.out
    assert "restore files from backup" in ran.err


def test_verify_holds_rows_against_what_is_accounted_for(layout: Layout) -> None:
    opened = Lake.of(layout)
    table = opened.table("default", EVENTS)
    table.append(events(3), Progress("e", 4, {"aa": (4, 4)}, {"in_lake": 3}))
    table.append(events(5), Progress("e", 5, {"aa": (3, 3)}, {"in_lake": 5}))
    opened.close()
    ran = run("lake", "verify", "--dir", layout.directory, "--json")
    assert ran.code == 6
    found = [(row["what"], row["detail"]) for row in ran.json]
    assert [what for what, _ in found] == ["progress", "conservation", "conservation"]
    assert "log aa at 4" in found[0][1]
    assert "5 events accounted for, 3 were read" in found[1][1]
    assert "1 events are there more than once" in found[2][1]


def test_columns_are_explained_and_markdown_goes_with_them(layout: Layout) -> None:
    rows = lake(layout, "tables", "--schema")
    assert {"table": "ws_W.events", "column": "position"}.items() <= rows[0].items() or len(rows) > 50
    ran = run("lake", "tables", "--schema", "--format", "markdown", "--dir", layout.directory)
    assert ran.out.startswith(b"# The tables")
    told(run("lake", "tables", "--format", "markdown", "--dir", layout.directory), 2, "goes with --schema")


def test_all_tables_are_compacted_at_once_on_an_engine(layout: Layout) -> None:
    (row,) = lake(layout, "compact", "--engine", "embedded")
    assert (
        row.items() >= {"table": "events", "steps": 1, "files_before": 3, "files_after": 1, "rows": 3}.items()
    )
    assert lake(layout, "compact", "--engine", "embedded") == []
    told(run("lake", "compact", "--engine", "nowhere", "--dir", layout.directory), 2, "nowhere")
    refused = run("lake", "compact", "--engine", "embedded", "--dry-run", "--dir", layout.directory)
    told(refused, 2, "--dry-run does not go with --engine")


def test_what_is_there_twice_is_repaired_by_a_command(layout: Layout) -> None:
    opened = Lake.of(layout)
    table = opened.table("default", EVENTS)
    table.add_files(table.files_elsewhere().write(events(2)), "another engine")
    opened.close()
    wanted = [{"what": "repeated", "rows": 1, "told": "events that were there before; they leave"}]
    assert lake(layout, "repair", "--dry-run") == wanted
    assert lake(layout, "repair") == wanted
    assert lake(layout, "repair") == []
    rows = {row["table"]: row for row in lake(layout, "tables")}
    assert rows["events"].items() >= {"rows": 3, "sequence": 3}.items()


def test_a_repair_needs_the_directory_to_itself(layout: Layout) -> None:
    lock = DirectoryLock(layout)
    try:
        told(run("lake", "repair", "--dir", layout.directory), 4, "")
    finally:
        lock.release()
    told(run("lake", "repair", "--engine", "nowhere", "--dir", layout.directory), 2, "nowhere")
