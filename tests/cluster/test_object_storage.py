"""What a storage promises, held by a disk and by an object store alike."""

import io
import pickle
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilelake.errors import Invalid, Unavailable
from profilelake.lake import object_reading, sql
from profilelake.lake.local_copies import LocalCopies
from profilelake.lake.object_storage import PART_BYTES, ObjectStorage
from profilelake.lake.storage import LocalStorage, Storage, storage_of
from profilelake.settings import StorageOptions


@pytest.fixture
def options(s3: Any, monkeypatch: pytest.MonkeyPatch) -> StorageOptions:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return StorageOptions(endpoint=s3.endpoint, plain_http="allowed", retries_max=2, retry_seconds=2.0)


@pytest.fixture
def objects(s3: Any, options: StorageOptions) -> ObjectStorage:
    return ObjectStorage(f"s3://{s3.bucket}/{uuid.uuid4().hex}", options)


@pytest.fixture(params=["disk", "objects"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return LocalStorage(f"file://{tmp_path}")
    chosen: Storage = request.getfixturevalue("objects")
    return chosen


def listed(storage: Storage) -> list[str]:
    return sorted(storage.place(file.location) for file in storage.list(storage.root))


class TestWriting:
    def test_what_was_written_is_read(self, storage: Storage) -> None:
        location = f"{storage.root}/a/b.txt"
        for content in (b"one", b"", b"another one"):
            storage.write(location, content)
            assert (storage.read(location), storage.size(location)) == (content, len(content))
        assert listed(storage) == [storage.place(location)]

    def test_of_many_who_create_a_file_one_wins(self, storage: Storage) -> None:
        location, won = f"{storage.root}/lock", []
        threads = [
            threading.Thread(
                target=lambda n=n: won.append(n) if storage.create(location, b"%d" % n) else None
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(won) == 1
        assert storage.read(location) == b"%d" % won[0]

    def test_equal_content_of_somebody_else_is_not_ours(self, storage: Storage) -> None:
        assert storage.create(f"{storage.root}/lock", b"same")
        assert not storage.create(f"{storage.root}/lock", b"same")

    @pytest.mark.parametrize("size", [10, PART_BYTES, 2 * PART_BYTES + 5])
    def test_a_file_is_there_once_it_is_closed(self, storage: Storage, size: int) -> None:
        location, content = f"{storage.root}/large", np.random.default_rng(size).bytes(size)
        with storage.output(location) as sink:
            for start in range(0, size, 1 << 20):
                sink.write(content[start : start + (1 << 20)])
            assert sink.tell() == size
            assert storage.size(location) is None
        assert storage.read(location) == content
        with storage.input(location) as source:
            source.seek(size // 2)
            assert source.read() == content[size // 2 :]

    @pytest.mark.parametrize("size", [10, PART_BYTES + 5])
    def test_after_an_error_nothing_is_there(self, storage: Storage, size: int) -> None:
        def broken() -> None:
            with storage.output(f"{storage.root}/half") as sink:
                sink.write(b"x" * size)
                raise KeyError("why")

        with pytest.raises(KeyError):
            broken()
        assert listed(storage) == []

    @pytest.mark.parametrize("size", [10, PART_BYTES + 5])
    def test_a_new_file_never_replaces_another(self, storage: Storage, size: int) -> None:
        location = f"{storage.root}/once"
        storage.write(location, b"first")

        def again() -> None:
            with storage.output(location, new=True) as sink:
                sink.write(b"x" * size)

        with pytest.raises(FileExistsError):
            again()
        assert storage.read(location) == b"first"
        assert listed(storage) == [storage.place(location)]


class TestKeeping:
    def test_what_is_not_there_is_said_so(self, storage: Storage) -> None:
        location = f"{storage.root}/none"
        assert storage.size(location) is None
        assert listed(storage) == []
        storage.remove([location])
        with pytest.raises(FileNotFoundError):
            storage.read(location)
        with pytest.raises(FileNotFoundError):
            storage.input(location)

    def test_files_are_listed_below_a_folder_not_beside_it(self, storage: Storage) -> None:
        names = [f"{storage.root}/{name}" for name in ("t/1", "t/deep/er/2", "t2/3", "t.txt")]
        for name in names:
            storage.write(name, b"12345")
        found = list(storage.list(f"{storage.root}/t"))
        assert sorted(storage.place(file.location) for file in found) == [storage.place(n) for n in names[:2]]
        assert {file.bytes for file in found} == {5}

    def test_removed_files_are_gone_and_the_others_are_not(self, storage: Storage) -> None:
        names = [f"{storage.root}/{number}" for number in range(20)]
        for name in names:
            storage.write(name, b"")
        storage.remove(name for name in [*names[:19], f"{storage.root}/never"])
        assert listed(storage) == [storage.place(names[19])]

    def test_touched_files_are_the_same_files(self, storage: Storage) -> None:
        location = f"{storage.root}/kept"
        storage.write(location, b"content")
        storage.touch([location])
        assert storage.read(location) == b"content"
        assert listed(storage) == [storage.place(location)]
        with pytest.raises(FileNotFoundError):
            storage.touch([f"{storage.root}/gone"])


class TestReading:
    def test_pieces_are_those_of_the_file(self, objects: ObjectStorage) -> None:
        content = np.random.default_rng(1).bytes(3 * object_reading.TAIL_BYTES)
        location = f"{objects.root}/pieces"
        objects.write(location, content)
        store = objects._object(location)

        @settings(max_examples=50, deadline=None)
        @given(st.lists(st.tuples(st.integers(0, len(content) + 10), st.integers(-1, len(content)))))
        def law(reads: list[tuple[int, int]]) -> None:
            held, ours = io.BytesIO(content), object_reading.RangedFile.opened(*store, location)
            for start, size in reads:
                assert (ours.seek(start), ours.read(size), ours.tell()) == (
                    held.seek(start),
                    held.read(size),
                    held.tell(),
                )

        law()

    def test_duckdb_reads_side_by_side(self, objects: ObjectStorage) -> None:
        locations = []
        for number in range(12):
            location = f"{objects.root}/{number}.parquet"
            rows = pa.table(
                {"n": np.arange(200_000) + number, "word": [f"w{i % 997}" for i in range(200_000)]}
            )
            with objects.output(location) as sink:
                pq.write_table(rows, sink, row_group_size=20_000)
            locations.append(location)
        listed = ", ".join(sql.text(objects.place(location)) for location in locations)
        wanted = sum(200_000 * 199_999 // 2 + 200_000 * number for number in range(12))
        with sql.connect("1GB", "", objects) as connection:
            connection.execute("SET threads = 8")
            objects.attach(connection)  # a second time does no harm
            query = f"SELECT sum(n)::BIGINT, count(DISTINCT word), max(n) FROM read_parquet([{listed}])"  # noqa: S608
            for _ in range(3):
                assert connection.sql(query).fetchall() == [(wanted, 997, 200_010)]
            with connection.cursor() as cursor:
                assert cursor.sql(query).fetchall() == [(wanted, 997, 200_010)]

    def test_a_file_that_went_is_told_as_such(self, objects: ObjectStorage) -> None:
        with sql.connect("1GB", "", objects) as connection:
            query = f"FROM read_parquet(['{objects.root}/gone.parquet'])"
            with pytest.raises(duckdb.Error) as raised:
                connection.sql(query).fetchall()
        assert isinstance(sql.storage_fault(raised.value), FileNotFoundError)


class TestCopies:
    def test_copies_are_bounded_and_readable_after_they_went(
        self, objects: ObjectStorage, tmp_path: Path
    ) -> None:
        copies = LocalCopies(objects, tmp_path / "copies", bytes_max=2_500)
        names = [f"{objects.root}/{number}" for number in range(5)]
        for number, name in enumerate(names):
            objects.write(name, b"%d" % number * 1_000)
        opened = [open(copies.open(name), "rb") for name in names]  # noqa: SIM115, PTH123
        assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) <= 2_500
        for number, file in enumerate(opened):
            with file:
                assert file.read() == b"%d" % number * 1_000
        with pytest.raises(FileNotFoundError):
            copies.fetch([*names, f"{objects.root}/gone"])
        LocalCopies(objects, tmp_path / "copies", bytes_max=2_500)
        assert not (tmp_path / "copies").exists()

    def test_a_file_larger_than_the_cache_is_refused(self, objects: ObjectStorage, tmp_path: Path) -> None:
        objects.write(f"{objects.root}/large", b"x" * 101)
        with pytest.raises(Unavailable, match=r"101 bytes are more than the 100 of storage\.cache_bytes"):
            LocalCopies(objects, tmp_path / "copies", bytes_max=100).open(f"{objects.root}/large")


class TestCredentials:
    def test_a_storage_carries_none(self, objects: ObjectStorage, s3: Any) -> None:
        objects.write(f"{objects.root}/a", b"1")
        pickled = pickle.dumps(objects)
        assert s3.secret_key.encode() not in pickled
        assert s3.access_key.encode() not in pickled
        assert s3.secret_key not in repr(objects)
        again: ObjectStorage = pickle.loads(pickled)  # noqa: S301 - our own
        assert again.read(f"{objects.root}/a") == b"1"

    def test_a_file_of_credentials_is_read_again_when_it_changes(
        self, s3: Any, options: StorageOptions, tmp_path: Path
    ) -> None:
        path = tmp_path / "credentials"

        def written(secret: str) -> None:
            path.write_text(f"[default]\naws_access_key_id={s3.access_key}\naws_secret_access_key={secret}\n")
            path.chmod(0o600)

        written(s3.secret_key)
        storage = ObjectStorage(
            f"s3://{s3.bucket}/{uuid.uuid4().hex}", replace(options, credentials=str(path))
        )
        storage.write(f"{storage.root}/a", b"1")
        written("wrong-one")
        threading.Event().wait(0.3)  # the client asks for credentials every 0.1 s at most
        with pytest.raises(Unavailable, match="the credentials are not good") as told:
            storage.read(f"{storage.root}/a")
        assert "wrong-one" not in str(told.value)
        written(s3.secret_key)
        threading.Event().wait(0.3)
        assert storage.read(f"{storage.root}/a") == b"1"

    @pytest.mark.parametrize(
        ("content", "mode", "said"),
        [
            (None, 0, "No such file"),
            ("[other]\n", 0o600, "has no section"),
            ("[default]\naws_access_key_id=a\naws_secret_access_key=hidden\n", 0o644, "everybody may read"),
        ],
    )
    def test_a_bad_file_is_named(
        self, options: StorageOptions, tmp_path: Path, content: str | None, mode: int, said: str
    ) -> None:
        path = tmp_path / "credentials"
        if content is not None:
            path.write_text(content)
            path.chmod(mode)
        storage = ObjectStorage("s3://some/where", replace(options, credentials=str(path)))
        with pytest.raises(Unavailable, match=said) as told:
            storage.read("s3://some/where/a")
        assert "hidden" not in str(told.value)


class TestChoosing:
    def test_a_url_says_which_storage(self, tmp_path: Path) -> None:
        assert storage_of(str(tmp_path)) == LocalStorage(str(tmp_path))
        assert storage_of(f"file://{tmp_path}/") == LocalStorage(f"file://{tmp_path}")
        assert storage_of("s3://bucket/prefix/") == ObjectStorage("s3://bucket/prefix")

    @pytest.mark.parametrize("url", ["ftp://host/place", "s3://", "s3:///"])
    def test_others_are_refused(self, url: str) -> None:
        with pytest.raises(Invalid, match="opening the storage"):
            storage_of(url).size(url)
