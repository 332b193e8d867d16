"""Backups of a stopped directory: what is in them, what is not copied twice, what a restore refuses."""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from command_line import run, told
from eventlog_puppet import entry, write_log
from pipeline_driver import START, WORKSPACE, LogBuilder
from profilelake.backup import capture, placing
from profilelake.backup.capture import captured
from profilelake.backup.manifest import BackupPlace
from profilelake.backup.pool import Pool
from profilelake.backup.record import load
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.lake.catalog import Lake
from profilelake.lake.storage import Storage
from profilelake.settings import Layout
from profilelake.workspaces.control import Control
from profilelake.workspaces.suppressions import Hashed
from stopped_directory import desk, stopped_directory

LOG = "0" * 16


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a directory with ten events in state and tables, and a log that goes on."""
    made = stopped_directory(tmp_path / "data")
    made.definitions.mkdir()
    (made.definitions / "identity.yaml").write_text("# rules\n")
    (made.directory / "profilelake.toml").write_text('region = "eu"\n')
    made.credentials.write_text("{}")
    with desk(made) as at:
        log = LogBuilder(LOG)
        for number in range(2):
            messages = [
                {"type": "identify", "messageId": f"m{number}-{n}", "userId": f"u{n}", "traits": {"n": n}}
                for n in range(5)
            ]
            at.apply([log.record(START + number, messages)])
            at.publish()
    write_log(made.log, [entry(b"later")])
    return made


def suppress(layout: Layout, *values: str) -> None:
    with Control.open(layout.control, bytes) as control:
        hashes = [hashlib.blake2b(value.encode(), digest_size=16).digest() for value in values]
        control.suppressions().suppress(
            WORKSPACE, [Hashed("users", "user_id", one, one) for one in hashes], now=1
        )


def back_up(layout: Layout, place: Path, *options: str) -> dict[str, object]:
    ran = run("backup", place, "--dir", layout.directory, "--json", *options)
    assert ran.code == 0, ran.err
    return dict(ran.json)


def paths(place: Path) -> set[str]:
    return {file.path for file in BackupPlace(place).load()[1].files}


def test_what_is_in_a_backup_and_what_comes_back(layout: Layout, tmp_path: Path) -> None:
    place, restored = tmp_path / "backups", Layout(tmp_path / "restored")
    made = back_up(layout, place)
    assert made["events"] == 11
    found = paths(place)
    assert {"control.sqlite", "credentials.json", "state/data.mdb", "profilelake.toml"} <= found
    assert {"definitions/identity.yaml", "secrets/identifier.key"} <= found
    assert any(path.startswith("recent/default/") for path in found)
    assert any(path.startswith("log/") and path.endswith(".seg") for path in found)
    assert not any(path.startswith(("run/", "FORMAT", "format.json", "backups.json")) for path in found)
    for path in place.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or path.is_file()
    assert place.stat().st_mode & 0o777 == 0o700
    ran = run("restore", place, "--dir", restored.directory, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["events"] == 11
    restored.check()
    assert restored.directory.stat().st_mode & 0o777 == 0o700
    for path in (restored.secrets / "identifier.key", restored.control, restored.credentials):
        assert path.stat().st_mode & 0o777 == 0o600
    with desk(restored) as at:
        at.check_epoch()
        assert at.applied().totals["in_lake"] == 10
        assert at.verify() == []
        # Goes on where it was: what is sent again is known.
        log = LogBuilder("1" * 16)
        again = [{"type": "identify", "messageId": "m0-0", "userId": "u0", "traits": {"n": 0}}]
        fresh = [{"type": "identify", "messageId": "m9", "userId": "u0"}]
        at.apply([log.record(START + 100, again + fresh)])
        assert at.publish()
        assert at.applied().totals == at.applied().totals | {"in_lake": 11, "duplicates": 1}
        assert at.verify() == []


def test_a_second_backup_copies_only_what_is_new(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    first = back_up(layout, place)
    again = back_up(layout, place)
    assert again["files"] == first["files"]
    assert again["new_files"] == 0
    with desk(layout) as at:
        log = LogBuilder("1" * 16)
        at.apply(
            [log.record(START + 50, [{"type": "track", "event": "e", "messageId": "t", "userId": "u1"}])]
        )
        at.publish()
    more = back_up(layout, place)
    assert 0 < int(str(more["new_files"])) < int(str(more["files"]))
    assert len(BackupPlace(place).ids()) == 3


def test_only_so_many_are_kept(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    first = back_up(layout, place)
    with desk(layout) as at:
        at.apply([LogBuilder("1" * 16).record(START + 50, [{"type": "track", "event": "e", "userId": "u1"}])])
        at.publish()
        for definition in ("set_map", "profiles"):
            at.lake.load(WORKSPACE, definition)
    second = back_up(layout, place, "--keep", "1")
    assert second["removed"] == [first["id"]]
    assert BackupPlace(place).ids() == [second["id"]]
    held = {path.name for path in (place / "files").glob("*/*")}
    assert held == {file.sha256 for file in BackupPlace(place).load()[1].files}
    assert run("restore", place, "--check").code == 0
    listed = run("backup", place, "--list", "--json").json
    assert [row["id"] for row in listed] == [second["id"]]


def test_linked_backups_share_what_never_changes(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    back_up(layout, place, "--link")
    manifest = BackupPlace(place).load()[1]
    shared = [file for file in manifest.files if Pool(place).path(file.sha256).stat().st_nlink > 1]
    assert shared
    assert all(file.path.startswith(("lake/", "recent/", "dedup/")) for file in shared)
    assert run("restore", place, "--dir", tmp_path / "restored").code == 0
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "restored").rglob("*") if path.is_file())


# ---- the key -----------------------------------------------------------------------------------


def test_without_the_key(layout: Layout, tmp_path: Path) -> None:
    place, target = tmp_path / "backups", tmp_path / "restored"
    ran = run("backup", place, "--dir", layout.directory, "--without-key")
    assert "keep" in ran.err
    assert not {"secrets/identifier.key", "credentials.json"} & paths(place)
    assert load(layout.backups).with_key is None
    key = (layout.secrets / "identifier.key").read_bytes()
    assert not any(key in path.read_bytes() for path in place.rglob("*") if path.is_file())
    told(run("restore", place, "--dir", target), 2, "name the folder that has it with --key-from")
    told(run("restore", place, "--dir", target, "--key-from", tmp_path), 3, "there is no identifier.key")
    other = stopped_directory(tmp_path / "other")
    (other.secrets / "identifier.key").write_bytes(b"x" * 16)
    told(run("restore", place, "--dir", target, "--key-from", other.secrets), 2, "its fingerprint is")
    assert not target.exists()
    assert run("restore", place, "--dir", target, "--key-from", layout.directory).code == 0


def test_the_key_apart(layout: Layout, tmp_path: Path) -> None:
    place, apart = tmp_path / "backups", tmp_path / "apart"
    back_up(layout, place, "--key-to", str(apart))
    assert not {"secrets/identifier.key", "credentials.json"} & paths(place)
    key = apart / "secrets" / "identifier.key"
    assert (key.stat().st_mode & 0o777, key.read_bytes()) == (
        0o600,
        (layout.secrets / "identifier.key").read_bytes(),
    )
    escrow = load(layout.backups).with_key
    assert escrow is not None
    assert escrow.place == str(apart)
    back_up(layout, place, "--key-to", str(apart))
    key.write_bytes(bytes(16))
    told(run("backup", place, "--dir", layout.directory, "--key-to", apart), 4, "another one is there")
    key.write_bytes((layout.secrets / "identifier.key").read_bytes())
    assert run("restore", place, "--dir", tmp_path / "restored", "--key-from", apart).code == 0
    told(
        run("backup", place, "--dir", layout.directory, "--key-to", apart, "--without-key"),
        2,
        "contradict each other",
    )


# ---- who is suppressed --------------------------------------------------------------------------


def suppressed(layout: Layout) -> int:
    with closing(sqlite3.connect(layout.control)) as database:
        return int(database.execute("SELECT count(*) FROM suppressions").fetchone()[0])


def test_an_older_backup_brings_nobody_back(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    suppress(layout, "first")
    old = str(back_up(layout, place)["id"])
    suppress(layout, "second", "third")
    back_up(layout, place)
    suppress(layout, "fourth")
    newest = Layout(tmp_path / "newest")
    ran = run("restore", place, "--backup", old, "--dir", newest.directory, "--json")
    assert (ran.json["id"], ran.json["suppressed"], ran.json["suppressed_since"]) == (old, 3, 2)
    assert suppressed(newest) == 3
    live = Layout(tmp_path / "live")
    options = ("--backup", old, "--control-from", layout.directory)
    ran = run("restore", place, *options, "--dir", live.directory, "--json")
    assert (ran.json["suppressed"], ran.json["suppressed_since"]) == (4, 3)
    assert ran.json["control_from"] == str(layout.directory)
    assert suppressed(live) == 4


def test_what_another_installation_knows_is_refused(layout: Layout, tmp_path: Path) -> None:
    place, target = tmp_path / "backups", tmp_path / "restored"
    back_up(layout, place)
    other = Layout(tmp_path / "other")
    other.create()
    with Control.open(other.control, lambda size: b"o" * size) as control:
        control.ensure_default(now=1)
        control.bind_identifier_key(other.secrets)
    told(run("restore", place, "--dir", target, "--control-from", other.directory), 2, "another installation")
    told(
        run("restore", place, "--dir", target, "--control-from", tmp_path), 3, "there is no control database"
    )
    told(run("backup", place, "--dir", other.directory), 4, "backups of another installation")
    (tmp_path / "no.sqlite").write_text(
        "nothing of the kind, but long enough to be looked at as a database" * 20
    )
    told(
        run("restore", place, "--dir", target, "--control-from", tmp_path / "no.sqlite"),
        2,
        "name another one",
    )
    assert not target.exists()


# ---- what is refused ---------------------------------------------------------------------------


def test_places_that_are_none(layout: Layout, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").touch()
    told(run("backup", full, "--dir", layout.directory), 4, "there are other things")
    (tmp_path / "link").symlink_to(layout.directory)
    for inside in (
        layout.directory / "b",
        f"file://{layout.directory}/b",
        tmp_path / "data" / ".." / "data" / "b",
        tmp_path / "link" / "b",
    ):
        told(run("backup", inside, "--dir", layout.directory), 2, "inside of the data directory")
    told(run("restore", full, "--dir", tmp_path / "new"), 3, "none were made there")
    told(run("backup", full, "--list"), 3, "none were made there")
    place = tmp_path / "backups"
    back_up(layout, place)
    told(run("restore", place, "--dir", full), 4, "it is not empty")
    told(run("restore", place), 2, "name the new data directory with --dir")
    told(run("restore", place, "--backup", "x", "--dir", tmp_path / "new"), 3, "there is none; there are")
    (place / "PROFILELAKE-BACKUPS").write_text("9\n")
    told(run("restore", place, "--dir", tmp_path / "new"), 4, "upgrade profilelake")


def test_damage_is_found_before_anything_is_written(layout: Layout, tmp_path: Path) -> None:
    place, target = tmp_path / "backups", tmp_path / "restored"
    good = str(back_up(layout, place)["id"])
    with desk(layout) as at:
        at.apply([LogBuilder("1" * 16).record(START + 50, [{"type": "track", "event": "e", "userId": "u1"}])])
        at.publish()
    bad = str(back_up(layout, place)["id"])
    only_bad = {f.sha256 for f in BackupPlace(place).load(bad)[1].files} - {
        f.sha256 for f in BackupPlace(place).load(good)[1].files
    }
    path = Pool(place).path(min(only_bad))
    data = path.read_bytes()
    for damaged in (bytes([data[0] ^ 1]) + data[1:], data[:-1], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        ran = run("restore", place, "--dir", target)
        assert ran.code == 6
        assert f"restore another backup, there are {good}" in ran.err
        assert not target.exists()
    assert run("restore", place, "--dir", target, "--backup", good).code == 0
    manifest = place / "backups" / f"{good}.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"files": []}))
    told(run("restore", place, "--check", "--backup", good), 6, "its checksum differs")


def test_a_manifest_names_no_file_outside(layout: Layout, tmp_path: Path) -> None:
    place, escaped = tmp_path / "backups", tmp_path / "escaped"
    back_up(layout, place)
    id, manifest = BackupPlace(place).load()
    options = ("--dir", tmp_path / "restored", "--warehouse", tmp_path / "tables")
    # Parts of the second one, taken off where tables go elsewhere, are an absolute path.
    for name in ("../escaped", f"lake/{escaped}", "lake/./x", ""):
        from_outside = [replace_path(file, name) for file in manifest.files[:1]]
        BackupPlace(place).remove(id)
        id = BackupPlace(place).add(
            type(manifest)(**{**as_dict(manifest), "files": [*manifest.files, *from_outside]})
        )
        told(run("restore", place, *options), 6, "names only files below its directory")
        assert not escaped.exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("namespace", "../../escaped", "names only files below its directory"),
        ("name", "/escaped", "names only files below its directory"),
        ("metadata_file", "lake/../../escaped/metadata/1.json", "names only files below its directory"),
        ("metadata_file", "secrets/1.json", "which is none of its files"),
    ],
)
def test_a_manifest_names_no_table_outside(
    layout: Layout, tmp_path: Path, field: str, value: str, message: str
) -> None:
    place = tmp_path / "backups"
    back_up(layout, place)
    id, manifest = BackupPlace(place).load()
    table, *others = manifest.tables
    odd = type(table)(**{**as_dict(table), field: value})
    BackupPlace(place).remove(id)
    BackupPlace(place).add(type(manifest)(**{**as_dict(manifest), "tables": [odd, *others]}))
    told(run("restore", place, "--dir", tmp_path / "restored"), 6, message)
    assert not (tmp_path / "restored").exists()


def test_a_damaged_manifest_does_not_prevent_the_next_backup(layout: Layout, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    good, bad = (str(back_up(layout, place)["id"]) for _ in range(2))
    manifest = place / "backups" / f"{bad}.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    # Who was suppressed since is not known, so nothing is restored without a word about that.
    told(run("restore", place, "--backup", good, "--dir", tmp_path / "new"), 6, "--control-from")
    made = back_up(layout, place)
    assert run("restore", place, "--check").code == 0
    assert run("restore", place, "--backup", good, "--dir", tmp_path / "new").code == 0
    # What the damaged one names is not known, so nothing is removed as long as it is there.
    ran = run("backup", place, "--dir", layout.directory, "--keep", "3")
    told(ran, 6, "is made; removing what is not needed any more")
    ids = BackupPlace(place).ids()
    assert ids[:2] == [bad, made["id"]]
    assert len(ids) == 3
    assert back_up(layout, place, "--keep", "2")["removed"] == [bad, made["id"]]


def as_dict(manifest: object) -> dict[str, object]:
    return {name: getattr(manifest, name) for name in manifest.__struct_fields__}  # type: ignore[attr-defined]


def replace_path(file: object, path: str) -> object:
    return type(file)(path, file.bytes, file.sha256)  # type: ignore[attr-defined,call-arg]


def test_a_directory_that_never_started_can_be_backed_up(tmp_path: Path) -> None:
    layout = stopped_directory(tmp_path / "data")
    assert back_up(layout, tmp_path / "backups")["events"] == 0
    assert run("restore", tmp_path / "backups", "--dir", tmp_path / "restored").code == 0
    Layout(tmp_path / "restored").check()


def test_tables_without_a_state_are_refused(layout: Layout, tmp_path: Path) -> None:
    layout.state.rename(tmp_path / "away")
    told(run("backup", tmp_path / "b", "--dir", layout.directory), 4, "profilelake rebuild --dir")


def test_a_lost_key_is_told(layout: Layout, tmp_path: Path) -> None:
    (layout.secrets / "identifier.key").unlink()
    told(run("backup", tmp_path / "b", "--dir", layout.directory), 3, "does not exist")


# ---- a directory at work -----------------------------------------------------------------------


def no_fetch(storage: Storage, files: Sequence[capture.Distant]) -> None:
    raise AssertionError(f"{len(files)} files of {storage.root}")


def capture_of(layout: Layout, tmp_path: Path) -> capture.Captured:
    with captured(layout, layout.run / "backup", tmp_path / "making", [WORKSPACE], no_fetch) as found:
        return found


def test_a_moment_in_which_tables_moved_is_not_taken(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointers, looks = Lake.pointers, [0]

    def moving(self: Lake) -> dict[tuple[str, str], str]:
        looks[0] += 1
        return pointers(self) | ({("ws_default", "moving"): str(looks[0])} if looks[0] < 6 else {})

    monkeypatch.setattr(Lake, "pointers", moving)
    assert len(capture_of(layout, tmp_path).tables) == len(pointers(Lake.of(layout)))
    assert looks[0] >= 7
    monkeypatch.setattr(Lake, "pointers", lambda _: {("a", str(looks.append(0) or len(looks))): ""})
    monkeypatch.setattr(capture, "MOMENT_TRIES_MAX", 3)
    monkeypatch.setattr(capture, "MOMENT_WAIT_SECONDS", 0)
    with pytest.raises(Unavailable, match=r"20 attempts failed, retry later"):
        capture_of(layout, tmp_path)


def test_files_that_go_meanwhile_begin_another_attempt(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin_file, gone = capture.pin_file, [0]

    def going(source: Path, place: Path) -> None:
        if gone[0] < 2:
            gone[0] += 1
            raise FileNotFoundError(source)
        pin_file(source, place)

    monkeypatch.setattr(capture, "pin_file", going)
    monkeypatch.setattr(capture, "MOMENT_WAIT_SECONDS", 0)
    assert len(capture_of(layout, tmp_path).files) > 10
    assert gone[0] == 2
    assert not (layout.run / "backup").exists()


def test_urls_that_are_no_places(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--dir", layout.directory)
    told(run("backup", "s3://", *options), 2, "give a folder, or s3://bucket/prefix")
    told(run("backup", "s3:/bucket/x", *options), 2, "with two slashes")
    told(run("backup", "file://host/x", *options), 2, "file:///folder, with three slashes")
    for place in ("s3://key:hidden@bucket/x", "file://key:hidden@host/x"):
        ran = run("backup", place, *options, "--link")
        told(ran, 2, "no user or password belongs into it")
        assert "hidden" not in ran.err
    for prefix in ("a//b", "a/../b", "./a", "a/.", "a\tb/c"):
        told(run("backup", f"s3://bucket/{prefix}", *options), 2, "parts of a prefix are neither empty")
    told(run("backup", "ftp://bucket/x", *options), 2, "give a directory, or s3://bucket/prefix")
    told(run("restore", "ftp://bucket/x", "--dir", tmp_path / "new"), 2, "give a directory, or s3://bucket")
    told(run("backup", "s3://bucket/x", *options, "--link"), 2, "only folders share files; leave it out")
    monkeypatch.setenv("PROFILELAKE_LAKE_WAREHOUSE", "s3://bucket/lake")
    monkeypatch.setenv("PROFILELAKE_STORAGE_ENDPOINT", "https://store.example")
    for place, endpoint in (
        ("s3://bucket", "https://store.example"),
        ("s3://bucket/lake/", "https://store.example/"),
        ("s3://bucket/lake/backups", "https://store.example/"),
    ):
        monkeypatch.setenv("PROFILELAKE_BACKUP_ENDPOINT", endpoint)
        told(run("backup", place, *options), 2, "lie in one another; name another prefix")


def test_errors_of_the_place(tmp_path: Path) -> None:
    place = BackupPlace(tmp_path / "none")
    with pytest.raises(NotFound):
        place.check()
    place.create()
    with pytest.raises(NotFound):
        place.load()
    (tmp_path / "file").touch()
    with pytest.raises(Conflict):
        BackupPlace(tmp_path / "file").create()
    (tmp_path / "none" / "backups" / "2026-x.json").write_text("{")
    with pytest.raises(Corrupt):
        place.load()


# ---- tables elsewhere --------------------------------------------------------------------------


def test_tables_are_restored_to_another_folder_and_catalog(layout: Layout, tmp_path: Path) -> None:
    place, target, there = tmp_path / "backups", tmp_path / "restored", tmp_path / "disk" / "lake"
    back_up(layout, place)
    options = ("--warehouse", there, "--catalog", f"sqlite:///{tmp_path}/disk/catalog.db")
    ran = run("restore", place, "--dir", target, "--json", *options)
    assert ran.code == 0, ran.err
    assert ran.json["to_write"] == [
        f'warehouse = "file://{there}"',
        f'catalog = "sqlite:///{tmp_path}/disk/catalog.db"',
    ]
    told(run("verify", "--dir", target), 4, "put the settings back")
    with (target / "profilelake.toml").open("a") as sink:
        sink.write("\n".join(["[lake]", *ran.json["to_write"]]))
    for command in (("verify",), ("lake", "verify")):
        ran = run(*command, "--dir", target, "--json")
        assert (ran.code, ran.json) == (0, []), ran
    assert not (target / "lake").exists()
    assert not (target / "catalog.sqlite").exists()
    assert not list(there.glob("_restore*"))
    # And back up again from there, into the directory itself.
    again = Layout(tmp_path / "again")
    back_up(Layout(target), tmp_path / "others")
    usual = ("--warehouse", "lake", "--catalog", "sqlite:///catalog.sqlite")
    ran = run("restore", tmp_path / "others", "--dir", again.directory, "--json", *usual)
    assert ran.code == 0, ran.err
    assert ran.json["to_write"] == ['warehouse = "lake"', 'catalog = "sqlite:///catalog.sqlite"']
    assert again.catalog.exists()
    assert not again.lake_record.exists()


def test_a_place_that_is_taken_is_left_alone(layout: Layout, tmp_path: Path) -> None:
    place, there = tmp_path / "backups", tmp_path / "disk"
    back_up(layout, place)
    first = run("restore", place, "--dir", tmp_path / "first", "--warehouse", there)
    assert first.code == 0, first.err
    assert "before it starts, write into [lake] of" in first.err
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    target = tmp_path / "second"
    target.mkdir()
    ran = run("restore", place, "--dir", target, "--warehouse", there)
    told(ran, 4, "name another place with --warehouse")
    assert list(target.iterdir()) == []
    catalog = f"sqlite:///{tmp_path}/first/catalog.sqlite"
    ran = run("restore", place, "--dir", target, "--warehouse", tmp_path / "other", "--catalog", catalog)
    told(ran, 4, "it knows a table ws_default.")
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*")} == before
    assert list(target.iterdir()) == []
    told(run("restore", place, "--dir", target, "--warehouse", "s3://"), 2, "names no bucket")


def test_a_restore_that_was_cut_short_is_gone_on_with(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, target, there = tmp_path / "backups", tmp_path / "restored", tmp_path / "disk"
    back_up(layout, place)

    def broken(*_: object) -> None:
        raise Unavailable("the catalog does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(placing, "register_tables", broken)
        ran = run("restore", place, "--dir", target, "--warehouse", there)
        assert (ran.code, "does not answer" in ran.err) == (5, True)
    data = {path: path.stat().st_mtime_ns for path in there.rglob("*.parquet")}
    assert data
    ran = run("restore", place, "--dir", tmp_path / "other", "--warehouse", there)
    told(ran, 4, f"into {target} was begun there; finish that one")
    cut = min(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.rmtree(target)
    ran = run("restore", place, "--dir", target, "--warehouse", there)
    assert ran.code == 0, ran.err
    again = {path: path.stat().st_mtime_ns for path in there.rglob("*.parquet")}
    assert again.keys() == data.keys()
    assert [path for path in data if again[path] != data[path]] == [cut]
    monkeypatch.setenv("PROFILELAKE_LAKE_WAREHOUSE", str(there))
    ran = run("lake", "verify", "--dir", target, "--json")
    assert (ran.code, ran.json) == (0, []), ran


def test_what_is_sent_and_cut_off_is_found(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, target, there = tmp_path / "backups", tmp_path / "restored", tmp_path / "disk"
    back_up(layout, place)
    registered: list[object] = []
    monkeypatch.setattr(placing, "register_tables", lambda *tables: registered.append(tables))
    send = Pool.send

    def cutting(self: Pool, sha256: str, size: int, sink: BinaryIO) -> None:
        send(self, sha256, size, sink)
        sink.truncate(size - 1)

    monkeypatch.setattr(Pool, "send", cutting)
    ran = run("restore", place, "--dir", target, "--warehouse", there)
    assert (ran.code, "was sent and has" in ran.err) == (5, True), ran
    assert registered == []
