"""Backups that go to a bucket: whole or not there, whatever the store does and whoever is killed; and back again."""

import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import obstore
import pytest

from cluster.backup_driver import (
    add_events,
    asked,
    back_up,
    check,
    fresh,
    kill,
    objects,
    restore,
    with_settings,
)
from command_line import clean_environment, run, run_process, told
from eventlog_puppet import entry, write_log
from profilelake.backup import bucket_turns
from profilelake.backup.bucket import BucketPlace
from profilelake.backup.bucket_turns import Turns, claim_of
from profilelake.errors import Conflict
from profilelake.lake.object_storage import ObjectStorage
from profilelake.settings import Layout, StorageOptions
from s3_faults import Asked, Fault, FaultyProxy, faulty, never
from stopped_directory import stopped_directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PASSING: Final[tuple[Fault, ...]] = ("slow_down", "broken", "reset", "cut", "lost", "slow")
LASTING: Final[dict[Fault, str]] = {
    "denied": "grant s3:GetObject, s3:PutObject",
    "expired": "the credentials have expired",
    "no_bucket": "there is no such bucket",
    "elsewhere": "set storage.region",
    "other_region": "set storage.region",
    "full": "has no room for it (XMinioStorageFull); make room",
    "quota": "has no room for it (QuotaExceeded); make room",
    "slow_down": "it is busy or broken, retry later",
}
OPTIONS: Final = {
    "PLAIN_HTTP": "allowed",
    "REQUEST_SECONDS": "5",
    "RETRY_SECONDS": "20",
    "RETRIES_MAX": "6",
}


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A server that does what it is told, and an environment in which it is the one to speak to."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        for name, text in settings(running.endpoint).items():
            monkeypatch.setenv(name, text)
        yield running


@pytest.fixture(params=["disk"])
def layout(request: pytest.FixtureRequest, proxy: FaultyProxy, s3: Any, tmp_path: Path) -> Layout:
    """A directory with ten events in state and tables, which lie here or in a bucket, and a log that goes on."""
    made = stopped_directory(tmp_path / "data")
    if request.param != "disk":
        bucket = s3.bucket if request.param == "same bucket" else "another"
        storage_of(s3, f"s3://{bucket}").write(f"s3://{bucket}/there", b"")  # which makes the bucket
        with_settings(made, ["[lake]", f'warehouse = "s3://{bucket}/{uuid.uuid4().hex}"'])
    add_events(made, 0)
    add_events(made, 1)
    write_log(made.log, [entry(b"later")])
    return made


def storage_of(s3: Any, root: str) -> ObjectStorage:
    return ObjectStorage(root, StorageOptions(endpoint=s3.endpoint, plain_http="allowed"))


def settings(endpoint: str) -> dict[str, str]:
    """Return the variables by which a process finds the store."""
    return {f"PROFILELAKE_STORAGE_{name}": text for name, text in {**OPTIONS, "ENDPOINT": endpoint}.items()}


def finished(s3: Any, place: str) -> list[str]:
    return BucketPlace(storage_of(s3, place)).ids()


def unreferenced(s3: Any, place: str) -> set[str]:
    """Return contents and manifests that no backup names."""
    storage = storage_of(s3, place)
    named = set()
    for id in BucketPlace(storage).ids():
        kept_in = BucketPlace(storage)
        _, manifest = kept_in.load(id)
        named |= {kept_in.pool.location(file.sha256) for file in manifest.files}
        named.add(f"{place}/manifests/{id}.json")
    there = {file.location for folder in ("files", "manifests") for file in storage.list(f"{place}/{folder}")}
    assert named <= there
    return there - named


def listed(place: str) -> list[dict[str, Any]]:
    ran = run("backup", place, "--list", "--json")
    assert ran.code == 0, ran.err
    return list(ran.json)


class TestWay:
    @pytest.mark.parametrize("layout", ["disk", "same bucket", "other bucket"], indirect=True)
    def test_there_and_back(
        self,
        layout: Layout,
        proxy: FaultyProxy,
        s3: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        place = fresh(s3)
        first = back_up(layout, place)
        assert (first["id"], first["events"], first["new_files"]) == ("00000001", 11, first["files"])
        proxy.asked.clear()
        again = back_up(layout, place)
        assert (again["files"], again["new_files"]) == (first["files"], 0)
        assert asked(proxy, "PUT", "/files/") == []
        assert asked(proxy, "GET", ".parquet") == []
        add_events(layout, 2)
        more = back_up(layout, place)
        assert 0 < more["new_files"] < more["files"]
        assert [row["id"] for row in listed(place)] == ["00000001", "00000002", "00000003"]
        assert run("restore", place, "--check").code == 0
        assert unreferenced(s3, place) == set()
        assert not list((layout.run / "backup-objects").glob("making*"))

        restore(place, tmp_path / "newest", "--warehouse", "lake")
        with monkeypatch.context() as patched:
            patched.setenv("PROFILELAKE_LAKE_WAREHOUSE", "lake")
            check(tmp_path / "newest", 15)
        older = fresh(s3)
        proxy.asked.clear()
        restore(place, tmp_path / "older", "--backup", "00000001", "--warehouse", older)
        with monkeypatch.context() as patched:
            patched.setenv("PROFILELAKE_LAKE_WAREHOUSE", older)
            check(tmp_path / "older")

        # A copy of the bucket, made by any means, is a place for backups too.
        copied = tmp_path / "copied"
        storage = storage_of(s3, place)
        for location in objects(s3, place):
            target = copied / location.removeprefix(f"{place}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read(location))
        assert run("restore", copied, "--check").code == 0
        restore(copied, tmp_path / "from-copy", "--warehouse", "lake")

    @pytest.mark.parametrize("layout", ["same bucket"], indirect=True)
    def test_within_a_bucket_the_store_copies(
        self, layout: Layout, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copied, copy = [], obstore.copy

        def counted(store: Any, source: str, target: str) -> None:
            copied.append(target)
            copy(store, source, target)

        monkeypatch.setattr(obstore, "copy", counted)
        place, there = fresh(s3), fresh(s3)
        made = back_up(layout, place)
        names = {location.rpartition("/")[2] for location in copied}
        manifest = BucketPlace(storage_of(s3, place)).load(made["id"])[1]
        assert {file.sha256 for file in manifest.files if file.path.startswith("lake/")} == names
        copied.clear()
        restore(place, tmp_path / "new", "--warehouse", there)
        data = {file.path.partition("/")[2] for file in manifest.files if file.path.endswith(".parquet")}
        assert {f"s3://{s3.bucket}/{key}" for key in copied} == {f"{there}/{path}" for path in data}

    @pytest.mark.parametrize("layout", ["same bucket"], indirect=True)
    def test_a_store_that_cannot_copy(
        self, layout: Layout, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cannot(*_: object) -> None:
            raise obstore.exceptions.GenericError("Server returned non-2xx status code: 501 Not Implemented")

        monkeypatch.setattr(obstore, "copy", cannot)
        place = fresh(s3)
        back_up(layout, place)
        assert run("restore", place, "--check").code == 0
        restore(place, tmp_path / "new", "--warehouse", fresh(s3))

    @pytest.mark.parametrize("layout", ["same bucket"], indirect=True)
    def test_a_copy_that_is_not_answered_in_time(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Each try of a copy that takes too long ends so.
        monkeypatch.setenv("PROFILELAKE_STORAGE_RETRIES_MAX", "0")
        proxy.first(1, "hang", "PUT", "/files/")
        place = fresh(s3)
        back_up(layout, place)
        assert run("restore", place, "--check").code == 0

    def test_large_contents_go_in_parts_and_what_fails_leaves_none(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, tmp_path: Path
    ) -> None:
        place = fresh(s3)
        large = bytes(range(256)) * (100 << 10)
        (layout.definitions).mkdir(exist_ok=True)
        (layout.definitions / "large.bin").write_bytes(large)
        proxy.rule = lambda asked: "denied" if "partNumber=2" in asked.path else ""
        told(run("backup", place, "--dir", layout.directory), 5, "the credentials do not allow it")
        (begun,) = [one.path for one in asked(proxy, "POST", "uploads=")]
        ended = [one.path for one in asked(proxy, "DELETE", begun.partition("?")[0])]
        assert [path for path in ended if "uploadId=" in path]
        assert listed(place) == []
        proxy.rule = never
        back_up(layout, place)
        restore(place, tmp_path / "new")
        assert (tmp_path / "new" / "definitions" / "large.bin").read_bytes() == large

    def test_only_so_many_are_kept(self, layout: Layout, s3: Any) -> None:
        place = fresh(s3)
        for number in range(2, 5):
            back_up(layout, place)
            add_events(layout, number)
        made = back_up(layout, place, "--keep", "2")
        assert made["removed"] == ["00000001", "00000002"]
        assert finished(s3, place) == ["00000003", "00000004"]
        assert unreferenced(s3, place) == set()
        for id in finished(s3, place):
            assert run("restore", place, "--check", "--backup", id).code == 0
        told(run("restore", place, "--check", "--backup", "00000001"), 3, "there are 00000003, 00000004")

    def test_nothing_secret_is_told(self, layout: Layout, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        place = fresh(s3)
        secret = "wrong-and-not-to-be-told"
        ran = run("backup", place, "--dir", layout.directory, "--without-key")
        assert ran.code == 0, ran.err
        storage = storage_of(s3, place)
        said = b"".join(storage.read(location) for location in objects(s3, place))
        said += (layout.directory / "backups.json").read_bytes() + ran.out + ran.err.encode()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        environment = settings(s3.endpoint)
        ran = run_process("backup", fresh(s3), "--dir", layout.directory, environment=environment)
        told(ran, 5, "the credentials are not good (SignatureDoesNotMatch)")
        said += ran.err.encode()
        for each in (s3.secret_key, secret, (layout.secrets / "identifier.key").read_bytes()):
            assert (each.encode() if isinstance(each, str) else each) not in said

    def test_places_that_are_none(self, layout: Layout, s3: Any, tmp_path: Path) -> None:
        place = fresh(s3)
        told(run("backup", place, "--list"), 3, "make one: profilelake backup s3://")
        told(run("restore", place, "--dir", tmp_path / "new"), 3, "none were made there")
        storage_of(s3, place).write(f"{place}/thesis.tex", b"")
        told(run("backup", place, "--dir", layout.directory), 4, "there are other things")
        assert list(objects(s3, place)) == [f"{place}/thesis.tex"]
        other = stopped_directory(tmp_path / "other")
        (other.secrets / "identifier.key").write_bytes(b"x" * 16)
        place = fresh(s3)
        back_up(layout, place)
        told(run("backup", place, "--dir", other.directory), 4, "backups of another installation")
        # And that one has let go of the place.
        back_up(layout, place)


class TestFaults:
    @pytest.mark.parametrize("layout", ["disk", "other bucket"], indirect=True)
    @pytest.mark.parametrize("fault", PASSING)
    def test_it_is_whole_whatever_passes(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, tmp_path: Path, fault: Fault
    ) -> None:
        place = fresh(s3)
        (layout.directory / "definitions").mkdir(exist_ok=True)
        (layout.definitions / "large.bin").write_bytes(bytes(20 << 20))
        proxy.rule = lambda asked: fault if asked.number % 4 == 0 else ""
        back_up(layout, place, "--keep", "1")
        add_events(layout, 2)
        back_up(layout, place, "--keep", "1")
        restore(place, tmp_path / "new", "--warehouse", "lake")
        proxy.rule = never
        assert len(finished(s3, place)) == 1
        assert run("restore", place, "--check").code == 0
        # What the store did not remove goes with the next.
        back_up(layout, place, "--keep", "1")
        assert unreferenced(s3, place) == set()

    @pytest.mark.parametrize("fault", LASTING)
    def test_what_lasts_is_told_and_what_was_sent_is_used(
        self, layout: Layout, proxy: FaultyProxy, s3: Any, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PROFILELAKE_STORAGE_RETRIES_MAX", "1")
        place = fresh(s3)
        back_up(layout, place)
        add_events(layout, 2)
        proxy.rule = lambda _: fault
        told(run("backup", place, "--dir", layout.directory), 5, LASTING[fault])
        told(run("backup", place, "--list"), 5, LASTING[fault])
        left = [6]

        def rule(asked: Asked) -> Fault:
            left[0] -= asked.method == "PUT" and "/files/" in asked.path
            return fault if left[0] < 0 else ""

        proxy.rule = rule
        told(run("backup", place, "--dir", layout.directory), 5, LASTING[fault])
        proxy.rule = never
        assert len(listed(place)) == 1
        sent = set(objects(s3, f"{place}/files/00000002"))
        assert 0 < len(sent) <= 6
        made = back_up(layout, place)
        if fault == "slow_down":
            return
        assert made["new_files"] > 0
        manifest = BucketPlace(storage_of(s3, place))
        _, newest = manifest.load()
        used = {manifest.pool.location(file.sha256) for file in newest.files}
        assert used & sent
        assert unreferenced(s3, place) == set()

    @pytest.mark.parametrize(
        ("failpoint", "backups"),
        [
            ("backup.sent:5", 1),
            ("backup.stored", 1),
            ("backup.described", 1),
            ("backup.added", 2),
            ("backup.thinned", 1),
        ],
    )
    def test_a_killed_backup_costs_only_time(
        self, layout: Layout, s3: Any, proxy: FaultyProxy, failpoint: str, backups: int
    ) -> None:
        place = fresh(s3)
        back_up(layout, place)
        add_events(layout, 2)
        options = ("--dir", str(layout.directory), "--keep", "1")
        kill("backup", place, *options, failpoint=failpoint, settings=settings(s3.endpoint))
        assert len(finished(s3, place)) == backups
        assert run("restore", place, "--check").code == 0
        # Of this directory, so nobody has to wait; what was sent is not sent again.
        sent = {location.rpartition("/")[2] for location in objects(s3, f"{place}/files")}
        proxy.asked.clear()
        back_up(layout, place)
        assert not [one for one in asked(proxy, "PUT", "/files/") if one.path.rpartition("/")[2] in sent]
        assert run("restore", place, "--check").code == 0
        back_up(layout, place, "--keep", "1")
        assert len(finished(s3, place)) == 1
        assert unreferenced(s3, place) == set()
        assert run("restore", place, "--check").code == 0

    def test_a_killed_restore_is_gone_on_with(
        self, layout: Layout, s3: Any, proxy: FaultyProxy, tmp_path: Path
    ) -> None:
        place, there, target = fresh(s3), fresh(s3), tmp_path / "new"
        back_up(layout, place)
        command = ("restore", place, "--dir", str(target), "--warehouse", there)
        kill(*command, failpoint="restore.sent:3", settings=settings(s3.endpoint))
        sent = [location for location in objects(s3, there) if location.endswith(".parquet")]
        assert sent
        told(run(*command), 4, "is not empty")
        shutil.rmtree(target)
        proxy.asked.clear()
        restore(place, target, "--warehouse", there)
        written = {one.path for one in asked(proxy, "PUT", ".parquet")}
        assert not [location for location in sent if any(location[5:] in path for path in written)]

    def test_what_is_damaged_is_found(self, layout: Layout, s3: Any, tmp_path: Path) -> None:
        place, storage = fresh(s3), storage_of(s3, "")
        good = back_up(layout, place)["id"]
        add_events(layout, 2)
        back_up(layout, place)
        kept_in = BucketPlace(storage_of(s3, place))
        _, manifest = kept_in.load()
        new = next(
            kept_in.pool.location(file.sha256)
            for file in manifest.files
            if file.path.endswith(".parquet") and "/00000002/" in kept_in.pool.location(file.sha256)
        )
        content = storage.read(new)
        for number, damaged in enumerate((content[:-1], None, bytes([content[0] ^ 1]) + content[1:])):
            storage.remove([new])
            if damaged is not None:
                storage.write(new, damaged)
            target = tmp_path / f"new{number}"
            ran = run("restore", place, "--check")
            assert ran.code == 6
            assert f"restore another backup, there are {good}" in ran.err
            for options in ((), ("--warehouse", fresh(s3))):
                ran = run("restore", place, "--dir", target, *options)
                assert ran.code == 6, ran
                assert "restore another backup" in ran.err
                # Nothing that could be taken for a data directory, nor for a lake, is there.
                assert run("verify", "--dir", target).code != 0
                shutil.rmtree(target, ignore_errors=True)
        assert run("restore", place, "--dir", tmp_path / "good", "--backup", good).code == 0
        # The next backup does not take a content for there which is not.
        storage.remove([new])
        back_up(layout, place)
        assert run("restore", place, "--check").code == 0
        described = f"{place}/manifests/{good}.json"
        storage.write(described, storage.read(described)[:-1])
        ran = run("restore", place, "--check", "--backup", good)
        assert ran.code == 6
        assert "its checksum differs" in ran.err

    def test_what_is_acknowledged_and_lost_makes_no_backup(
        self, layout: Layout, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place, send = fresh(s3), ObjectStorage.send

        def losing(self: ObjectStorage, location: str, source: Any, size: int) -> None:
            send(self, location, source, size)
            if "/files/" in location and size == (layout.secrets / "identifier.key").stat().st_size:
                self.remove([location])

        monkeypatch.setattr(ObjectStorage, "send", losing)
        told(run("backup", place, "--dir", layout.directory), 5, "the store has nothing, or another size")
        assert listed(place) == []


class TestSeveral:
    def test_while_one_is_made_another_is_refused(
        self, layout: Layout, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = fresh(s3)
        other = BucketPlace(storage_of(s3, place))
        with other.begun(tmp_path, "/elsewhere", "2026-01-01T00:00:00Z"):
            told(
                run("backup", place, "--dir", layout.directory),
                4,
                "another backup is being made, of /elsewhere",
            )
            # One of which nothing was heard for long is given up, and finds that out.
            monkeypatch.setattr(bucket_turns, "SILENT_SECONDS", -1)
            back_up(layout, place)
            _, manifest = BucketPlace(storage_of(s3, place)).load()
            other.pool.know({file.sha256: 2 for file in manifest.files})
            with pytest.raises(Conflict, match="another was begun"):
                other.add(manifest)
        assert finished(s3, place) == ["00000002"]
        back_up(layout, place)
        assert run("restore", place, "--check").code == 0

    @pytest.mark.usefixtures("proxy")
    def test_of_many_who_begin_one_wins(self, s3: Any) -> None:
        storage = storage_of(s3, fresh(s3))
        won: list[int] = []
        lost: list[str] = []

        def begin(number: int) -> None:
            try:
                turn = Turns(storage).take(claim_of(str(number), "/data", "now"))
                won.append(turn.number)
            except Conflict as error:
                lost.append(str(error))

        threads = [threading.Thread(target=begin, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert (won, len(lost)) == ([1], 7)
        assert all("another backup is being made" in each for each in lost)

    @pytest.mark.usefixtures("proxy")
    def test_two_commands_at_once(self, s3: Any, tmp_path: Path) -> None:
        # Without tables, since those name their files by absolute paths.
        place, one, copy = fresh(s3), stopped_directory(tmp_path / "data").directory, tmp_path / "copy"
        shutil.copytree(one, copy)
        command = [sys.executable, "-m", "profilelake", "backup", place, "--dir"]
        environment = {**clean_environment(), **settings(s3.endpoint)}
        running = [
            subprocess.Popen([*command, directory], env=environment, stderr=subprocess.PIPE, text=True)
            for directory in (one, copy)
        ]
        ended = [(one.communicate(timeout=120)[1], one.returncode) for one in running]
        codes = sorted(code for _, code in ended)
        assert codes[0] == 0, ended
        assert codes[1] in (0, 4), ended
        assert all("another backup" in text for text, code in ended if code)
        assert len(finished(s3, place)) == codes.count(0)
        assert run("restore", place, "--check").code == 0

    def test_it_is_heard_of_while_it_works(
        self, proxy: FaultyProxy, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bucket_turns, "RENEW_SECONDS", 0.05)
        place = fresh(s3)
        kept_in = BucketPlace(
            ObjectStorage(place, StorageOptions(endpoint=proxy.endpoint, plain_http="allowed"))
        )
        with kept_in.begun(tmp_path, "/data", "now"):
            until = time.monotonic() + 60
            while len(asked(proxy, "PUT", "/claims/")) < 4:
                assert time.monotonic() < until
                time.sleep(0.01)
        asked_then = len(asked(proxy, "PUT", "/claims/"))
        assert b'"ended":true' in storage_of(s3, place).read(f"{place}/claims/00000001.json")
        assert len(asked(proxy, "PUT", "/claims/")) == asked_then
