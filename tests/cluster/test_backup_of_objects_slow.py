"""Backups of directories whose tables lie on an object store: whole whatever the store does, and back anywhere."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.backup_driver import (
    add_events,
    asked,
    back_up,
    check,
    check_after_settings,
    fresh,
    kill,
    objects,
    restore,
    warehouse_of,
    with_settings,
)
from cluster.lake_places import database, wait_for_catalog
from command_line import run, told
from eventlog_puppet import entry, write_log
from profilelake.backup import fetching
from profilelake.backup.fetching import Fetcher
from profilelake.lake.catalog import Lake
from profilelake.lake.object_storage import ObjectStorage
from profilelake.lake.place import SECRET_VARIABLE, LakePlace
from profilelake.settings import Layout
from s3_faults import Asked, Fault, FaultyProxy, faulty, never
from stopped_directory import stopped_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PASSING: Final[tuple[Fault, ...]] = ("slow_down", "broken", "reset", "lost", "slow")
PASSING_WRITES: Final[tuple[Fault, ...]] = (*PASSING, "cut")


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        yield running


@pytest.fixture(params=["sqlite"])
def layout(request: pytest.FixtureRequest, proxy: FaultyProxy, s3: Any, tmp_path: Path) -> Layout:
    """A directory with ten events in state and tables, which lie in the bucket, and a log that goes on."""
    made = stopped_directory(tmp_path / "data")
    lines = ["[lake]", f'warehouse = "s3://{s3.bucket}/{uuid.uuid4().hex}"']
    if request.param == "postgresql":
        url = database(request.getfixturevalue("postgres"), f"t{uuid.uuid4().hex}")
        lines.append(f'catalog = "{url}"')
    elif request.param == "rest":
        lines += [f'catalog = "{s3.catalog}"', f'catalog_options = "warehouse={s3.warehouse.rstrip("/")}"']
        lines.append('table_locations = "catalog"')
        request.getfixturevalue("monkeypatch").setenv(SECRET_VARIABLE, f"{s3.access_key}:{s3.secret_key}")
        wait_for_catalog(LakePlace.of(with_settings(made, lines), {}))
    lines += ["[storage]", f'endpoint = "{proxy.endpoint}"', 'plain_http = "allowed"']
    lines += ["request_seconds = 5.0", "retry_seconds = 20.0", "retries_max = 6"]
    with_settings(made, lines)
    add_events(made, 0)
    add_events(made, 1)
    write_log(made.log, [entry(b"later")])
    return made


class TestSource:
    @pytest.mark.parametrize("layout", ["sqlite", "postgresql", "rest"], indirect=True)
    def test_what_lies_in_a_bucket_comes_back_elsewhere(
        self, layout: Layout, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, there = tmp_path / "backups", fresh(s3)
        made = back_up(layout, place)
        assert (made["events"], made["new_files"]) == (11, made["files"])
        assert run("restore", place, "--check").code == 0
        before = objects(s3, warehouse_of(layout))

        # Into another prefix, with a catalog of its own.
        catalog = f"sqlite:///{tmp_path}/new/catalog.sqlite"
        options = ("--warehouse", there, "--catalog", catalog)
        restored = restore(place, tmp_path / "new", *options)
        assert restored["warehouse"] == there
        assert f'warehouse = "{there}"' in restored["to_write"]
        refused = run("verify", "--dir", tmp_path / "new")
        told(refused, 4, "put the settings back")
        toml = tmp_path / "new" / "profilelake.toml"
        settings = toml.read_text().splitlines()
        kept = [line for line in settings if not line.startswith(("warehouse", "catalog", "table_"))]
        toml.write_text("\n".join([kept[0], *restored["to_write"], *kept[1:]]))
        check(tmp_path / "new")
        assert all(not location.endswith("_restore.json") for location in objects(s3, there))

        # Onto a disk.
        with monkeypatch.context() as patched:
            patched.setenv("PROFILELAKE_LAKE_WAREHOUSE", "lake")
            patched.setenv("PROFILELAKE_LAKE_CATALOG", "sqlite:///catalog.sqlite")
            assert restore(place, tmp_path / "disk")["to_write"] == []
            check(tmp_path / "disk")
        assert objects(s3, warehouse_of(layout)) == before
        check(layout.directory)

    def test_from_a_disk_into_a_bucket_and_a_database(
        self, layout: Layout, s3: Any, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "backups"
        back_up(layout, place)
        url = database(postgres, f"t{uuid.uuid4().hex}")
        monkeypatch.setenv("PROFILELAKE_LAKE_WAREHOUSE", fresh(s3))
        monkeypatch.setenv("PROFILELAKE_LAKE_CATALOG", url)
        assert restore(place, tmp_path / "first")["catalog"] == url
        told(run("restore", place, "--dir", tmp_path / "second"), 4, "there are files")
        monkeypatch.setenv("PROFILELAKE_LAKE_WAREHOUSE", fresh(s3))
        told(run("restore", place, "--dir", tmp_path / "second"), 4, "it knows a table ws_default.")
        assert not (tmp_path / "second").exists()

    def test_a_later_backup_reads_only_what_is_new(
        self, layout: Layout, proxy: FaultyProxy, tmp_path: Path
    ) -> None:
        place = tmp_path / "backups"
        first = back_up(layout, place)
        proxy.asked.clear()
        again = back_up(layout, place)
        assert (again["files"], again["new_files"]) == (first["files"], 0)
        assert asked(proxy, "GET", ".parquet") == []
        add_events(layout, 2)
        more = back_up(layout, place)
        assert 0 < more["new_files"] < more["files"]
        restore(place, tmp_path / "new", "--warehouse", "lake")
        listed = run("backup", place, "--list", "--json").json
        assert len(listed) == 3

    @pytest.mark.parametrize("fault", PASSING)
    def test_it_is_whole_whatever_passes(
        self, layout: Layout, proxy: FaultyProxy, tmp_path: Path, fault: Fault
    ) -> None:
        proxy.rule = lambda asked: fault if asked.number % 4 == 0 else ""
        back_up(layout, tmp_path / "backups")
        proxy.rule = never
        restore(tmp_path / "backups", tmp_path / "new", "--warehouse", "lake")
        check_after_settings(tmp_path / "new")

    def test_a_backup_that_was_cut_short_is_gone_on_with(
        self, layout: Layout, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = tmp_path / "backups"
        monkeypatch.setattr(fetching, "NOTED_FILES", 2)
        left = [6]

        def rule(asked: Asked) -> Fault:
            if ".parquet" not in asked.path or asked.method != "GET":
                return ""
            left[0] -= 1
            return "denied" if left[0] < 0 else ""

        proxy.rule = rule
        told(run("backup", place, "--dir", layout.directory), 5, "the credentials do not allow it")
        assert run("backup", place, "--list", "--json").json == []
        proxy.rule = never
        with (place / "fetched.jsonl").open("ab") as sink:
            sink.write(b'{"path": "cut o')
        noted = (place / "fetched.jsonl").read_bytes().count(b"\n")
        assert noted >= 6
        proxy.asked.clear()
        made = back_up(layout, place)
        assert len(asked(proxy, "GET", ".parquet")) <= made["files"] - noted
        assert made["new_files"] <= made["files"] - noted
        assert not (place / "fetched.jsonl").exists()
        assert run("restore", place, "--check").code == 0

    @pytest.mark.parametrize("failpoint", ["backup.fetched", "backup.log_pinned", "backup.stored"])
    def test_a_killed_backup_costs_only_time(
        self, layout: Layout, proxy: FaultyProxy, tmp_path: Path, failpoint: str
    ) -> None:
        place = tmp_path / "backups"
        kill("backup", str(place), "--dir", str(layout.directory), failpoint=failpoint)
        proxy.asked.clear()
        back_up(layout, place)
        assert asked(proxy, "GET", ".parquet") == []
        assert run("restore", place, "--check").code == 0

    def test_files_that_go_meanwhile_begin_another_attempt(
        self, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetch, gone = Fetcher._fetch, set[str]()

        def going(self: Fetcher, storage: Any, file: Any) -> None:
            if file.path.endswith(".parquet") and file.path not in gone:
                gone.add(file.path)
                raise FileNotFoundError(file.location)
            fetch(self, storage, file)

        monkeypatch.setattr(Fetcher, "_fetch", going)
        back_up(layout, tmp_path / "backups")
        assert gone
        assert run("restore", tmp_path / "backups", "--check").code == 0

    def test_an_object_that_was_cut_off_is_refused(self, layout: Layout, s3: Any, tmp_path: Path) -> None:
        storage = ObjectStorage(warehouse_of(layout), Lake.of(layout).place.storage)
        location = next(found for found in objects(s3, storage.root) if found.endswith(".parquet"))
        content = storage.read(location)
        storage.write(location, content[: len(content) // 2])
        ran = run("backup", tmp_path / "backups", "--dir", layout.directory)
        told(ran, 6, "it was cut off")
        storage.remove([location])
        ran = run("backup", tmp_path / "backups", "--dir", layout.directory)
        told(ran, 6, "it is missing")

    def test_a_store_that_is_away_is_told(self, layout: Layout, tmp_path: Path) -> None:
        environment = ("PROFILELAKE_STORAGE_RETRIES_MAX", "PROFILELAKE_STORAGE_RETRY_SECONDS")
        for name in environment:
            os.environ[name] = "1"
        os.environ["PROFILELAKE_STORAGE_ENDPOINT"] = "http://127.0.0.1:1"
        try:
            ran = run("backup", tmp_path / "backups", "--dir", layout.directory)
        finally:
            for name in (*environment, "PROFILELAKE_STORAGE_ENDPOINT"):
                del os.environ[name]
        told(ran, 5, "cannot be reached")


class TestRestore:
    @pytest.mark.parametrize("fault", PASSING_WRITES)
    def test_it_is_whole_whatever_passes(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, tmp_path: Path, fault: Fault
    ) -> None:
        back_up(layout, tmp_path / "backups")
        proxy.rule = lambda asked: fault if asked.number % 4 == 0 else ""
        there = fresh(s3)
        restore(tmp_path / "backups", tmp_path / "new", "--warehouse", there)
        proxy.rule = never
        check_after_settings(tmp_path / "new", there)

    @pytest.mark.parametrize(
        "failpoint", ["restore.relocated", "restore.sent:3", "restore.sent_all", "restore.moved"]
    )
    def test_a_killed_restore_is_gone_on_with(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, tmp_path: Path, failpoint: str
    ) -> None:
        place, target, there = tmp_path / "backups", tmp_path / "new", fresh(s3)
        back_up(layout, place)
        options = ("--warehouse", there)
        kill("restore", str(place), "--dir", str(target), *options, failpoint=failpoint)
        sent = [location for location in objects(s3, there) if location.endswith(".parquet")]
        told(run("restore", place, "--dir", target, *options), 4, "is not empty")
        told(
            run("restore", place, "--dir", tmp_path / "other", *options),
            4,
            "was begun there; finish that one",
        )
        assert not (tmp_path / "other").exists()
        shutil.rmtree(target)
        proxy.asked.clear()
        restore(place, target, *options)
        written = {one.path for one in asked(proxy, "PUT", ".parquet")}
        assert not [location for location in sent if any(location[5:] in path for path in written)]
        check_after_settings(target, there)

    def test_a_place_in_use_is_refused(self, layout: Layout, s3: Any, tmp_path: Path) -> None:
        back_up(layout, tmp_path / "backups")
        before = objects(s3, warehouse_of(layout))
        ran = run("restore", tmp_path / "backups", "--dir", tmp_path / "new")
        told(ran, 4, "name another place with --warehouse")
        assert not (tmp_path / "new").exists()
        assert objects(s3, warehouse_of(layout)) == before

    def test_a_catalog_that_chooses_where_tables_lie_is_refused(
        self, layout: Layout, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        back_up(layout, tmp_path / "backups")
        monkeypatch.setenv("PROFILELAKE_LAKE_TABLE_LOCATIONS", "catalog")
        options = ("--catalog", s3.catalog, "--warehouse", fresh(s3))
        ran = run("restore", tmp_path / "backups", "--dir", tmp_path / "new", *options)
        told(ran, 2, "it chooses itself where tables lie")
