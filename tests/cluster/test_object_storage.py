"""What a storage promises, held by an object store, and what is said of one alone."""

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

from profilelake.errors import Unavailable
from profilelake.lake import object_reading, sql
from profilelake.lake.object_storage import ObjectStorage
from profilelake.lake.storage import Storage
from profilelake.settings import StorageOptions
from storage_laws import TestKeeping, TestWriting

__all__ = ["TestKeeping", "TestWriting"]


@pytest.fixture
def options(s3: Any, monkeypatch: pytest.MonkeyPatch) -> StorageOptions:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    return StorageOptions(endpoint=s3.endpoint, plain_http="allowed", retries_max=2, retry_seconds=2.0)


@pytest.fixture
def objects(s3: Any, options: StorageOptions) -> ObjectStorage:
    return ObjectStorage(f"s3://{s3.bucket}/{uuid.uuid4().hex}", options)


@pytest.fixture
def storage(objects: ObjectStorage) -> Storage:
    return objects


class TestReading:
    def test_pieces_are_those_of_the_file(self, objects: ObjectStorage) -> None:
        content = np.random.default_rng(1).bytes(3 * object_reading.TAIL_BYTES)
        location = f"{objects.root}/pieces"
        objects.write(location, content)
        store = objects.located(location)

        @settings(max_examples=50)
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
            query = f"SELECT sum(n)::BIGINT, count(DISTINCT word), max(n) FROM read_parquet([{listed}])"
            for _ in range(3):
                assert connection.sql(query).fetchall() == [(wanted, 997, 200_010)]
            with connection.cursor() as cursor:
                assert cursor.sql(query).fetchall() == [(wanted, 997, 200_010)]

    def test_ends_of_files_are_fetched_ahead_within_bounds(
        self, objects: ObjectStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(object_reading, "AHEAD_MAX", 4)
        monkeypatch.setattr(object_reading, "TAILS_BYTES_MAX", 8_000)
        locations = []
        for number in range(30):
            locations.append(f"{objects.root}/{number}.parquet")
            with objects.output(locations[-1]) as sink:
                pq.write_table(pa.table({"n": [number] * 1_000}), sink)
        listed = ", ".join(sql.text(objects.place(location)) for location in locations)
        query = f"SELECT sum(n)::BIGINT FROM read_parquet([{listed}])"
        with sql.connect("1GB", "", objects) as connection:
            for _ in range(3):
                assert connection.sql(query).fetchall() == [(1_000 * sum(range(30)),)]

    def test_a_file_that_went_is_told_as_such(self, objects: ObjectStorage) -> None:
        with sql.connect("1GB", "", objects) as connection:
            query = f"FROM read_parquet(['{objects.root}/gone.parquet'])"
            with pytest.raises(duckdb.Error) as raised:
                connection.sql(query).fetchall()
        assert isinstance(sql.storage_fault(raised.value), FileNotFoundError)


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
