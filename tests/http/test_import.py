"""`profilelake import` on the command line: beside a running server, and where none runs."""

import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from command_line import COMMAND, SECONDS_MAX, clean_environment, run, run_process, told
from profilelake.commands import imports
from profilelake.imports.files import find_files
from profilelake.settings import Layout
from served import Served
from stopped_directory import stopped_directory

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return stopped_directory(tmp_path_factory.mktemp("stopped") / "data")


def write(path: Path, *messages: Any, raw: bytes = b"") -> Path:
    path.write_bytes(b"".join(json.dumps(message).encode() + b"\n" for message in messages) + raw)
    return path


def imported(*arguments: str | Path) -> Any:
    ran = run("import", *arguments, "--json")
    assert ran.code == 0, ran
    return ran.json


def test_beside_a_running_server(served: Served, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.ndjson",
        {"type": "identify", "userId": "imp", "messageId": "imp-1", "traits": {"plan": "pro"},
         "timestamp": "2020-01-02T03:04:05Z", "sentAt": "2020-01-02T03:04:09Z", "receivedAt": "2020-01-02T03:04:10Z"},
        {"type": "track", "event": "Bought", "userId": "imp", "messageId": "imp-2", "receivedAt": "2021-01-01T00:00:00Z"},
        {"type": "track", "event": "Bought", "userId": "imp", "originalTimestamp": "2022-01-01T00:00:00Z"},
        {"type": "track", "userId": "imp"},
        raw=b"imp: no json\n",
    )  # fmt: skip
    first = imported(path, "--dir", served.directory)
    assert (first["events"], first["skipped"], first["place"]) == (5, 0, "committed")
    rows = served.sql(
        "FROM events SELECT message_id, type, source_id, timestamp, original_timestamp, sent_at "
        "WHERE user_id = 'imp' ORDER BY position"
    )
    assert [(row["timestamp"][:10], (row["original_timestamp"] or "")[:10]) for row in rows] == [
        ("2020-01-02", "2020-01-02"),
        ("2021-01-01", ""),
        ("2022-01-01", "2022-01-01"),
    ]
    # Times of exports are corrected already.
    assert rows[0]["timestamp"] == "2020-01-02T03:04:05.000000Z"
    assert rows[2]["message_id"].startswith("pl-")
    failed = served.sql(
        "FROM failed_events SELECT reason, decode(raw) AS raw WHERE contains(decode(raw), 'imp')"
    )
    assert {(row["reason"], row["raw"][:12]) for row in failed} == {
        ("missing_event_name", '{"type": "tr'),
        ("undecodable_line", "imp: no json"),
    }
    packed = tmp_path / "copy.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert imported(packed, "--dir", served.directory)["skipped"] == 5
    # The same events in another file are the same by their ids.
    write(tmp_path / "b.ndjson", *(json.loads(line) for line in reversed(path.read_text().splitlines()[:2])))
    before = served.committed()["duplicates"]
    assert imported(tmp_path / "b.ndjson", "--dir", served.directory)["events"] == 2
    assert served.committed()["duplicates"] == before + 2


def test_tables(served: Served, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("id,user_id,email,plan\ncsv-1,imp-csv,Csv@Example.org,pro\n")
    table = pa.table({"who": ["imp-parquet"], "total": [12.5], "at": pa.array([1_577_836_800_000])})
    pq.write_table(table, tmp_path / "orders.parquet")
    imported(tmp_path / "users.csv", "--type", "identify", "--dir", served.directory)
    imported(
        tmp_path / "orders.parquet", "--type", "track", "--set", "event=Order Completed", "--map", "who=userId",
        "--map", "total=properties.total", "--map", "at=timestamp:epoch_ms", "--dir", served.directory,
    )  # fmt: skip
    rows = served.sql("FROM events WHERE starts_with(user_id, 'imp-') ORDER BY user_id")
    assert (rows[0]["message_id"], json.loads(rows[0]["traits"])) == (
        "csv-1",
        {"email": "Csv@Example.org", "plan": "pro"},
    )
    assert (rows[1]["event"], rows[1]["properties"]) == ("Order Completed", '{"total":12.5}')
    assert rows[1]["timestamp"].startswith("2020-01-01T00:00:00")
    found = run("profile", "get", "email:csv@example.org", "--dir", served.directory)
    assert "imp-csv" in found.out.decode()


def test_where_no_server_runs(stopped: Layout, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", {"type": "page", "userId": "u", "messageId": "s1"})
    ran = run("import", path, "--dir", stopped.directory)
    assert ran.code == 0
    assert "wait in the log; start it (profilelake serve), or run this with --apply" in ran.out.decode()
    applied = run_process("import", path, "--dir", stopped.directory, "--apply", "--json")
    assert applied.code == 0, applied
    assert (applied.json["events"], applied.json["skipped"], applied.json["place"]) == (0, 1, "committed")
    assert run("sql", "--dir", stopped.directory, "--json", "SELECT message_id FROM events").json == [
        {"message_id": "s1"}
    ]


def test_the_standard_input(stopped: Layout) -> None:
    ran = subprocess.run(
        [*COMMAND, "import", "-", "--dir", str(stopped.directory), "--json"],
        input=b'{"type":"page","userId":"u"}\n{"type":"page","userId":"v"}',
        capture_output=True,
        env=clean_environment(),
        timeout=SECONDS_MAX,
        check=True,
    )
    assert json.loads(ran.stdout)["files"] == [
        {"file": "standard input", "bytes": 57, "events": 2, "skipped": 0, "cut_lines": 0, "problem": None}
    ]


def test_a_trial_changes_nothing(stopped: Layout, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", {"userId": "u"}, {"type": "track", "userId": "u"}, raw=b'"oops\n')
    (tried,) = imported(path, "--dir", stopped.directory, "--dry-run", "--type", "page")
    assert (tried["events"], tried["good"], tried["whole"]) == (3, 1, True)
    assert [(fail["reason"], fail["line"], fail["events"]) for fail in tried["failures"]] == [
        ("missing_event_name", 2, 1),
        ("undecodable_line", 3, 1),
    ]
    said = run("import", path, "--dir", stopped.directory, "--dry-run").out.decode()
    assert "of 3 events 0 are good" in said
    assert 'first event 3: "oops' in said
    assert imported(path, "--dir", stopped.directory, "--type", "page", "--no-wait")["events"] == 3


def test_wrong_use_is_told(stopped: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.csv", raw=b"who\nu\n")
    directory = ("--dir", stopped.directory)
    told(run("import", tmp_path / "none.json", *directory), 3, "there is no such file")
    told(run("import", path, *directory, "--source", "other"), 3, "source 'other'")
    told(run("import", path, *directory, "--type", "pages"), 2, "--type pages: it is one of identify")
    told(run("import", path, *directory, "--format", "xml"), 2, "--format xml: it is one of ndjson")
    told(
        run("import", path, *directory, "--map", "user=userId", "--dry-run", "--type", "page"),
        2,
        "there is none",
    )
    told(run("import", path, *directory, "--delimiter", "||"), 2, "one ASCII character")
    told(run("import", path, "--dir", tmp_path / "nowhere"), 2, "not a profilelake data directory")
    ran = run("import", path, *directory)
    assert ran.code == 2
    assert "no column says what type its events have" in ran.err
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda name, mode: name != path and allowed(name, mode))
    told(run("import", path, *directory), 5, "may not be read")


def test_a_damaged_file_brings_what_is_whole(stopped: Layout, tmp_path: Path) -> None:
    rng = random.Random(7)
    lines = [
        json.dumps({"type": "page", "userId": "d", "n": rng.getrandbits(400)}).encode() for _ in range(30_000)
    ]
    whole = gzip.compress(b"\n".join(lines), 1)
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(whole[: len(whole) // 2])
    ran = run("import", path, "--dir", stopped.directory, "--json")
    assert ran.code == 2
    assert "damaged or cut off" in ran.err
    (half,) = ran.json["files"]
    assert 0 < half["events"] < 30_000
    path.write_bytes(whole)
    rest = imported(path, "--dir", stopped.directory)
    assert (rest["skipped"], rest["events"] + rest["skipped"]) == (half["events"], 30_000)


def test_progress_is_shown_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    files = find_files([str(write(tmp_path / "one.ndjson", {})), str(write(tmp_path / "two.ndjson", {}, {}))])
    with imports._shown(files) as watcher:
        watcher.began(files[0])
        watcher.went_on(3, 1)
        watcher.began(files[1])
        watcher.went_on(6, 2)
        watcher.waits("because")
    said = terminal.getvalue()
    assert "two.ndjson" in said
    assert "3 events" in said
    assert "because" in said
