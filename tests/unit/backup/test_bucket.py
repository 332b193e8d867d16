"""The layout of backups in a bucket, on a copy of one in a folder: what does not depend on the store."""

import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from command_line import run, told
from pipeline_driver import START, LogBuilder
from profilelake.backup import bucket_pool, bucket_turns
from profilelake.backup.bucket import BucketPlace
from profilelake.backup.bucket_pool import BucketPool
from profilelake.backup.bucket_turns import Claim, Turns
from profilelake.backup.places import place_at
from profilelake.backup.record import load
from profilelake.errors import Conflict, Corrupt, NotFound, Unavailable
from profilelake.lake.storage import LocalStorage
from profilelake.settings import Layout, StorageOptions
from stopped_directory import desk, stopped_directory


def claim(installation: str) -> Claim:
    return Claim(installation, "host", 7, "/data", "2026-01-01T00:00:00Z")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder into which somebody has begun to copy a bucket."""
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "PROFILELAKE-BACKUPS").write_text("objects 1\n")
    return folder


@pytest.fixture
def storage(place: Path) -> LocalStorage:
    return LocalStorage(str(place))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = stopped_directory(tmp_path / "data")
    with desk(made) as at:
        at.apply(
            [LogBuilder("0" * 16).record(START, [{"type": "identify", "userId": "u", "messageId": "m"}])]
        )
        at.publish()
    return made


def test_a_copy_of_a_bucket_is_a_place_for_backups(layout: Layout, place: Path, tmp_path: Path) -> None:
    first = run("backup", place, "--dir", layout.directory, "--json").json
    assert (first["id"], first["events"], first["new_files"]) == ("00000001", 1, first["files"])
    again = run("backup", place, "--dir", layout.directory, "--keep", "1", "--json").json
    assert (again["id"], again["new_files"], again["removed"]) == ("00000002", 0, ["00000001"])
    (row,) = run("backup", place, "--list", "--json").json
    assert (row["id"], row["events"], row["with_key"]) == ("00000002", 1, True)
    assert "00000002  2" in run("backup", place, "--list").out.decode()
    made = load(layout.backups).last
    assert made is not None
    assert (made.id, made.place) == ("00000002", str(place))
    assert sorted(path.name for path in (place / "files").iterdir() if any(path.iterdir())) == ["00000001"]
    # The number of the one that was removed is not given again.
    assert (place / "backups" / "00000001.json").read_bytes() == b""
    assert [path.name for path in (place / "claims").iterdir()] == ["00000002.json"]
    ran = run("restore", place, "--dir", tmp_path / "new", "--json")
    assert ran.code == 0, ran.err
    assert run("verify", "--dir", tmp_path / "new").code == 0
    told(run("restore", place, "--backup", "00000001", "--check"), 3, "there are 00000002")


def test_what_is_no_backup(storage: LocalStorage, place: Path, layout: Layout) -> None:
    kept_in = place_at(str(place), StorageOptions())
    assert isinstance(kept_in, BucketPlace)
    with pytest.raises(NotFound, match="there is none"):
        kept_in.load()
    assert run("backup", place, "--dir", layout.directory).code == 0
    for path in (place / "backups" / "00000001.json", place / "manifests" / "00000001.json"):
        good = path.read_bytes()
        path.write_bytes(good[:-1])
        with pytest.raises(Corrupt, match="take another backup"):
            kept_in.load()
        path.write_bytes(good)
    assert kept_in.load()[0] == "00000001"
    (place / "manifests" / "00000001.json").unlink()
    with pytest.raises(Corrupt, match="it is missing"):
        kept_in.load()
    storage.write(f"{storage.root}/PROFILELAKE-BACKUPS", b"objects 9\n")
    with pytest.raises(Conflict, match="upgrade profilelake"):
        kept_in.check()


def test_a_damaged_manifest_does_not_prevent_the_next_backup(
    layout: Layout, place: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert run("backup", place, "--dir", layout.directory).code == 0
    manifest = place / "manifests" / "00000002.json"
    manifest.write_bytes(manifest.read_bytes()[:-5])
    made = run("backup", place, "--dir", layout.directory, "--json")
    assert made.code == 0, made.err
    # Nobody else has to keep what only the damaged one names, or an older one.
    assert {path.parent.name for path in (place / "files").glob("*/*")} == {"00000001", "00000003"}
    assert len(list((place / "files" / "00000003").iterdir())) == made.json["new_files"] > 0
    assert run("restore", place, "--check").code == 0
    assert run("restore", place, "--backup", "00000001", "--dir", tmp_path / "new").code == 0


def test_a_backup_that_goes_while_they_are_listed(layout: Layout, place: Path, storage: LocalStorage) -> None:
    for _ in range(3):
        assert run("backup", place, "--dir", layout.directory).code == 0
    listed = BucketPlace(storage).summaries()
    assert next(listed).id == "00000001"
    Turns(storage).remove(2)
    assert [summary.id for summary in listed] == ["00000003"]


class Lax(LocalStorage):
    """A store that knows no conditions."""

    def create(self, location: str, content: bytes) -> bool:
        self.write(location, content)
        return True


def test_a_store_that_lets_two_create_one_object_is_refused(place: Path, tmp_path: Path) -> None:
    backups = BucketPlace(Lax(str(place)))
    with (
        pytest.raises(Unavailable, match=r"lets a second writer win .* \(If-None-Match\)"),
        backups.begun(tmp_path, "/data", "2026-01-01T00:00:00Z"),
    ):
        pass
    assert not (place / "claims").exists()


class Unwritable(LocalStorage):
    """A store that answers writes with what is no plain absence of an answer."""

    def write(self, location: str, content: bytes) -> None:  # noqa: ARG002
        raise FileNotFoundError(f"writing {location}: there is no such file")


class TestTurns:
    def test_a_claim_that_cannot_be_renewed_is_tried_again(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(bucket_turns, "RENEW_SECONDS", 0.001)
        turn = Turns(Unwritable(str(place))).take(claim("one"))
        turn.begin()
        assert turn._renewing is not None
        for _ in range(1_000):
            turn._renewing.join(0.01)
            assert turn._renewing.is_alive()
            if len(caplog.messages) > 1:
                break
        turn.end()
        assert "waits for 15 minutes" in caplog.text

    def test_one_after_the_other(self, storage: LocalStorage) -> None:
        turns = Turns(storage)
        first = turns.take(claim("one"))
        with pytest.raises(Conflict, match=r"of /data by process 7 on host, begun at .*; wait for it"):
            turns.take(claim("other"))
        first.finish(b"{}")
        with pytest.raises(Conflict):
            turns.take(claim("other"))  # it may still be removing what is old
        first.end()
        second = turns.take(claim("other"))
        assert (second.number, second.last, turns.finished()) == (2, 1, [1])

    def test_one_of_our_own_that_did_not_end_is_dead(self, storage: LocalStorage) -> None:
        turns = Turns(storage)
        first = turns.take(claim("one"))
        assert turns.take(claim("one")).number == 2
        with pytest.raises(Conflict, match="another was begun"):
            first.finish(b"{}")
        with pytest.raises(Conflict, match="another was begun"):
            first.refuse_lost()
        assert turns.finished() == []

    def test_one_that_is_silent_is_given_up(self, storage: LocalStorage) -> None:
        turns = Turns(storage)
        first = turns.take(claim("one"))
        path = Path(turns.claim_location(1))
        then = path.stat().st_mtime
        for seconds, taken in (
            (bucket_turns.SILENT_SECONDS - 300, 0),
            (bucket_turns.SILENT_SECONDS + 300, 1),
        ):
            os.utime(path, (then - seconds, then - seconds))
            if not taken:
                with pytest.raises(Conflict):
                    turns.take(claim("other"))
        second = turns.take(claim("other"))
        assert second.number == 2
        with pytest.raises(Conflict):
            first.finish(b"{}")
        second.finish(b"{}")
        assert turns.finished() == [2]

    def test_a_claim_nobody_can_read(self, storage: LocalStorage) -> None:
        turns = Turns(storage)
        turns.take(claim("one"))
        storage.write(turns.claim_location(1), b"{")
        with pytest.raises(Corrupt, match="remove it where no backup is being made"):
            turns.take(claim("other"))

    def test_what_was_removed_long_ago_is_forgotten(self, storage: LocalStorage) -> None:
        turns = Turns(storage)
        for number in range(1, 4):
            turn = turns.take(claim("one"))
            assert turn.number == number
            turn.finish(b"{}")
            turn.end()
        turns.remove(1)
        turns.remove(2)
        old = Path(turns.finished_location(1))
        then = old.stat().st_mtime - 2 * bucket_turns.EMPTY_SECONDS
        os.utime(old, (then, then))
        turns.tidy(turn)
        assert not old.exists()
        assert Path(turns.finished_location(2)).read_bytes() == b""
        assert turns.finished() == [3]
        assert turns.take(claim("one")).number == 4


class TestPool:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_pool, "SMALL_BYTES", 10)

    @pytest.fixture
    def pool(self, storage: LocalStorage) -> BucketPool:
        made = BucketPool(storage)
        made.begin(3, 1, {})
        return made

    @pytest.mark.parametrize("content", [b"", b"small", b"not so small any more"])
    def test_there_and_back(self, pool: BucketPool, tmp_path: Path, content: bytes) -> None:
        source, target, elsewhere = (
            tmp_path / "source",
            tmp_path / "target",
            LocalStorage(str(tmp_path / "to")),
        )
        source.write_bytes(content + b"what came later")
        digest = hashlib.sha256(content).hexdigest()
        assert pool.add(source, len(content)) == (digest, True)
        assert pool.add(source, len(content)) == (digest, False)
        pool.give(digest, len(content), target)
        assert (target.read_bytes(), target.stat().st_mode & 0o777) == (content, 0o600)
        pool.deliver(digest, len(content), elsewhere, f"{elsewhere.root}/file")
        assert elsewhere.read(f"{elsewhere.root}/file") == content
        assert pool.damaged([(digest, len(content))]) == pool.lacking([(digest, len(content))]) == []
        source.write_bytes(content)
        assert pool.fetch(LocalStorage(str(tmp_path)), str(source), len(content)) == (digest, False)

    @pytest.mark.parametrize("content", [b"small", b"not so small any more"])
    def test_damage(self, pool: BucketPool, tmp_path: Path, content: bytes) -> None:
        source, elsewhere = tmp_path / "source", LocalStorage(str(tmp_path / "to"))
        source.write_bytes(content)
        digest, _ = pool.fetch(LocalStorage(str(tmp_path)), str(source), len(content))
        path, size = Path(pool.location(digest)), len(content)
        for damaged, listed in ((b"x" * size, []), (content[:-1], [digest]), (None, [digest])):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            assert (pool.damaged([(digest, size)]), pool.lacking([(digest, size)])) == ([digest], listed)
            with pytest.raises(Corrupt, match="restore another backup"):
                pool.give(digest, size, tmp_path / "target")
            with pytest.raises(Corrupt, match="restore another backup"):
                pool.deliver(digest, size, elsewhere, f"{elsewhere.root}/file")
            assert elsewhere.size(f"{elsewhere.root}/file") is None

    def test_a_file_that_changes_while_it_is_sent_is_not_there(
        self, pool: BucketPool, storage: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"not so small any more")
        send = LocalStorage.send

        def changing(self: LocalStorage, location: str, opened: IO[bytes], size: int) -> None:
            source.write_bytes(b"NOT so small any more")
            send(self, location, opened, size)

        monkeypatch.setattr(LocalStorage, "send", changing)
        with pytest.raises(Unavailable, match="it changed while it was sent; retry"):
            pool.add(source, 21)
        source.write_bytes(b"short")
        with pytest.raises(Unavailable):
            pool.add(source, 21)
        with pytest.raises(Unavailable, match="see that it can be read"):
            pool.add(tmp_path / "none", 1)
        assert list(storage.list(f"{storage.root}/files")) == []

    def test_what_is_used_again(self, storage: LocalStorage) -> None:
        contents = {number: hashlib.sha256(b"%d" % number).hexdigest() for number in range(1, 5)}
        for number, digest in contents.items():
            storage.write(f"{storage.root}/files/{number:08d}/{digest}", b"1234")
        storage.write(f"{storage.root}/files/00000002/unknown", b"")
        pool = BucketPool(storage)
        # The last backup is 2, and has a content of 1; another one of 1 was named by none; 3 was killed; 4 is another's.
        pool.begin(4, 2, {contents[2]: 2})
        assert [number for number, digest in contents.items() if pool.holds(digest, 4)] == [2, 3]
        assert not pool.holds(contents[2], 5)
        assert pool.sweep({(2, contents[2])}, 1, 3) == 2
        assert sorted(path.location[-64:] for path in storage.list(f"{storage.root}/files/00000004")) == [
            contents[4]
        ]
        assert not list(storage.list(f"{storage.root}/files/00000003"))

    def test_what_goes_while_it_is_read_is_missing(
        self, pool: BucketPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "source").write_bytes(b"some")
        digest, _ = pool.add(tmp_path / "source", 4)
        with pytest.raises(FileNotFoundError, match="target"), pool._opened(digest, 4):
            raise FileNotFoundError("the folder of the target")

        def going(source: object, size: int, name: str) -> Iterator[bytes]:
            Path(pool.location(digest)).unlink()
            raise FileNotFoundError("there is no such file")
            yield b""

        monkeypatch.setattr(bucket_pool, "pieces", going)
        assert pool.damaged([(digest, 4)]) == [digest]

    def test_a_backup_is_read_where_it_has_its_contents(self, storage: LocalStorage) -> None:
        # The newest one, which is asked who is suppressed, may have lost the same content elsewhere.
        pool = BucketPool(storage)
        pool.know({"a": 1})
        pool.know({"a": 5, "b": 5})
        assert (pool.where("a"), pool.where("b")) == (1, 5)

    def test_a_full_temporary_directory_is_told(
        self, pool: BucketPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(io.BytesIO):
            def write(self, _: object) -> int:
                raise OSError(28, "No space left on device")

        def full() -> Iterator[Full]:
            return Full()

        (tmp_path / "source").write_bytes(bytes(100))
        monkeypatch.setattr(bucket_pool.tempfile, "TemporaryFile", full)
        with pytest.raises(Unavailable, match=r"make room in the temporary directory \(TMPDIR\)"):
            pool.fetch(LocalStorage(str(tmp_path)), str(tmp_path / "source"), 100)
