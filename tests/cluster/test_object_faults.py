"""An object store that is slow, busy, broken or out of reach: nothing is lost, nothing is there twice."""

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lake_examples import VISITS, Clock, upto, visits
from profilelake.errors import Unavailable
from profilelake.lake.catalog import Lake
from profilelake.lake.checking import check_tables
from profilelake.lake.object_storage import PART_BYTES, ObjectStorage
from profilelake.lake.reading import attach, damage_told
from profilelake.settings import StorageOptions
from s3_faults import Asked, Fault, FaultyProxy, faulty

PASSING: tuple[Fault, ...] = ("slow_down", "broken", "reset", "cut", "lost", "slow")
LASTING: tuple[Fault, ...] = ("slow_down", "broken", "reset", "hang", "expired", "denied")


@pytest.fixture
def proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    with faulty(s3.endpoint) as running:
        yield running


@pytest.fixture
def patient(proxy: FaultyProxy, s3: Any) -> ObjectStorage:
    """A storage that tries again for long enough."""
    return _storage(proxy, s3, retries_max=6, retry_seconds=30.0, request_seconds=10.0)


@pytest.fixture
def hasty(proxy: FaultyProxy, s3: Any) -> ObjectStorage:
    """A storage that soon gives up."""
    return _storage(proxy, s3, retries_max=1, retry_seconds=1.0, request_seconds=1.0)


def _storage(proxy: FaultyProxy, s3: Any, **options: Any) -> ObjectStorage:
    told = StorageOptions(endpoint=proxy.endpoint, plain_http="allowed", **options)
    return ObjectStorage(f"s3://{s3.bucket}/{uuid.uuid4().hex}", told)


class TestPassingFaults:
    @pytest.mark.parametrize("fault", PASSING)
    @pytest.mark.parametrize("times", [1, 3])
    def test_a_small_file_is_written_once(
        self, proxy: FaultyProxy, patient: ObjectStorage, fault: Fault, times: int
    ) -> None:
        location = f"{patient.root}/small"
        proxy.first(times, fault, "PUT")
        patient.write(location, b"content")
        assert patient.read(location) == b"content"

    @pytest.mark.parametrize("fault", PASSING)
    def test_who_created_a_file_knows_it(
        self, proxy: FaultyProxy, patient: ObjectStorage, fault: Fault
    ) -> None:
        location = f"{patient.root}/lock"
        proxy.first(1, fault, "PUT")
        # At `lost` the repetition is told that the file is there: it is ours nevertheless.
        assert patient.create(location, b"ours")
        proxy.first(1, fault, "PUT")
        assert not patient.create(location, b"theirs")
        assert patient.read(location) == b"ours"

    @pytest.mark.parametrize("fault", PASSING)
    @pytest.mark.parametrize(
        ("method", "part"), [("POST", "uploads"), ("PUT", "partNumber"), ("POST", "uploadId")]
    )
    def test_a_large_file_is_whole(
        self, proxy: FaultyProxy, patient: ObjectStorage, fault: Fault, method: str, part: str
    ) -> None:
        location, content = f"{patient.root}/large", random.Random(1).randbytes(2 * PART_BYTES + 1)
        proxy.first(1, fault, method, part)
        with patient.output(location) as sink:
            sink.write(content)
        assert patient.read(location) == content
        assert [file.location for file in patient.list(patient.root)] == [location]

    @pytest.mark.parametrize("fault", PASSING)
    def test_reading_and_listing_go_on(
        self, proxy: FaultyProxy, patient: ObjectStorage, fault: Fault
    ) -> None:
        for number in range(3):
            patient.write(f"{patient.root}/{number}", b"%d" % number)
        proxy.first(2, fault, "GET")
        assert len(list(patient.list(patient.root))) == 3
        proxy.first(2, fault, "GET")
        assert patient.read(f"{patient.root}/1") == b"1"
        proxy.first(2, fault, "HEAD")
        assert patient.size(f"{patient.root}/2") == 1


class TestLastingFaults:
    @pytest.mark.parametrize("fault", LASTING)
    def test_every_call_ends_in_time_and_says_why(
        self, proxy: FaultyProxy, hasty: ObjectStorage, fault: Fault
    ) -> None:
        location = f"{hasty.root}/a"
        hasty.write(location, b"before")
        proxy.rule = lambda _: fault
        for call in (
            lambda: hasty.read(location),
            lambda: hasty.write(location, b"x"),
            lambda: hasty.create(f"{location}b", b"x"),
            lambda: list(hasty.list(hasty.root)),
            lambda: hasty.input(location),
            lambda: hasty.touch([location]),
        ):
            with pytest.raises(Unavailable) as told:
                call()
            said = {
                "slow_down": "503 SlowDown",
                "broken": "500 InternalError",
                "reset": "broke the connection off",
                "hang": "did not answer in time",
                "expired": "have expired",
                "denied": "do not allow it",
            }[fault]
            assert said in str(told.value), told.value
            assert "secret" not in str(told.value)
        hasty.remove([location])  # never raises
        proxy.rule = lambda _: ""
        assert hasty.read(location) in (b"before", b"x")

    def test_a_hanging_server_ends_by_time_out(self, proxy: FaultyProxy, hasty: ObjectStorage) -> None:
        proxy.rule = lambda _: "hang"
        began = time.monotonic()
        with pytest.raises(Unavailable):
            hasty.read(f"{hasty.root}/a")
        assert time.monotonic() - began < 30  # not the sixty seconds that the server would take

    def test_a_failed_large_upload_leaves_nothing(self, proxy: FaultyProxy, hasty: ObjectStorage) -> None:
        proxy.rule = lambda asked: "broken" if "partNumber=2" in asked.path else ""

        def upload() -> None:
            with hasty.output(f"{hasty.root}/large") as sink:
                sink.write(b"x" * (2 * PART_BYTES))

        with pytest.raises(Unavailable):
            upload()
        proxy.rule = lambda _: ""
        assert list(hasty.list(hasty.root)) == []

    def test_a_query_says_what_a_call_says(
        self, proxy: FaultyProxy, hasty: ObjectStorage, tmp_path: Path
    ) -> None:
        lake = _lake(hasty, tmp_path)
        lake.table("w", VISITS).append(visits(0, 20_000), upto(1))  # more than the end of a file that is held
        with duckdb.connect() as connection:
            attach(connection, lake, "w")
            proxy.rule = lambda _: "slow_down"
            with pytest.raises(Unavailable, match="503 SlowDown"), damage_told():
                connection.sql("SELECT count(email) FROM visits").fetchall()
            proxy.rule = lambda _: ""
            assert connection.sql("SELECT count(email) FROM visits").fetchall() == [(20_000,)]


class TestTables:
    @pytest.mark.parametrize("seed", range(3))
    def test_rows_are_there_once_whatever_happens(
        self, proxy: FaultyProxy, hasty: ObjectStorage, tmp_path: Path, seed: int
    ) -> None:
        """A committer that retries as the pipeline does, on a store that fails a fifth of all requests."""
        rng = random.Random(seed)
        faults: tuple[Fault, ...] = ("slow_down", "broken", "reset", "cut", "lost", "denied")

        def rule(asked: Asked) -> Fault:
            return rng.choice(faults) if rng.random() < 0.2 else ""

        lake = _lake(hasty, tmp_path)
        table = lake.table("w", VISITS)
        proxy.rule = rule
        refused = 0
        for number in range(8):
            while table.progress() is None or table.progress() != upto(number + 1):
                try:
                    table.append(visits(number * 5, 5), upto(number + 1))
                except Unavailable:
                    refused += 1
                    assert refused < 200
                    while True:
                        try:
                            table.refresh()
                            break
                        except Unavailable:
                            refused += 1
        proxy.rule = lambda _: ""
        table = _lake(hasty, tmp_path).table("w", VISITS)
        assert sorted(table.scan(["visit_id"]).column(0).to_pylist()) == sorted(f"v{n}" for n in range(40))
        table.compact(None)
        table.expire()
        table.sweep(min_age_seconds=0, dry_run=False)
        with duckdb.connect() as connection:
            assert list(check_tables(lake, "w", connection, quick=False)) == []
        assert table.unreachable() == []

    def test_the_sweep_of_a_slow_listing_takes_nothing_that_is_needed(
        self, proxy: FaultyProxy, patient: ObjectStorage, tmp_path: Path
    ) -> None:
        lake = _lake(patient, tmp_path)
        table = lake.table("w", VISITS)
        for number in range(3):
            table.append(visits(number, 1), upto(number + 1))
        proxy.rule = lambda asked: "slow" if "list-type" in asked.path else ""
        table.sweep(min_age_seconds=0, dry_run=False)
        assert table.scan().num_rows == 3


def _lake(storage: ObjectStorage, folder: Path) -> Lake:
    return Lake.open(f"sqlite:///{folder}/catalog.db", storage.root, storage=storage.options, clock=Clock())


def test_an_empty_object_is_read_where_no_range_of_it_can_be_had(
    proxy: FaultyProxy, patient: ObjectStorage
) -> None:
    location = f"{patient.root}/empty"
    patient.write(location, b"")
    proxy.rule = lambda asked: "no_range" if asked.method == "GET" else ""
    with patient.input(location) as source:
        assert (source.size(), source.read()) == (0, b"")
    patient.write(location, b"some")
    with pytest.raises(Unavailable, match="416 InvalidRange"):
        patient.input(location)
