"""The import itself, with a real log: what is in it after interruptions, refusals and repetitions."""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from log_records import by_landing
from profilelake.errors import Unavailable
from profilelake.eventlog import Record
from profilelake.eventlog.embedded import Files, Limits, LogReader, LogWriter, Space, ends
from profilelake.imports import chunks, run
from profilelake.imports.files import ImportFile, find_files
from profilelake.imports.mapping import ColumnMapping
from profilelake.imports.progress import Progress, Target
from profilelake.imports.run import Importer, Outcome
from profilelake.imports.tables import Reading
from profilelake.ops.clock import wall
from profilelake.semantics.rules import segment_defaults


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "LINE_BYTES_MAX", 4096)
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.001)


class Pipeline:
    """A pipeline under the test's control."""

    def __init__(self, log: Path, *, running: bool = False) -> None:
        self.log = log
        self.running = running
        self.flushes = 0
        self.behind: Callable[[], bool] = lambda: False

    def runs(self) -> bool:
        return self.running

    def accepted(self) -> dict[str, int]:
        return {log_id: end.offset for log_id, end in ends(self.log).items()}

    def applied(self) -> Mapping[str, int]:
        return {} if self.behind() else self.accepted()

    def committed(self) -> Mapping[str, int]:
        return self.accepted() if self.flushes else {}

    def flush(self) -> None:
        self.flushes += 1


class Watcher:
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def began(self, file: ImportFile) -> None:
        pass

    def went_on(self, file_bytes: int, events: int) -> None:
        pass

    def waits(self, reason: str) -> None:
        self.reasons.append(reason)


class Imports:
    """Imports into one directory, again and again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "log"
        self.pipeline = Pipeline(self.log)
        self.watcher = Watcher()
        self.files: Files | None = None
        self.steady: Callable[[], float] = itertools.count().__next__
        self.limits = Limits(reserve_bytes=0)

    def run(self, *names: Path, source: str = "s", type: str = "", again: bool = False) -> Outcome:
        def open_writer() -> LogWriter:
            return LogWriter(self.log, region="eu", clock=wall, limits=self.limits, files=self.files)

        reading = Reading(ColumnMapping(), default_type=type or None)
        with Progress.open(self.directory / "imports.sqlite") as progress:
            importer = Importer(
                open_writer, progress, Target("w", source, type), reading, self.pipeline, self.watcher,
                steady=self.steady,
            )  # fmt: skip
            return asyncio.run(
                importer.run(find_files([str(name) for name in names]), wait=True, again=again)
            )

    def records(self) -> list[Record]:
        reader = LogReader(self.log, clock=wall)
        try:
            return reader.read({}, bytes_max=1 << 30, events_max=1 << 30).records
        finally:
            reader.close()

    def message_ids(self) -> Counter[str]:
        events, failed, _ = by_landing(self.records(), segment_defaults())
        assert not failed
        return Counter(event["message_id"] for event in events)


@pytest.fixture
def imports(tmp_path: Path) -> Imports:
    return Imports(tmp_path)


def write(path: Path, events: int, first: int = 0, *, ids: bool = False) -> Path:
    with path.open("a") as sink:
        for number in range(first, first + events):
            known = {"messageId": f"m{number}"} if ids else {}
            sink.write(json.dumps(known | {"type": "page", "userId": "u", "n": number, "x": "y" * 40}) + "\n")
    return path


def test_every_event_has_one_id_however_often_the_file_comes(imports: Imports, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", 300)
    first = imports.run(path)
    assert (first.files[0].events, first.files[0].skipped, first.place) == (300, 0, "waiting")
    again = imports.run(path)
    assert (again.files[0].events, again.files[0].skipped) == (0, 300)
    assert imports.message_ids().total() == 300
    assert imports.run(path, again=True).files[0].events == 300
    # Even if all is forgotten, the same lines bring the same ids.
    (tmp_path / "imports.sqlite").unlink()
    assert imports.run(path).events == 300
    assert set(imports.message_ids().values()) == {3}


def test_a_file_that_grows_is_imported_in_parts(imports: Imports, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", 70)
    imports.run(path)
    for first in range(70, 400, 110):
        assert imports.run(write(path, 110, first)).files[0].events == 110
    ids = imports.message_ids()
    assert len(ids) == ids.total() == 400


def test_another_source_or_type_is_another_import(imports: Imports, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", 5)
    assert imports.run(path).events == 5
    assert imports.run(path, source="t").events == 5
    assert imports.run(path, type="track").events == 5
    assert [(record.source_id, record.events) for record in imports.records()] == [
        ("s", 5),
        ("t", 5),
        ("s", 5),
    ]
    assert len(imports.message_ids()) == 5


def test_a_default_type_is_for_events_without_one(imports: Imports, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"userId":"u"}\n{"userId":"u","type":""}\n{"userId":"u","type":"identify"}\n')
    imports.run(path, type="page")
    events, _, _ = by_landing(imports.records(), segment_defaults())
    assert [event["type"] for event in events] == ["page", "page", "identify"]


def test_a_file_that_cannot_be_read_does_not_stop_others(imports: Imports, tmp_path: Path) -> None:
    bad, good = tmp_path / "a.json", write(tmp_path / "b.ndjson", 3)
    bad.write_text("[\n{}]")
    outcome = imports.run(bad, good)
    assert "JSON array" in str(outcome.files[0].problem)
    assert (outcome.files[1].events, outcome.files[1].problem) == (3, None)


def test_an_empty_file_makes_no_log(imports: Imports, tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\n \n")
    assert imports.run(path).events == 0
    assert not imports.log.exists()


def test_a_line_that_is_far_too_long_is_cut_and_told(imports: Imports, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", 2)
    with path.open("a") as sink:
        sink.write('{"type":"page","x":"' + "é" * 40_000 + '"}\n')
    write(path, 1, 2)
    for skipped in (0, 4):
        outcome = imports.run(path)
        assert (outcome.files[0].cut_lines, outcome.files[0].skipped) == (1, skipped)
    events, failed, _ = by_landing(imports.records(), segment_defaults())
    assert (len(events), len(failed)) == (3, 1)
    assert len(failed[0]["raw"]) <= 4096


class FullDisk(Files):
    """A disk that has no room for a while."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def space(self, _path: Path) -> Space:
        self.looks -= 1
        return Space(total=1 << 40, free=0 if self.looks >= 0 else 1 << 39)


def test_a_full_disk_is_waited_for(imports: Imports, tmp_path: Path) -> None:
    imports.files, imports.limits = FullDisk(3), Limits()
    imports.steady = lambda: 0.0
    assert imports.run(write(tmp_path / "a.ndjson", 100)).events == 100
    assert any("bytes free" in reason for reason in imports.watcher.reasons)
    assert imports.message_ids().total() == 100


def test_a_disk_that_stays_full_ends_the_import_which_goes_on_later(imports: Imports, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ndjson", 300)
    imports.files, imports.limits = FullDisk(1 << 30), Limits()
    with pytest.raises(Unavailable, match=r"bytes free.*run the same command again"):
        imports.run(path)
    imports.files = None
    imports.limits = Limits(reserve_bytes=0)
    assert imports.run(path).events == 300
    assert len(imports.message_ids()) == 300


def test_it_waits_for_a_pipeline_that_runs(
    imports: Imports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "AHEAD_BYTES_MAX", 1)
    told = "the pipeline applies what is in the log"
    imports.pipeline.running = True
    imports.pipeline.behind = lambda: told not in imports.watcher.reasons
    imports.steady = lambda: 0.0
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.0)
    outcome = imports.run(write(tmp_path / "a.ndjson", 1000))
    assert outcome.place == "committed"
    assert imports.pipeline.flushes == 1
    assert told in imports.watcher.reasons


def test_a_pipeline_that_stands_still_is_not_waited_for_for_ever(
    imports: Imports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PIPELINE_STALL_SECONDS_MAX", 20.0)
    imports.pipeline.running = True
    imports.pipeline.committed = dict  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="stands still"):
        imports.run(write(tmp_path / "a.ndjson", 10))
    assert len(imports.message_ids()) == 10
